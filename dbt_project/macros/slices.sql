{#- Building a large table slice by slice of its keys, on the embedded engine.

    A join keeps one of its sides in memory, and that engine cannot put it on disk. A model that
    joins whole tables asks for the rows `of_slice`; where the table is too large, its slices are
    joined one after the other, gathered in a place that goes when the process ends, and become the
    table in one commit. Elsewhere, and in an incremental run, there is one slice. -#}

{#- A condition on the key that every row of the relation meets in one slice. -#}
{% macro of_slice(key, relation) -%}
    {#- A unit test's rows are no relation that can be counted. -#}
    {%- if not execute or env_var("LAKE_ENGINE", "") != "embedded" or relation.is_cte -%}
        {{ return("true") }}
    {%- endif -%}
    {%- set rows = run_query("select count(*) from " ~ relation).columns[0].values()[0] | int -%}
    {%- set slices = (rows + var("rows_a_slice") | int - 1) // var("rows_a_slice") | int -%}
    {{ return("abs(" ~ key ~ " % 1) = 0 /* 1 slice of " ~ slices ~ " */" if slices > 1 else "true") }}
{%- endmacro %}

{% macro spark__create_table_as(temporary, relation, compiled_code, language="sql") -%}
    {%- set found = modules.re.search("% 1[)] = 0 /[*] 1 slice of ([0-9]+) [*]/", compiled_code) -%}
    {%- if temporary or not found -%}
    {{ dbt.spark__create_table_as(temporary, relation, compiled_code, language) }}
    {%- else -%}
    {%- set gathered = "scratch." ~ relation.identifier -%}
    {%- set slices = found.group(1) | int -%}
    {%- do run_query(
        "create schema if not exists scratch location '" ~ env_var("LAKE_SCRATCH") ~ "'"
    ) -%}
    {%- for slice in range(slices) -%}
        {%- call statement("slice_" ~ slice) -%}
            {{ "create or replace table " ~ gathered ~ " using delta as" if slice == 0
               else "insert into " ~ gathered }}
            {{ compiled_code | replace(found.group(0), "% " ~ slices ~ ") = " ~ slice) }}
        {%- endcall -%}
    {%- endfor -%}
    {{ dbt.spark__create_table_as(
        temporary, relation, "select * from " ~ gathered, language
    ) }}
    {%- endif -%}
{%- endmacro %}

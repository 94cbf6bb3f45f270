{#- The tables of a schema. The docs take columns and their types from what the listing says of each
    table; Spark's says nothing of a Delta table's columns, so there they are asked for, one table
    after the other, when the docs are written and at no other time. -#}
{% macro spark__list_relations_without_caching(relation) -%}
    {%- set listed = dbt.spark__list_relations_without_caching(relation) -%}
    {%- if flags.WHICH != "generate" or env_var("LAKE_ENGINE", "") != "remote" -%}
        {{ return(listed) }}
    {%- endif -%}
    {%- set described = [] -%}
    {%- for schema, name, is_temporary, information in listed -%}
        {%- set columns = [] -%}
        {%- if " |-- " not in information -%}
            {%- set rows = run_query("describe table " ~ schema ~ "." ~ name).rows -%}
            {#- What partitions a table is told once more below its columns. -#}
            {%- for row in rows if row[0] and row[0] not in columns | map("first") -%}
                {%- do columns.append((row[0], row[1])) if not row[0].startswith("#") -%}
            {%- endfor -%}
        {%- endif -%}
        {%- set lines = [information ~ "Schema: root"] -%}
        {%- for column, type in columns -%}
            {%- do lines.append(" |-- " ~ column ~ ": " ~ type ~ " (nullable = true)") -%}
        {%- endfor -%}
        {%- do described.append((schema, name, is_temporary, lines | join("\n"))) -%}
    {%- endfor -%}
    {{ return(described) }}
{%- endmacro %}

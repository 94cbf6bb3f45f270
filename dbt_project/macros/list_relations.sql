{#- The tables of a schema. The docs take columns and their types from what the listing says of each
    table; Spark's leaves them out for many a Delta table, so there they are asked for, one table
    after the other, when the docs are written and at no other time. -#}
{% macro spark__list_relations_without_caching(relation) -%}
    {%- set listed = dbt.spark__list_relations_without_caching(relation) -%}
    {%- if flags.WHICH != "generate" or env_var("LAKE_ENGINE", "") != "remote" -%}
        {{ return(listed) }}
    {%- endif -%}
    {%- set described = [] -%}
    {%- for schema, name, is_temporary, information in listed -%}
        {%- set lines, seen = [information.split("Schema: ")[0] ~ "Schema: root"], [] -%}
        {#- What partitions a table is told once more below its columns. -#}
        {#- A view that an earlier command of this session left lies in no schema. -#}
        {%- for row in run_query("describe table " ~ (schema ~ "." ~ name).lstrip(".")).rows
            if row[0] and row[0] not in seen and not row[0].startswith("#") -%}
            {%- do seen.append(row[0]) -%}
            {%- do lines.append(" |-- " ~ row[0] ~ ": " ~ row[1] ~ " (nullable = true)") -%}
        {%- endfor -%}
        {%- do described.append((schema, name, is_temporary, lines | join("\n"))) -%}
    {%- endfor -%}
    {{ return(described) }}
{%- endmacro %}

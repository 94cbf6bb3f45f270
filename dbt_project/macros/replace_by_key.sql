{#- How new versions of rows get into an incremental table.

    Spark and Databricks: the adapter's MERGE. The embedded engine's MERGE reads and joins every
    column of the whole table whatever the source; there, the keys that have a newer version are
    deleted first, which reads the key alone and writes deletion vectors, and the new rows are
    appended. A process killed between the two leaves those rows out, and the next run, which
    measures what is new by what the table holds, puts them in. -#}
{% macro spark__get_merge_sql(target, source, unique_key, dest_columns, incremental_predicates) -%}
    {%- if env_var("LAKE_ENGINE", "") == "embedded" -%}
    {{ embedded__get_merge_sql(target, source, unique_key) }}
    {%- else -%}
    {{ dbt.spark__get_merge_sql(
        target, source, unique_key, dest_columns, incremental_predicates
    ) }}
    {%- endif -%}
{%- endmacro %}

{% macro embedded__get_merge_sql(target, source, unique_key) -%}
    {%- set keys = [unique_key] if unique_key is string else unique_key -%}
    {#- The limit tells the engine that the source is the side to keep in memory. -#}
    {%- call statement("delete_older_versions") -%}
        merge into {{ target }} as held
        using (
            select {{ keys | join(", ") }} from {{ source }} limit 1000000000
        ) as newer
            on {% for key in keys -%}
                held.{{ key }} = newer.{{ key }}{{ " and " if not loop.last }}
            {%- endfor %}
        when matched then delete
    {%- endcall -%}
    {%- set columns = adapter.get_columns_in_relation(target) | map(attribute="quoted") | join(", ") -%}
    insert into table {{ target }} select {{ columns }} from {{ source }}
{%- endmacro %}

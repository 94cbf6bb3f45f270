{#- Makes bronze known to a catalog that does not know the lake: once, before the first build.

        dbt run-operation register_bronze --target databricks --args '{lake: s3://bucket/prefix}'

    Each table stays where Python writes it, {lake}/bronze/{table}; dropping it from the catalog
    leaves its files. The embedded engine and Spark get theirs from the plugin. -#}
{% macro register_bronze(lake) -%}
    {{ adapter.dispatch("register_bronze", "pinterest")(lake) }}
{%- endmacro %}

{% macro default__register_bronze(lake) -%}
    {%- do exceptions.raise_compiler_error(
        "register_bronze is for the databricks target; on '" ~ target.name
        ~ "' dbt finds bronze in LAKE_URI by itself"
    ) -%}
{%- endmacro %}

{% macro databricks__register_bronze(lake) -%}
    {%- for source in graph.sources.values() if source.source_name == "bronze" -%}
        {%- set relation = api.Relation.create(source.database, source.schema, source.identifier) -%}
        {%- if loop.first -%}{%- do adapter.create_schema(relation) -%}{%- endif -%}
        {%- set location = lake.rstrip("/") ~ "/" ~ source.schema ~ "/" ~ source.identifier -%}
        {%- do run_query(
            "create table if not exists " ~ relation ~ " using delta location '" ~ location ~ "'"
        ) -%}
        {%- do log(relation ~ " is " ~ location, info=true) -%}
    {%- endfor -%}
{%- endmacro %}

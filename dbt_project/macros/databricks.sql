{#- What a SQL warehouse does in its own way. dbt takes a macro of the project before any of an
    adapter, so what the project says for Spark would hold here as well. -#}

{#- Unity Catalog decides where managed tables lie. -#}
{% macro databricks__create_schema(relation) -%}
    {{ dbt.spark__create_schema(relation) }}
{%- endmacro %}

{% macro databricks__get_merge_sql(
    target, source, unique_key, dest_columns, incremental_predicates
) -%}
    {{ dbt.databricks__get_merge_sql(
        target, source, unique_key, dest_columns, incremental_predicates
    ) }}
{%- endmacro %}

{% macro databricks__create_table_as(temporary, relation, compiled_code, language="sql") -%}
    {{ dbt.databricks__create_table_as(temporary, relation, compiled_code, language) }}
{%- endmacro %}

{% macro databricks__list_relations_without_caching(relation) -%}
    {{ return(dbt.databricks__list_relations_without_caching(relation)) }}
{%- endmacro %}

{% macro databricks__options_clause(catalog_relation=none) -%}
    {{ dbt.databricks__options_clause(catalog_relation) }}
{%- endmacro %}

{% macro databricks__process_schema_changes(on_schema_change, source_relation, target_relation) -%}
    {{ return(dbt.default__process_schema_changes(
        on_schema_change, source_relation, target_relation
    )) }}
{%- endmacro %}

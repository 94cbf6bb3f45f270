{#- What happens when a model's columns change, on the embedded engine. Spark and Databricks need
    none of it: their `create or replace table` replaces columns too, and they can alter a table. -#}

{#- That engine's `create or replace table` keeps the old columns unless this option is given. The
    table's history stays. -#}
{% macro spark__options_clause() -%}
    {%- if env_var("LAKE_ENGINE", "") != "embedded" or config.get("file_format") != "delta" -%}
    {{ dbt.spark__options_clause() }}
    {%- else -%}
    {%- set options = {"overwriteSchema": "true"} -%}
    {%- do options.update(config.get("options") or {}) -%}
    options (
        {%- for name, value in options.items() -%}
        '{{ name }}' '{{ value }}'{{ ", " if not loop.last }}
        {%- endfor -%}
    )
    {%- endif -%}
{%- endmacro %}

{#- The columns of an existing incremental table can only be changed by building it again: the
    engine cannot alter a table. This is checked before any row is written. -#}
{% macro spark__process_schema_changes(on_schema_change, source_relation, target_relation) -%}
    {%- if env_var("LAKE_ENGINE", "") == "embedded" and on_schema_change != "fail" -%}
        {%- set changes = check_for_schema_changes(source_relation, target_relation) -%}
        {%- set missing = changes["target_not_in_source"] | map(attribute="name") | list -%}
        {%- set added = changes["source_not_in_target"] | map(attribute="name") | list -%}
        {%- set retyped = [] -%}
        {%- if on_schema_change == "sync_all_columns" -%}
            {%- do retyped.extend(changes["new_target_types"] | map(attribute="column_name")) -%}
        {%- endif -%}
        {%- set remedy = "'dbt run --full-refresh --select " ~ model.name ~ "'" -%}
        {%- if added and on_schema_change == "ignore" -%}
            {%- do exceptions.warn(
                target_relation ~ " goes on without new columns of its model (" ~ added | join(", ")
                ~ "); " ~ remedy ~ " adds them"
            ) -%}
            {%- set added = [] -%}
        {%- endif -%}
        {%- set differences = [] -%}
        {%- for where, names in [
            ("only in the table", missing), ("only in the model", added), ("of another type", retyped)
        ] if names -%}
            {%- do differences.append(where ~ ": " ~ names | join(", ")) -%}
        {%- endfor -%}
        {%- if differences -%}
            {%- do exceptions.raise_compiler_error(
                "the columns of " ~ target_relation ~ " are not those of its model ("
                ~ differences | join("; ") ~ "), and the embedded engine cannot alter a table; "
                ~ "build it again with " ~ remedy
            ) -%}
        {%- endif -%}
        {{ return(changes["source_columns"] if on_schema_change != "ignore" else {}) }}
    {%- endif -%}
    {{ return(dbt.default__process_schema_changes(
        on_schema_change, source_relation, target_relation
    )) }}
{%- endmacro %}

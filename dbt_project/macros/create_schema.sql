{#- Schemas lie in the lake under their names, so that tables do too: {lake}/{schema}/{table}.
    The plugin sets the lake's absolute address. -#}
{% macro spark__create_schema(relation) -%}
    {%- call statement("create_schema") -%}
        create schema if not exists {{ relation.without_identifier() }}
        location '{{ env_var("LAKE_LOCATION") }}/{{ relation.schema }}'
    {%- endcall -%}
{%- endmacro %}

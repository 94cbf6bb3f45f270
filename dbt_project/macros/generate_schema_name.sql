{#- Schemas are named as the models say, the same for everyone; the variable `developer` puts a
    name before them, for a developer who shares a lake. -#}
{% macro generate_schema_name(custom_schema_name, node) -%}
    {%- set schema = (custom_schema_name or target.schema) | trim -%}
    {%- set developer = var("developer", "") -%}
    {{- developer ~ "_" ~ schema if developer else schema -}}
{%- endmacro %}

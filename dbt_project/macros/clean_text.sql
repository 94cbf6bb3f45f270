{#- Text without white space at either end ([\s\p{Z}]), NULL where nothing is left or where it is
    one of the `no_data` texts. A list of characters is four times as fast as the regular
    expression. -#}
{% macro clean_text(column, no_data=[]) -%}
    {%- set trimmed = trim_text(column) -%}
    case
        when {{ trimmed }} in (''
            {%- for text in no_data %}, '{{ text }}'{% endfor -%}
        ) then null
        else {{ trimmed }}
    end
{%- endmacro %}

{#- The engine gets the characters themselves but for three, whose escapes every engine documents:
    Databricks' manual knows no escape by code. -#}
{% macro trim_text(column) -%}
    {%- set spaces = " \\t\\n\\r\u000b\u000c\u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005"
        ~ "\u2006\u2007\u2008\u2009\u200a\u2028\u2029\u202f\u205f\u3000" -%}
    btrim({{ column }}, '{{ spaces }}')
{%- endmacro %}

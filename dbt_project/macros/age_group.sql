{#- The group of an age; NULL where it is unknown or under 18. -#}
{% macro age_group(age) -%}
    case
        when {{ age }} between 18 and 24 then '18-24'
        when {{ age }} between 25 and 35 then '25-35'
        when {{ age }} between 36 and 50 then '36-50'
        when {{ age }} >= 51 then '50+'
    end
{%- endmacro %}

{#- No two rows share the values of the columns: the test of a grain of several columns. -#}
{% test unique_rows(model, columns) %}
select {{ columns | join(", ") }}
from {{ model }}
group by {{ columns | join(", ") }}
having count(*) > 1
{% endtest %}

{#- Known values lie between two bounds, both inclusive; the upper one may be left out. -#}
{% test in_range(model, column_name, at_least, at_most=none) %}
select {{ column_name }}
from {{ model }}
where
    {{ column_name }} < {{ at_least }}
    {%- if at_most is not none %}
    or {{ column_name }} > {{ at_most }}
    {%- endif %}
{% endtest %}

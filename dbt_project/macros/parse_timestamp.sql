{#- The three encodings of a time in use, as a timestamp; NULL for anything else and for dates that
    do not exist. A text without an offset is given one, so that no session's time zone counts. -#}
{% macro parse_timestamp(column) -%}
    {%- set time = "[0-9]{2}:[0-9]{2}:[0-9]{2}" -%}
    {%- set date_and_time = "^[0-9]{4}-[0-9]{2}-[0-9]{2}[ T]" ~ time ~ "(\\\\.[0-9]{1,6})?" -%}
    case
        when {{ column }} rlike '{{ date_and_time }}$'
            then {{ existing_time("concat(" ~ column ~ ", 'Z')") }}
        when {{ column }} rlike '{{ date_and_time }}(Z|[+-][0-9]{2}:[0-9]{2})$'
            then {{ existing_time(column) }}
        when {{ column }} rlike '^[0-9]{4}:[0-9]{2}:[0-9]{2} {{ time }}$'
            then {{ existing_time(
                "concat(replace(left(" ~ column ~ ", 10), ':', '-'), substring(" ~ column ~ ", 11), 'Z')"
            ) }}
    end
{%- endmacro %}

{#- Years 1 to 9999: the range that every client of a table can show. -#}
{% macro existing_time(text) -%}
    {%- set value = "try_cast(" ~ text ~ " as timestamp)" -%}
    case
        when unix_micros({{ value }}) between -62135596800000000 and 253402300799999999 then {{ value }}
    end
{%- endmacro %}

{#- The year of a timestamp in UTC, whatever the session's time zone. Days are counted from year 1,
    where division that cuts off and division that rounds down are one, and without a double, which
    would take a far year's last moment for the next year's. -#}
{% macro utc_year(column) -%}
    year(date_from_unix_date(cast(
        (unix_micros({{ column }}) + 62135596800000000) div 86400000000 - 719162 as int
    )))
{%- endmacro %}

{#- A count such as 124k, 1.5M or 37 as a number, exactly, fractions cut off; NULL for anything
    else and for what no bigint holds. -#}
{% macro parse_follower_count(column) -%}
    case
        when {{ column }} rlike '^[0-9]{1,12}(\\.[0-9]{1,6})?[kKmMbB]?$' then try_cast(
            try_cast(btrim({{ column }}, 'kKmMbB') as decimal(18, 6))
            * cast(
                case lower(right({{ column }}, 1))
                    when 'k' then 1000
                    when 'm' then 1000000
                    when 'b' then 1000000000
                    else 1
                end as decimal(10, 0)
            ) as bigint
        )
    end
{%- endmacro %}

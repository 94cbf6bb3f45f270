-- The bounds of a group are read from its name.
with

ages as (
    {% for model in ["int_posts", "int_users"] %}
    select
        '{{ model }}' as people_or_posts,
        age,
        age_group
    from {{ ref(model) }}
    group by age, age_group
    {% if not loop.last -%} union all {%- endif %}
    {% endfor %}
),

bounds as (
    select
        people_or_posts,
        age,
        age_group,
        cast(left(age_group, 2) as int) as lower_bound,
        coalesce(try_cast(right(age_group, 2) as int), 9223372036854775807) as upper_bound
    from ages
)

select *
from bounds
where
    (age_group is null and age >= 18)
    or (age_group is not null and (age is null or age < lower_bound or age > upper_bound))
    or (age_group = '50+' and age = 50)

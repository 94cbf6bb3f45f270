-- What no other one of its group exceeds is in the answer, however many others equal it.
{% for group in ["country", "post_year", "age_group"] %}
{%- set answer = ref("popular_category_by_" ~ group | replace("post_", "")) %}
select
    cast(counts.{{ group }} as string) as answered_group,
    counts.category as missing
from (
    select
        {{ group }},
        category,
        count(*) as posts
    from {{ ref("int_posts") }}
    where
        category is not null
        and {{ group }} is not null
        {%- if group == "post_year" %}
        and post_year between 2018 and 2022
        {%- endif %}
    group by {{ group }}, category
) as counts
left join (
    select {{ group }}, max(category_count) as posts
    from {{ answer }}
    group by {{ group }}
) as best
    on counts.{{ group }} = best.{{ group }}
left join {{ answer }} as winners
    on counts.{{ group }} = winners.{{ group }} and counts.category = winners.category
where winners.category is null and (best.posts is null or counts.posts >= best.posts)
union all
{% endfor %}
select
    posts.country as answered_group,
    posts.poster_name as missing
from {{ ref("int_posts") }} as posts
left join (
    select country, max(follower_count) as follower_count
    from {{ ref("top_user_by_country") }}
    group by country
) as best
    on posts.country = best.country
left join {{ ref("top_user_by_country") }} as winners
    on posts.country = winners.country and posts.poster_name = winners.poster_name
where
    posts.country is not null
    and posts.poster_name is not null
    and winners.poster_name is null
    and (
        best.follower_count is null and posts.follower_count is not null
        or posts.follower_count >= best.follower_count
    )
union all
select
    candidates.country as answered_group,
    candidates.poster_name as missing
from {{ ref("top_user_by_country") }} as candidates
cross join (
    select max(follower_count) as follower_count
    from {{ ref("top_user_by_country") }}
) as best
left join {{ ref("country_of_top_user") }} as winners
    on
        candidates.country = winners.country
        and candidates.poster_name = winners.poster_name
where candidates.follower_count = best.follower_count and winners.country is null

-- The count beside a winner is the winner's: not the group's highest beside another name.
{% for group in ["country", "post_year", "age_group"] %}
{%- set answer = ref("popular_category_by_" ~ group | replace("post_", "")) %}
select
    cast(winners.{{ group }} as string) as answered_group,
    winners.category as winner,
    max(winners.category_count) as shown,
    count(posts.category) as counted
from {{ answer }} as winners
left join {{ ref("int_posts") }} as posts
    on winners.{{ group }} = posts.{{ group }} and winners.category = posts.category
group by winners.{{ group }}, winners.category
having max(winners.category_count) <> count(posts.category)
union all
{% endfor %}
select
    winners.country as answered_group,
    winners.poster_name as winner,
    max(winners.follower_count) as shown,
    max(posts.follower_count) as counted
from {{ ref("top_user_by_country") }} as winners
left join {{ ref("int_posts") }} as posts
    on winners.country = posts.country and winners.poster_name = posts.poster_name
group by winners.country, winners.poster_name
having
    max(posts.follower_count) is null
    or max(winners.follower_count) <> max(posts.follower_count)

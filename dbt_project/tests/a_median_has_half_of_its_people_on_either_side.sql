-- At least half of a group's people have no more followers than its median, at least half no fewer,
-- and the people are as many as the answer says.
{% set questions = {
    "median_followers_by_age_group": ["age_group"],
    "median_followers_by_join_year": ["join_year"],
    "median_followers_by_join_year_and_age_group": ["join_year", "age_group"],
} %}
{% for answer, groups in questions.items() %}
select
    '{{ answer }}' as answer,
    count(people.follower_count) as people,
    max(answer.number_users) as people_shown,
    max(answer.median_follower_count) as median_follower_count
from {{ ref(answer) }} as answer
left join {{ ref("int_users") }} as people
    on
        people.follower_count is not null
        {%- for group in groups %}
        and answer.{{ group }} = people.{{ group }}
        {%- endfor %}
group by {{ "answer." ~ groups | join(", answer.") }}
having
    count(people.follower_count) <> max(answer.number_users)
    or 2 * sum(case when people.follower_count <= answer.median_follower_count then 1 else 0 end)
    < count(people.follower_count)
    or 2 * sum(case when people.follower_count >= answer.median_follower_count then 1 else 0 end)
    < count(people.follower_count)
{% if not loop.last -%} union all {%- endif %}
{% endfor %}

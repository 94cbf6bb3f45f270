-- As many people joined in a year as there are names with a moment of joining in it: not as many as
-- names, nor as posts.
with

people as (
    select
        user_name,
        date_joined
    from {{ ref("stg_user") }}
    where user_name is not null and date_joined is not null
    group by user_name, date_joined
),

joined as (
    select
        case
            {%- for year in range(2015, 2021) %}
            when
                date_joined >= timestamp '{{ year }}-01-01 00:00:00Z'
                and date_joined < timestamp '{{ year + 1 }}-01-01 00:00:00Z'
                then {{ year }}
            {%- endfor %}
        end as utc_year,
        count(*) as people
    from people
    group by utc_year
)

select
    joined.utc_year,
    joined.people,
    answer.join_year,
    answer.number_users_joined
from joined
full outer join {{ ref("users_joined_by_year") }} as answer
    on joined.utc_year = answer.join_year
where
    (joined.utc_year is not null and answer.join_year is null)
    or (joined.utc_year is null and answer.join_year is not null)
    or joined.people <> answer.number_users_joined

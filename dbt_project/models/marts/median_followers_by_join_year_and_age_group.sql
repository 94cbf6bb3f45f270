with

people as (
    select join_year, age_group, follower_count
    from {{ ref("int_users") }}
    where
        join_year between 2015 and 2020
        and age_group is not null
        and follower_count is not null
),

final as (
    select
        join_year,
        age_group,
        percentile(follower_count, 0.5) as median_follower_count,
        count(*) as number_users
    from people
    group by join_year, age_group
)

select * from final

with

people as (
    select age_group, follower_count
    from {{ ref("int_users") }}
    where
        age_group is not null
        and follower_count is not null
),

final as (
    select
        age_group,
        percentile(follower_count, 0.5) as median_follower_count,
        count(*) as number_users
    from people
    group by age_group
)

select * from final

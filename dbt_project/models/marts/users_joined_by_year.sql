with

people as (
    select join_year
    from {{ ref("int_users") }}
    where join_year between 2015 and 2020
),

final as (
    select join_year, count(*) as number_users_joined
    from people
    group by join_year
)

select * from final

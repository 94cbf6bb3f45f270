with

top_users as (
    select country, poster_name, follower_count from {{ ref("top_user_by_country") }}
),

ranked as (
    select
        country,
        poster_name,
        follower_count,
        rank() over (order by follower_count desc) as place
    from top_users
),

final as (
    select country, poster_name, follower_count
    from ranked
    where place = 1
)

select * from final

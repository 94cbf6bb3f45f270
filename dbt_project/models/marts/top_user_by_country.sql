with

posts as (
    select country, poster_name, follower_count
    from {{ ref("int_posts") }}
    where country is not null and poster_name is not null and follower_count is not null
),

posters as (
    select country, poster_name, max(follower_count) as follower_count
    from posts
    group by country, poster_name
),

ranked as (
    select
        country,
        poster_name,
        follower_count,
        rank() over (partition by country order by follower_count desc) as place
    from posters
),

final as (
    select country, poster_name, follower_count
    from ranked
    where place = 1
)

select * from final

with

posts as (
    select country, poster_name, follower_count
    from {{ ref("int_posts") }}
    where country is not null and poster_name is not null and follower_count is not null
),

-- One row a country: the side of the join that an engine keeps in memory.
highest as (
    select country, max(follower_count) as follower_count
    from posts
    group by country
),

final as (
    select distinct posts.country, posts.poster_name, posts.follower_count
    from highest
    inner join posts
        on highest.country = posts.country and highest.follower_count = posts.follower_count
)

select * from final

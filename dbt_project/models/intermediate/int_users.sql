with

posts as (
    select user_name, date_joined, age, follower_count from {{ ref("int_posts") }}
),

people as (
    select
        user_name,
        date_joined,
        max(age) as age,
        max(follower_count) as follower_count,
        count(*) as posts
    from posts
    where user_name is not null and date_joined is not null
    group by user_name, date_joined
),

final as (
    select
        user_name,
        date_joined,
        {{ utc_year("date_joined") }} as join_year,
        age,
        {{ age_group("age") }} as age_group,
        follower_count,
        posts
    from people
)

select * from final

with

posts as (
    select post_year, category
    from {{ ref("int_posts") }}
    where post_year between 2018 and 2022 and category is not null
),

counts as (
    select post_year, category, count(*) as category_count
    from posts
    group by post_year, category
),

ranked as (
    select
        post_year,
        category,
        category_count,
        rank() over (partition by post_year order by category_count desc) as place,
        sum(category_count) over (partition by post_year) as posts
    from counts
),

final as (
    select
        post_year,
        category,
        category_count,
        posts
    from ranked
    where place = 1
)

select * from final

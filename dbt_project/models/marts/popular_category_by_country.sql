with

posts as (
    select country, category
    from {{ ref("int_posts") }}
    where country is not null and category is not null
),

counts as (
    select country, category, count(*) as category_count
    from posts
    group by country, category
),

ranked as (
    select
        country,
        category,
        category_count,
        rank() over (partition by country order by category_count desc) as place,
        sum(category_count) over (partition by country) as posts
    from counts
),

final as (
    select
        country,
        category,
        category_count,
        posts
    from ranked
    where place = 1
)

select * from final

with

posts as (
    select age_group, category
    from {{ ref("int_posts") }}
    where age_group is not null and category is not null
),

counts as (
    select age_group, category, count(*) as category_count
    from posts
    group by age_group, category
),

ranked as (
    select
        age_group,
        category,
        category_count,
        rank() over (partition by age_group order by category_count desc) as place,
        sum(category_count) over (partition by age_group) as posts
    from counts
),

final as (
    select
        age_group,
        category,
        category_count,
        posts
    from ranked
    where place = 1
)

select * from final

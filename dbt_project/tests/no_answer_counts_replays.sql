-- The posts behind each question's groups are the posts whose group and category are known, each
-- once, however often its records were sent.
with

answered as (
    {% for group in ["country", "post_year", "age_group"] %}
    select
        '{{ group }}' as question,
        coalesce(sum(posts), 0) as posts
    from (
        select distinct
            {{ group }},
            posts
        from {{ ref("popular_category_by_" ~ group | replace("post_", "")) }}
    ) as groups
    {% if not loop.last -%} union all {%- endif %}
    {% endfor %}
),

known as (
    select
        'country' as question,
        count(*) as posts
    from {{ ref("stg_pin") }} as pins
    inner join {{ ref("stg_geo") }} as places on pins.ind = places.ind
    where pins.category is not null and places.country is not null
    union all
    select
        'post_year' as question,
        count(*) as posts
    from {{ ref("stg_pin") }} as pins
    inner join {{ ref("stg_geo") }} as places on pins.ind = places.ind
    where
        pins.category is not null
        and places.`timestamp` >= timestamp '2018-01-01 00:00:00Z'
        and places.`timestamp` < timestamp '2023-01-01 00:00:00Z'
    union all
    select
        'age_group' as question,
        count(*) as posts
    from {{ ref("stg_pin") }} as pins
    inner join {{ ref("stg_user") }} as users on pins.ind = users.ind
    where pins.category is not null and users.age >= 18
)

select
    known.question,
    known.posts as known_posts,
    answered.posts as answered_posts
from known
inner join answered on known.question = answered.question
where known.posts <> answered.posts

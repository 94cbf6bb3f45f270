-- A post's year begins and ends with the year in UTC, whatever the session's and the machine's time
-- zone.
with

staged as (
    select
        case
            {%- for year in range(2018, 2023) %}
            when
                `timestamp` >= timestamp '{{ year }}-01-01 00:00:00Z'
                and `timestamp` < timestamp '{{ year + 1 }}-01-01 00:00:00Z'
                then {{ year }}
            {%- endfor %}
        end as utc_year,
        count(*) as posts
    from {{ ref("stg_geo") }}
    group by utc_year
),

posts as (
    select
        post_year,
        count(*) as posts
    from {{ ref("int_posts") }}
    where post_year between 2018 and 2022
    group by post_year
)

select
    staged.utc_year,
    staged.posts as staged_posts,
    posts.post_year,
    posts.posts
from staged
full outer join posts on staged.utc_year = posts.post_year
where
    (staged.utc_year is not null and posts.post_year is null)
    or (staged.utc_year is null and posts.post_year is not null)
    or staged.posts <> posts.posts

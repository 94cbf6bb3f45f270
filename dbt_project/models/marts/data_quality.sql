{%- set kinds = ["pin", "geo", "user"] -%}
with

landed as (
    {%- for kind in kinds %}
    select
        '{{ kind }}' as kind,
        count(*) as landed,
        min(_landed_at) as first_landed_at,
        max(_landed_at) as last_landed_at
    from {{ source("bronze", kind) }}
    {%- if not loop.last %}
    union all{% endif %}
    {%- endfor %}
),

posts as (
    {%- for kind in kinds %}
    select '{{ kind }}' as kind, count(*) as posts from {{ ref("stg_" ~ kind) }}
    {%- if not loop.last %}
    union all{% endif %}
    {%- endfor %}
),

rejected as (
    select kind, sum(rejected) as rejected
    from {{ ref("rejected_by_reason") }}
    group by kind
),

final as (
    select
        landed.kind,
        landed.landed,
        posts.posts,
        landed.landed - posts.posts as replays,
        coalesce(rejected.rejected, 0) as rejected,
        landed.first_landed_at,
        landed.last_landed_at
    from landed
    inner join posts on landed.kind = posts.kind
    left join rejected on landed.kind = rejected.kind
)

select * from final

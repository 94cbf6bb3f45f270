{{ config(materialized="incremental", incremental_strategy="merge", unique_key="ind") }}

with

pins as (
    select ind, category, poster_name, follower_count, _landed_at
    from {{ ref("stg_pin") }}
),

places as (
    select ind, country, `timestamp`, _landed_at
    from {{ ref("stg_geo") }}
),

users as (
    select ind, user_name, age, date_joined, _landed_at
    from {{ ref("stg_user") }}
),
{% if is_incremental() %}
changed as (
    select ind
    from pins
    where {{ of_new_commits(ref("stg_pin"), this, "pin_landed_at") }}
    union
    select ind
    from places
    where {{ of_new_commits(ref("stg_geo"), this, "geo_landed_at") }}
    union
    select ind
    from users
    where {{ of_new_commits(ref("stg_user"), this, "user_landed_at") }}
),

{% endif -%}
{% set changed_only = "ind in (select ind from changed)" -%}
{% set of_this_run = changed_only if is_incremental() else of_slice("ind", ref("stg_pin")) %}
pins_and_places as (
    select
        coalesce(pins.ind, places.ind) as ind,
        pins.category,
        pins.poster_name,
        pins.follower_count,
        pins._landed_at as pin_landed_at,
        places.country,
        places.`timestamp`,
        places._landed_at as geo_landed_at
    from (
        select * from pins
        where {{ of_this_run }}
    ) as pins
    full outer join (
        select * from places
        where {{ of_this_run }}
    ) as places on pins.ind = places.ind
),

posts as (
    select
        coalesce(pins_and_places.ind, users.ind) as ind,
        pins_and_places.category,
        pins_and_places.poster_name,
        pins_and_places.follower_count,
        pins_and_places.pin_landed_at,
        pins_and_places.country,
        pins_and_places.`timestamp`,
        pins_and_places.geo_landed_at,
        users.user_name,
        users.age,
        users.date_joined,
        users._landed_at as user_landed_at
    from pins_and_places
    full outer join (
        select * from users
        where {{ of_this_run }}
    ) as users
        on pins_and_places.ind = users.ind
),

final as (
    select
        ind,
        category,
        poster_name,
        follower_count,
        country,
        {{ utc_year("`timestamp`") }} as post_year,
        user_name,
        date_joined,
        age,
        {{ age_group("age") }} as age_group,
        pin_landed_at,
        geo_landed_at,
        user_landed_at
    from posts
)

select * from final

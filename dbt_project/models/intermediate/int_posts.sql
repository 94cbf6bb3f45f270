with

pins as (
    select ind, category, poster_name, follower_count from {{ ref("stg_pin") }}
),

places as (
    select ind, country, `timestamp` from {{ ref("stg_geo") }}
),

users as (
    select ind, user_name, age, date_joined from {{ ref("stg_user") }}
),

pins_and_places as (
    select
        coalesce(pins.ind, places.ind) as ind,
        pins.category,
        pins.poster_name,
        pins.follower_count,
        places.country,
        places.`timestamp`
    from pins
    full outer join places on pins.ind = places.ind
),

posts as (
    select
        coalesce(pins_and_places.ind, users.ind) as ind,
        pins_and_places.category,
        pins_and_places.poster_name,
        pins_and_places.follower_count,
        pins_and_places.country,
        pins_and_places.`timestamp`,
        users.user_name,
        users.age,
        users.date_joined
    from pins_and_places
    full outer join users on pins_and_places.ind = users.ind
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
        {{ age_group("age") }} as age_group
    from posts
)

select * from final

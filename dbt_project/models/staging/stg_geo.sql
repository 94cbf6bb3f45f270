with

landed as (
    {{ newly_landed(source("bronze", "geo")) }}
),

superseded as (
    {{ superseded("landed") }}
),

latest as (
    {{ latest("landed", "superseded") }}
),

trimmed as (
    select
        ind,
        {{ clean_text("country") }} as country,
        latitude,
        longitude,
        {{ clean_text("`timestamp`") }} as timestamp_text,
        _landed_at
    from latest
),

final as (
    select
        ind,
        country,
        case
            when latitude is not null and longitude is not null then array(latitude, longitude)
        end as coordinates,
        {{ parse_timestamp("timestamp_text") }} as `timestamp`,
        _landed_at
    from trimmed
)

select * from final

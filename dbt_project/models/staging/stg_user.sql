with

landed as (
    {{ newly_landed(source("bronze", "user")) }}
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
        {{ clean_text("first_name") }} as first_name,
        {{ clean_text("last_name") }} as last_name,
        age,
        {{ clean_text("date_joined") }} as joined_text,
        _landed_at
    from latest
),

final as (
    select
        ind,
        case
            when first_name is null then last_name
            when last_name is null then first_name
            else concat(first_name, ' ', last_name)
        end as user_name,
        age,
        {{ parse_timestamp("joined_text") }} as date_joined,
        _landed_at
    from trimmed
)

select * from final

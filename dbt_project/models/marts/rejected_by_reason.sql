with

rejected as (
    select kind, reason, _landed_at from {{ source("bronze", "rejected") }}
),

final as (
    select kind, reason, count(*) as rejected, max(_landed_at) as last_rejected_at
    from rejected
    group by kind, reason
)

select * from final

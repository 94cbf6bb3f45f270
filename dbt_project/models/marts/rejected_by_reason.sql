{%- set kinds = ["pin", "geo", "user"] -%}
with

rejected as (
    select
        kind,
        reason,
        _stream,
        concat(_source, '/', _partition) as origin,
        _position,
        _landed_at
    from {{ source("bronze", "rejected") }}
),

replayed as (
    {%- for kind in kinds %}
    select _stream, _partition as origin, _position
    from {{ source("bronze", kind) }}
    where _source = 'replay'
    {%- if not loop.last %}
    union all{% endif %}
    {%- endfor %}
),

still_rejected as (
    select rejected.*
    from rejected
    left anti join replayed
        on
            rejected._position = replayed._position
            and rejected.origin = replayed.origin
            and rejected._stream = replayed._stream
),

final as (
    select kind, reason, count(*) as rejected, max(_landed_at) as last_rejected_at
    from still_rejected
    group by kind, reason
)

select * from final

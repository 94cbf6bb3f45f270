-- Rows landed are rows in staging and superseded rows, nothing else: a post shows the row that
-- landed last of it. Left out are commits that staging may not have read yet: those it holds
-- nothing of, stamped after the newest it holds or in the minute before, in which commits of two
-- landers can become readable in another order than they are stamped.
{% for kind in ["pin", "geo", "user"] %}
select
    '{{ kind }}' as kind,
    lost.ind,
    lost._landed_at
from (
    select
        landed.ind,
        landed._landed_at
    from {{ source("bronze", kind) }} as landed
    left join {{ ref("stg_" ~ kind) }} as posts on landed.ind = posts.ind
    where posts.ind is null or posts._landed_at < landed._landed_at
) as lost
left join (select distinct _landed_at as stamp from {{ ref("stg_" ~ kind) }}) as held
    on lost._landed_at = held.stamp
cross join (select max(_landed_at) as stamp from {{ ref("stg_" ~ kind) }}) as newest
where
    held.stamp is not null
    or newest.stamp is null
    or lost._landed_at < newest.stamp - interval 1 minute
{% if not loop.last -%} union all {%- endif %}
{% endfor %}

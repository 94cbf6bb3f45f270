-- A post shows each of its staged records, and none that is not staged.
{% for kind in ["pin", "geo", "user"] %}
select
    '{{ kind }}' as kind,
    staged.records as staged_records,
    posts.records as records_in_posts
from (select count(*) as records from {{ ref("stg_" ~ kind) }}) as staged
cross join (select count({{ kind }}_landed_at) as records from {{ ref("int_posts") }}) as posts
where staged.records <> posts.records
{% if not loop.last -%} union all {%- endif %}
{% endfor %}

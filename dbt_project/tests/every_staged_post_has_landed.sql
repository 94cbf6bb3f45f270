-- Staging invents no post.
{% for kind in ["pin", "geo", "user"] %}
select
    '{{ kind }}' as kind,
    posts.ind
from {{ ref("stg_" ~ kind) }} as posts
left anti join {{ source("bronze", kind) }} as landed on posts.ind = landed.ind
{% if not loop.last -%} union all {%- endif %}
{% endfor %}

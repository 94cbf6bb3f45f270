{#- Which commits an incremental table has not read yet.

    All rows of one landing commit carry one stamp and become readable together, so a stamp that a
    table holds was read whole, and one it does not hold is new, however late it became readable.
    (A commit of which nothing was kept looks new too; reading it again changes nothing.) Only
    stamps of the last `lookback_days` before the newest one held are asked for.

    Gives a condition on the source's rows that engines prune files by. -#}
{% macro of_new_commits(relation, held_relation, held_stamp="_landed_at", day_column=none) -%}
    {%- if not execute -%}{{ return("true") }}{%- endif -%}
    {%- set newest = run_query(
        "select unix_micros(max(" ~ held_stamp ~ ")) from " ~ held_relation
    ).columns[0].values()[0] -%}
    {%- if newest is none -%}{{ return("true") }}{%- endif -%}
    {%- set day = 86400000000 -%}
    {%- set since = newest | int - newest | int % day - var("lookback_days") | int * day -%}
    {%- set since_stamp = "timestamp_micros(" ~ since ~ ")" -%}
    {%- set since_day -%}
        {%- if day_column %}{{ day_column }} >= date_from_unix_date({{ since // day }}) and {% endif -%}
    {%- endset -%}
    {%- set rows = run_query(
        "select unix_micros(landed.stamp), held.stamp is null from ("
        ~ "select distinct _landed_at as stamp from " ~ relation
        ~ " where " ~ since_day ~ "_landed_at >= " ~ since_stamp
        ~ ") as landed left join (select distinct " ~ held_stamp ~ " as stamp from " ~ held_relation
        ~ " where " ~ held_stamp ~ " >= " ~ since_stamp
        ~ ") as held on landed.stamp = held.stamp order by 1"
    ).rows -%}
    {%- set new, known = [], [] -%}
    {%- for row in rows -%}
        {%- do (new if row[1] else known).append(row[0] | int) -%}
    {%- endfor -%}
    {%- if not new -%}{{ return("false") }}{%- endif -%}
    {%- set between = [] -%}
    {%- for stamp in known if new[0] < stamp < new[-1] -%}
        {%- do between.append("timestamp_micros(" ~ stamp ~ ")") -%}
    {%- endfor -%}
    {%- set condition -%}
        {%- if day_column %}{{ day_column }} >= date_from_unix_date({{ new[0] // day }}) and {% endif -%}
        _landed_at >= timestamp_micros({{ new[0] }}) and _landed_at <= timestamp_micros({{ new[-1] }})
        {%- if between %} and _landed_at not in ({{ between | join(", ") }}){% endif -%}
    {%- endset -%}
    {{ return(condition) }}
{%- endmacro %}

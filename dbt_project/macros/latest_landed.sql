{#- One row for each key, the latest landed, in three steps that a staging model names as CTEs.

    Sorting every row to rank it is what costs; so only keys that occur more than once are ranked,
    and the rows of theirs that a later one supersedes are left out. -#}

{#- What tells landed rows apart, in the order in which a later one wins. -#}
{% macro landing_order() -%}
    {{ return(["_landed_at", "_position", "_partition", "_stream", "_source"]) }}
{%- endmacro %}

{#- The rows an incremental run has to look at. Records become readable in another order than they
    are stamped, because commits take their time: the run looks back behind the newest record the
    table holds by `lookback_minutes`, and leaves out what the table holds already. -#}
{% macro newly_landed(relation) -%}
    {%- if not is_incremental() -%}
    select * from {{ relation }}
    {%- else -%}
    {%- set since = since_watermark(this) -%}
    select landed.*
    from {{ relation }} as landed
    left join {{ this }} as held on landed.ind = held.ind
    where
        landed._landed_on >= cast('{{ since[:10] }}' as date)
        and landed._landed_at >= cast('{{ since }}Z' as timestamp)
        and (
            held.ind is null
            or {{ is_later("landed", "held") }}
        )
    {%- endif -%}
{%- endmacro %}

{% macro is_later(left, right) -%}
    (
    {%- for column in landing_order() %}
        {% if not loop.first %}or {% endif -%}
        (
            {%- for earlier in landing_order()[:loop.index0] -%}
            {{ left }}.{{ earlier }} = {{ right }}.{{ earlier }} and {% endfor -%}
            {{ left }}.{{ column }} > {{ right }}.{{ column }}
        )
    {%- endfor %}
    )
{%- endmacro %}

{#- Rows of keys that occur more than once, all but the latest of each. -#}
{% macro superseded(landed) -%}
    select ind, {{ landing_order() | join(", ") }}
    from (
        select
            ind,
            {{ landing_order() | join(", ") }},
            row_number() over (
                partition by ind
                order by {% for column in landing_order() -%}
                    {{ column }} desc{{ ", " if not loop.last }}
                {%- endfor %}
            ) as recency
        from {{ landed }}
        where ind in (select ind from {{ landed }} group by ind having count(*) > 1)
    ) as ranked
    where recency > 1
{%- endmacro %}

{% macro latest(landed, superseded) -%}
    select {{ landed }}.*
    from {{ landed }}
    left anti join {{ superseded }}
        on {{ landed }}.ind = {{ superseded }}.ind
        {%- for column in landing_order() %}
        and {{ landed }}.{{ column }} = {{ superseded }}.{{ column }}
        {%- endfor %}
{%- endmacro %}

{#- The newest record a table holds, less the lookback, as UTC text; the epoch for an empty table.
    Asked once before the statement, so that the engine can prune files by it. -#}
{% macro since_watermark(relation) -%}
    {%- if not execute -%}{{ return("1970-01-01 00:00:00") }}{%- endif -%}
    {%- set newest = run_query(
        "select unix_micros(max(_landed_at)) from " ~ relation
    ).columns[0].values()[0] -%}
    {%- if newest is none -%}{{ return("1970-01-01 00:00:00") }}{%- endif -%}
    {%- set since = modules.datetime.datetime(1970, 1, 1)
        + modules.datetime.timedelta(microseconds=newest | int)
        - modules.datetime.timedelta(minutes=var("lookback_minutes") | int) -%}
    {{ return(since.strftime("%Y-%m-%d %H:%M:%S.%f")) }}
{%- endmacro %}

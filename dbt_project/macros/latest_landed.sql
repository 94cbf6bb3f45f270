{#- One row for each key, the latest landed, in three steps that a staging model names as CTEs.

    Sorting every row to rank it is what costs; so only keys that occur more than once are ranked,
    and the rows of theirs that a later one supersedes are left out. -#}

{#- The rows a run has to look at: all of them, or in an incremental run those that may be new.

    Records become readable in another order than they are stamped, because commits take their
    time. So the run looks back behind the newest record the table holds by `lookback_minutes`.
    What it reads is later than anything before that, so the latest of it is the latest of all.
    What the table holds already is left out: rows of one partition with one stamp were committed
    together, so when the table holds one of them it was chosen among all. -#}
{% macro newly_landed(relation) -%}
    {%- if not is_incremental() -%}
    select * from {{ relation }}
    {%- else -%}
    {%- set since = since_watermark(this) %}
    select *
    from {{ relation }}
    where
        _landed_on >= cast('{{ since[:10] }}' as date)
        and _landed_at >= cast('{{ since }}Z' as timestamp)
    {%- endif -%}
{%- endmacro %}

{#- Rows of keys that occur more than once, all but the latest of each. -#}
{% macro superseded(landed) -%}
    select ind, _source, _stream, _partition, _position
    from (
        select
            ind,
            _source,
            _stream,
            _partition,
            _position,
            row_number() over (
                partition by ind
                order by _landed_at desc, _position desc, _partition desc, _stream desc, _source desc
            ) as recency
        from {{ landed }}
        where ind in (select ind from {{ landed }} group by ind having count(*) > 1)
    ) as ranked
    where recency > 1
{%- endmacro %}

{#- The others. The few superseded rows stand on the left, because that is the side of a join that
    an engine keeps in memory when it does not know the sizes. -#}
{% macro latest(landed, superseded) -%}
    select {{ landed }}.*
    from {{ superseded }}
    right join {{ landed }}
        on
            {{ superseded }}.ind = {{ landed }}.ind
            and {{ superseded }}._position = {{ landed }}._position
            and {{ superseded }}._partition = {{ landed }}._partition
            and {{ superseded }}._stream = {{ landed }}._stream
            and {{ superseded }}._source = {{ landed }}._source
    {%- if is_incremental() %}
    left join {{ this }} as held
        on
            {{ landed }}.ind = held.ind
            and {{ landed }}._landed_at = held._landed_at
            and {{ landed }}._partition = held._partition
            and {{ landed }}._stream = held._stream
            and {{ landed }}._source = held._source
    {%- endif %}
    where
        {{ superseded }}.ind is null
        {%- if is_incremental() %}
        and held.ind is null
        {%- endif %}
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

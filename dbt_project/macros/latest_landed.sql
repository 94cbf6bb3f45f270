{#- One row for each key, the latest landed, in three steps that a staging model names as CTEs.

    Sorting every row to rank it is what costs; so only keys that occur more than once are ranked,
    and the rows of theirs that a later one supersedes are left out. -#}

{#- The rows a run has to look at: all of them, or in an incremental run those of new commits. -#}
{% macro newly_landed(relation) -%}
    select *
    from {{ relation }}
    {%- if is_incremental() %}
    where {{ of_new_commits(relation, this, day_column="_landed_on") }}
    {%- endif %}
{%- endmacro %}

{#- Rows of keys that occur more than once, all but the latest of each. The order is total. -#}
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

{#- The others, less those that the table holds a later version of: commits may become readable in
    another order than they are stamped. The few superseded rows stand on the left, because that is
    the side of a join that an engine keeps in memory when it does not know the sizes. -#}
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
        on {{ landed }}.ind = held.ind and {{ landed }}._landed_at < held._landed_at
    {%- endif %}
    where
        {{ superseded }}.ind is null
        {%- if is_incremental() %}
        and held.ind is null
        {%- endif %}
{%- endmacro %}

{#- One row for each key, the latest landed, in three steps that a staging model names as CTEs.

    Sorting every row to rank it is what costs; so only keys that occur more than once are ranked,
    and the rows of theirs that a later one supersedes are left out. In each join the smaller side
    stands on the left: that is the one an engine keeps in memory when it does not know the sizes. -#}

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
            repeated.ind,
            every_row._source,
            every_row._stream,
            every_row._partition,
            every_row._position,
            row_number() over (
                partition by repeated.ind
                order by
                    every_row._landed_at desc,
                    every_row._position desc,
                    every_row._partition desc,
                    every_row._stream desc,
                    every_row._source desc
            ) as recency
        from (
            select ind
            from {{ landed }}
            {#- Every row meets it; an engine that estimates sizes takes what it leaves for a part. #}
            where ind % 1 = 0
            group by ind
            having count(*) > 1
        ) as repeated
        inner join {{ landed }} as every_row on repeated.ind = every_row.ind
    ) as ranked
    where recency > 1
{%- endmacro %}

{#- The others, less those that the table holds a later version of: commits may become readable in
    another order than they are stamped. -#}
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

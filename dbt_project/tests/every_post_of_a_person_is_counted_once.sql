-- Posts that name a person are the posts of people: none lost and none twice.
select
    named.posts as posts_that_name_a_person,
    people.posts as posts_of_people
from (
    select count(*) as posts
    from {{ ref("stg_user") }}
    where user_name is not null and date_joined is not null
) as named
cross join (select coalesce(sum(posts), 0) as posts from {{ ref("int_users") }}) as people
where named.posts <> people.posts

with

landed as (
    {{ newly_landed(source("bronze", "pin")) }}
),

superseded as (
    {{ superseded("landed") }}
),

latest as (
    {{ latest("landed", "superseded") }}
),

trimmed as (
    select
        ind,
        {{ clean_text("unique_id") }} as unique_id,
        {{ clean_text("title", ["No Title Data Available", "Untitled"]) }} as title,
        {{ clean_text("description", [
            "No description available Story format", "No description available", "Untitled"
        ]) }} as description,
        {{ clean_text("follower_count", ["User Info Error"]) }} as follower_text,
        {{ clean_text("poster_name", ["User Info Error"]) }} as poster_name,
        {{ clean_text("tag_list", ["N,o, ,T,a,g,s, ,A,v,a,i,l,a,b,l,e"]) }} as tag_list,
        {{ clean_text("is_image_or_video") }} as is_image_or_video,
        {{ clean_text("image_src", ["Image src error."]) }} as image_src,
        {{ trim_text("save_location") }} as save_text,
        {{ clean_text("category") }} as category,
        _landed_at
    from latest
),

final as (
    select
        ind,
        unique_id,
        title,
        description,
        {{ parse_follower_count("follower_text") }} as follower_count,
        poster_name,
        tag_list,
        is_image_or_video,
        image_src,
        {{ clean_text(
            "case when save_text like 'Local save in%' then substring(save_text, 14) else save_text end"
        ) }} as save_location,
        category,
        _landed_at
    from trimmed
)

select * from final

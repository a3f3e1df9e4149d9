-- What is left of an item, an entry of history or an error when what it says of a call's content is forgotten: that it
-- is, of which type, and who said so.
create or replace function spanledger.without_payload(p_said jsonb)
returns jsonb
language sql immutable
as $$
    select (p_said - '{arguments,result,result_kept,reason,note,message}'::text[])
        || case when jsonb_typeof(p_said -> 'error') = 'object'
            then jsonb_build_object('error', (p_said -> 'error') - 'message') else '{}' end
$$;

-- Refuse a role that did not begin this run: it adds nothing to what others have measured. The ledger's owner may.
create or replace function spanledger.own_eval(p_run spanledger.eval_run)
returns void
language plpgsql stable
as $$
begin
    if p_run.by_role <> session_user and not pg_has_role(session_user, current_user, 'member') then
        raise exception 'role % did not begin the run % of evaluations', session_user, p_run.id
            using errcode = 'insufficient_privilege';
    end if;
end
$$;

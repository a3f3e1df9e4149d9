"""What was wrong with the systems that spanledger replaces, each defect with the test that would fail there.

The ids: AL agent-ledger 0.1 and 0.2, AL-T what its own tests pin, LS agent-ledger-sdk, PV provenant's AgentOps SDK,
PG provenant's authorizing SDK, TR tracengent, and threads in public trackers by name and number. Under each defect
stands where it is tested, as file::test, or what it waits for. `test_table.py` reads this.

AL-D1  a stale worker's commit beats the new owner
    seeds/test_agent_ledger.py::test_a_worker_that_stood_still_beyond_its_lease_changes_nothing_when_it_goes_on
    seeds/test_agent_ledger.py::test_of_eight_processes_and_a_handler_longer_than_the_lease_each_effect_happens_once
    ledger/test_workers.py::test_of_eight_processes_with_the_same_keys_each_effect_happens_once
    ledger/test_ledger.py::test_a_late_settle_is_told_that_it_is_late
    sql/test_late.py::test_a_late_success_is_never_the_result_but_its_money_is_spent
AL-D2  retries renew a dead worker's lease, so nobody ever takes over
    seeds/test_agent_ledger.py::test_who_asks_again_and_again_does_not_renew_the_lease_of_a_dead_worker
    seeds/test_agent_ledger.py::test_who_comes_after_the_lease_is_over_need_not_wait_for_it_again
AL-D3  a crash gets around an approval
    seeds/test_approvals.py::test_a_notice_that_fails_leaves_the_call_waiting_for_its_approval
    seeds/test_approvals.py::test_a_worker_that_is_killed_while_it_waits_for_a_person_opens_no_way_around
    seeds/test_approvals.py::test_what_a_worker_did_with_its_approval_before_it_died_is_not_done_again_with_it
AL-D4  options of one call switch a requirement of the ledger off
    seeds/test_approvals.py::test_a_developer_s_own_words_do_not_switch_an_approval_off
AL-D5  approve X, run Y: other arguments under the same key
    seeds/test_agent_ledger.py::test_other_arguments_under_the_same_fields_do_not_pass_where_the_rule_forbids_them
    ledger/test_ledger.py::test_a_key_of_ones_own_with_other_arguments_is_refused
    seeds/test_approvals.py::test_an_approval_is_for_the_arguments_that_were_shown_and_no_others
    seeds/test_approvals.py::test_an_id_of_the_provider_that_changes_between_attempts_does_not_change_what_was_approved
AL-D6  begin and commit by hand execute twice; a failure reads as a success
    seeds/test_agent_ledger.py::test_of_many_who_begin_by_hand_at_once_one_is_told_to_run
    seeds/test_agent_ledger.py::test_a_call_that_ended_badly_does_not_read_as_a_success_without_a_result
AL-D7  asking for approval of a call that runs executes it twice
    seeds/test_approvals.py::test_a_rule_that_comes_while_a_call_runs_does_not_run_it_a_second_time
AL-D8  a success is recorded as a failure because the commit failed
    ledger/test_connections.py::test_a_connection_that_breaks_while_the_outcome_is_told_is_asked_again
    ledger/test_connections.py::test_a_server_that_goes_away_after_the_effect_costs_the_caller_nothing
    ledger/test_spool.py::test_a_server_that_dies_during_the_call_costs_neither_the_result_nor_the_outcome
    ledger/test_ledger.py::test_a_result_that_cannot_be_kept_reaches_its_caller_once
    ledger/test_async_ledger.py::test_a_repeated_call_gets_the_recorded_result_and_does_not_run
    seeds/test_agent_ledger.py::test_the_key_of_a_call_can_be_returned_by_it
    seeds/test_agent_ledger.py::test_a_plain_function_that_gives_back_a_coroutine_is_no_success
AL-D9  stuck for ever after a kill, a cancellation or a timeout
    ledger/test_workers.py::test_a_killed_worker_leaves_the_outcome_unknown_after_its_lease_and_a_probe_finds_out
    ledger/test_async_ledger.py::test_a_task_that_is_cancelled_in_the_middle_leaves_the_outcome_unknown
    ledger/test_heartbeat.py::test_a_call_that_was_dropped_without_a_word_becomes_unknown
    seeds/test_agent_ledger.py::test_a_call_given_up_by_wait_for_is_free_again_as_soon_as_a_person_says_so
AL-D10  a transient failure is permanent, the error's type is lost
    ledger/test_ledger.py::test_what_the_handler_raises_passes_through_and_another_attempt_runs
    seeds/test_agent_ledger.py::test_a_transient_failure_is_no_verdict_on_the_next_attempt_and_says_what_it_was
AL-D11  leases by the clocks of clients
    seeds/test_agent_ledger.py::test_a_worker_whose_clock_is_a_day_behind_takes_nothing_over_and_holds_on_to_its_own
AL-D12  ids with a separator in them collide
    unit/test_keys.py::test_text_cannot_move_from_one_part_to_the_next
    seeds/test_agent_ledger.py::test_a_separator_in_an_id_moves_nothing_from_one_id_to_the_next
AL-D13  integers beyond 2^53 are refused
    unit/test_values.py::test_integers_beyond_the_precision_of_floats_stay_exact
    seeds/test_agent_ledger.py::test_integers_beyond_what_a_float_can_hold_are_told_apart
AL-D14  a replayed value differs from the fresh one
    ledger/test_ledger.py::test_a_repeated_call_gets_the_recorded_result_and_does_not_run
    unit/test_kept_values.py::test_whatever_is_kept_comes_back_equal_and_of_the_same_type
    unit/test_kept_values.py::test_keys_that_are_kept_come_back_in_their_order
AL-D15  nine round trips a call; a replay writes twice
    seeds/test_agent_ledger.py::test_a_fresh_call_is_two_round_trips_and_a_replay_is_one_that_writes_nothing
AL-D16  waiters poll: late, past their own deadline, and at a cost to everybody
    seeds/test_agent_ledger.py::test_who_waits_gives_up_when_they_said_they_would
    unit/test_steps.py::test_a_waiter_gives_up_at_its_deadline_on_the_clock_of_the_ledger
    ledger/test_wakeups.py::test_a_hundred_waiters_have_one_connection_and_ask_nothing
    ledger/test_wakeups.py::test_when_a_lease_ends_one_look_wakes_all
AL-D17  making arguments canonical stops the event loop
    seeds/test_agent_ledger.py::test_arguments_of_a_megabyte_do_not_stop_the_loop
AL-D18  a claim inside the caller's transaction: invisible, locked, rolled back
    seeds/test_agent_ledger.py::test_while_a_call_runs_it_is_on_record_and_nothing_is_locked
    seeds/test_agent_ledger.py::test_when_the_callers_own_transaction_is_rolled_back_the_call_is_not_forgotten
AL-D19  an asynchronous policy hook is always true
    seeds/test_approvals.py::test_a_coroutine_function_cannot_say_whether_an_approval_is_needed
AL-D20  successes are forgotten and run again
    seeds/test_agent_ledger.py::test_a_success_is_never_forgotten_unless_the_rule_says_so
    sql/test_verdicts.py::test_a_success_is_replayed_while_it_is_young_enough
AL-D21  a nested run erases the context around it
    seeds/test_agent_ledger.py::test_after_a_call_inside_a_call_the_outer_one_is_still_the_one_that_runs
    telemetry/test_decision.py::test_a_workflow_inside_a_workflow_is_a_child_and_ends_there
AL-D22  no sync API, no heartbeat, no tenants, no budgets, no retention, no redaction
    ledger/test_drivers.py::test_the_twins_have_the_same_methods
    ledger/test_heartbeat.py::test_a_call_that_outlasts_its_lease_is_still_in_progress_for_others
    ledger/test_ledger.py::test_another_tenant_another_call
    sql/test_budgets.py::test_a_call_holds_what_it_reserves_and_spends_what_it_cost
    instrument/test_openai_streams.py::test_a_stream_is_measured_and_the_chunk_with_its_usage_hidden
    ledger/test_prune.py::test_what_was_said_is_gone_and_every_end_is_still_the_end
    acceptance/test_canary.py::test_a_secret_in_redacted_places_is_found_nowhere

AL-T1  fresh, replayed, cached
    ledger/test_ledger.py::test_begin_settle_and_begin_again
AL-T2  None, nested, unicode and large results
    ledger/test_ledger.py::test_a_repeated_call_gets_the_recorded_result_and_does_not_run
    unit/test_steps.py::test_a_kept_none_is_a_result
AL-T3  a failure is recorded and raised; a replayed failure raises, for waiters too
    seeds/test_agent_ledger.py::test_a_failure_that_is_replayed_is_raised_to_everybody_who_waited_for_it
    ledger/test_ledger.py::test_after_attempts_max_the_recorded_failure_is_raised
AL-T4  keys: same and other arguments, resource, some of the fields
    ledger/test_ledger.py::test_a_call_is_the_same_by_what_identifies_it
    unit/test_keys.py::test_another_tool_scope_or_argument_is_another_call
AL-T5  a hundred begin at once, one creates
    seeds/test_agent_ledger.py::test_of_a_hundred_tasks_that_begin_at_once_one_runs
AL-T6  many stale takeovers, one executes; a claim needs the age
    seeds/test_agent_ledger.py::test_of_many_who_find_a_dead_worker_one_takes_over
    sql/test_verdicts.py::test_a_call_whose_lease_is_over_is_unknown_to_who_looks_and_to_who_begins
AL-T7  waiting: times out, returns the result of whoever ran
    ledger/test_ledger.py::test_who_does_not_want_to_wait_is_told_at_once
    seeds/test_agent_ledger.py::test_two_that_wait_for_one_that_succeeds_late_get_its_result_and_not_their_own
AL-T8  what is final is never overwritten
    sql/test_verdicts.py::test_a_success_cannot_be_turned_into_a_failure
    sql/test_machine.py::test_the_functions_do_what_the_model_says
AL-T9  a cancelled call raises
    ledger/test_cancel.py::test_a_cancelled_call_is_refused_with_who_and_why_until_somebody_reopens_it
AL-T10  validation: no JSON, size exactly at the limit, unicode ids
    seeds/test_agent_ledger.py::test_ids_of_any_text_are_ids
    seeds/test_agent_ledger.py::test_arguments_are_copied_for_people_up_to_the_last_byte_that_is_allowed
    instrument/test_tool.py::test_arguments_that_cannot_be_compared_are_refused_before_anything_runs
AL-T11  errors of the store are wrapped, with context
    ledger/test_connections.py::test_a_closed_port_is_an_error_that_names_it_and_nothing_runs
AL-T12  which setting wins
    unit/test_rules.py::test_what_a_configured_rule_leaves_open_is_filled_from_the_developers_own
    unit/test_rules.py::test_not_waiting_at_all_is_not_mistaken_for_saying_nothing
AL-T13  approve, deny, hooks: once, not on replay, races, unknown keys
    seeds/test_approvals.py::test_nobody_answers_what_nobody_asked
    seeds/test_approvals.py::test_a_request_is_answered_once
    seeds/test_approvals.py::test_of_an_approval_and_a_denial_at_the_same_moment_one_counts
    seeds/test_approvals.py::test_of_all_who_wait_for_one_approval_one_runs_and_all_have_its_result
    seeds/test_approvals.py::test_all_who_wait_are_told_of_a_denial
    seeds/test_approvals.py::test_a_request_that_nobody_answered_in_time_is_a_denial_by_nobody
    seeds/test_approvals.py::test_one_notice_goes_out_for_a_request_and_none_for_a_replay
    seeds/test_approvals.py::test_after_a_definite_failure_a_person_is_asked_again_unless_the_approval_covers_retries
    seeds/test_approvals.py::test_nobody_approves_their_own_call

LS-D1  the guardrail comes after the money is spent
    instrument/test_openai_budgets.py::test_beyond_a_budget_of_calls_nothing_is_sent
    seeds/test_agent_ledger_sdk.py::test_of_many_agents_that_ask_a_model_at_once_no_more_are_let_through_than_the_budget_has
    seeds/test_agent_ledger_sdk.py::test_of_many_agents_that_ask_a_model_at_once_tokens_are_not_spent_many_times_over
LS-D2  a report that fails makes a failure of the tool
    seeds/test_agent_ledger_sdk.py::test_a_tool_that_cost_more_than_was_left_gives_its_result_and_the_next_one_does_not_run
    telemetry/test_decision.py::test_telemetry_that_fails_costs_the_trace_and_not_the_call
LS-D3  a session ends twice, or never when interrupted
    seeds/test_agent_ledger_sdk.py::test_a_workflow_that_is_interrupted_ends_once_and_says_so
    telemetry/test_sessions.py::test_a_session_ends_once_whoever_says_so_first
    telemetry/test_sessions.py::test_what_is_raised_passes_through_and_says_how_session_and_turn_ended
LS-D4  errors of the network come raw; telemetry down is agent down
    seeds/test_agent_ledger_sdk.py::test_a_ledger_that_is_down_is_one_kind_of_error_and_only_for_what_it_guards
    telemetry/test_decision.py::test_telemetry_that_fails_costs_the_trace_and_not_the_call
LS-D5  no retry, no idempotency of what is reported
    instrument/test_recording.py::test_what_is_recorded_again_under_its_id_counts_once
    sql/test_verdicts.py::test_a_begin_asked_again_gives_the_same_answer
    ledger/test_spool.py::test_a_settle_whose_answer_was_lost_is_asked_again_and_not_guessed
LS-D6  a refusal without figures; a provider's rate limit taken for one
    seeds/test_agent_ledger_sdk.py::test_a_refusal_has_its_figures
    ledger/test_ledger.py::test_a_call_that_is_too_dear_does_not_run_and_the_error_has_the_figures
    instrument/test_openai.py::test_an_error_of_the_provider_passes_through_and_is_on_the_span
LS-D7  dollars in floats only
    unit/test_money.py::test_an_amount_that_is_not_exact_or_not_possible_is_refused
    sql/test_budgets.py::test_units_are_charged_apart
LS-D8  the quick start sends what nobody reads
    acceptance/test_readme.py::test_its_python_runs
    unit/test_config.py::test_what_cannot_work_is_refused_by_name_of_file_and_place
LS-D9  no async, no OpenTelemetry
    ledger/test_drivers.py::test_the_twins_are_alike_but_for_await
    telemetry/test_decision.py::test_the_ledger_s_row_names_the_span_and_the_span_the_row

PV-D1  sessions never end
    telemetry/test_sessions.py::test_a_session_whose_process_was_killed_is_lost_once_its_signs_of_life_stop
    telemetry/test_decision.py::test_a_workflow_is_a_span_that_says_who_wanted_what
    acceptance/test_zero_code.py::test_a_run_is_one_trace_of_model_and_tool_calls_without_their_content
PV-D2  observability on the critical path
    seeds/test_provenant.py::test_a_collector_that_does_not_answer_costs_calls_nothing
    ledger/test_async_ledger.py::test_a_loop_is_not_blocked_while_its_tasks_wait
PV-D3  instrumenting raises when the service is down
    seeds/test_provenant.py::test_instrumenting_does_not_need_a_ledger_that_answers
PV-D4  awaited and streamed answers are recorded empty
    instrument/test_recording.py::test_tokens_cost_and_time_of_every_way_to_ask_count_once_in_their_turn
    instrument/test_openai.py::test_an_awaited_completion_is_a_span_too
    instrument/test_openai_streams.py::test_an_awaited_stream_is_measured
PV-D5  a stream is drained first, and is no stream any more
    seeds/test_provenant.py::test_chunks_come_as_they_are_sent
    instrument/test_openai_streams.py::test_a_closed_stream_ends_its_span_at_once
    instrument/test_openai_streams.py::test_an_awaited_stream_is_measured
PV-D6  model and parameters are not recorded
    instrument/test_openai.py::test_a_completion_is_a_span_with_what_was_asked_and_used
PV-D7  twice instrumented, twice recorded; no way back; raw responses and the responses API missed
    instrument/test_openai.py::test_instrumented_twice_a_call_is_one_span
    instrument/test_openai.py::test_uninstrument_puts_back_the_very_functions
    instrument/test_openai_streams.py::test_a_raw_response_is_measured_and_read_as_ever
    instrument/test_openai_more.py::test_a_streamed_response_is_one_span_however_it_is_asked_for
PV-D8  lost at exit, out of order, not in threads
    instrument/test_recording.py::test_recorded_calls_from_many_tasks_are_all_there
    acceptance/test_zero_code.py::test_a_run_is_one_trace_of_model_and_tool_calls_without_their_content
    telemetry/test_decision.py::test_a_workflow_follows_a_copied_context_into_a_thread_and_no_other
    telemetry/test_decision.py::test_a_workflow_follows_a_job_into_an_executor_and_leaves_nothing_there
PV-D9  a session whose body raised is completed
    telemetry/test_sessions.py::test_what_is_raised_passes_through_and_says_how_session_and_turn_ended
    telemetry/test_decision.py::test_what_is_raised_in_a_workflow_passes_through_and_is_on_its_span
PV-D10  evals with random scores
    evals/test_running.py::test_what_an_evaluator_returns_is_a_score_or_an_error_of_its_own
    evals/test_running.py::test_a_completed_run_is_not_run_again
PV-D11  policies that always pass
    sql/test_grants.py::test_a_call_that_needs_what_nobody_granted_is_refused_and_told_what_it_needs
PV-D12  a model's price taken from one with a shorter name
    seeds/test_provenant.py::test_a_dated_model_has_its_own_price_and_not_that_of_one_whose_name_is_shorter

PG-D1  completing lies in the tool's try
    seeds/test_provenant.py::test_a_tool_whose_outcome_cannot_be_told_is_not_reported_as_failed
    ledger/test_ledger.py::test_a_result_that_cannot_be_kept_reaches_its_caller_once
PG-D2  an asynchronous tool is complete before it runs
    seeds/test_provenant.py::test_an_asynchronous_tool_is_settled_when_it_has_run_and_not_before
    seeds/test_agent_ledger.py::test_a_plain_function_that_gives_back_a_coroutine_is_no_success
    instrument/test_retry_inside.py::test_a_function_that_a_decorator_made_asynchronous_is_settled_when_it_has_run
PG-D3  no timeout at all
    ledger/test_connections.py::test_a_server_that_says_nothing_is_given_up_after_connect_timeout
    ledger/test_connections.py::test_a_server_that_has_frozen_does_not_hold_a_blocking_caller
PG-D4  no key is passed on
    instrument/test_egress.py::test_another_attempt_of_the_call_sends_the_same_keys
    instrument/test_tool_nesting.py::test_the_running_call_shows_its_key_and_attempt_and_takes_what_it_costs
PG-D5  cancellation leaves the hold open
    seeds/test_provenant.py::test_what_an_interrupted_call_holds_is_held_until_somebody_says_what_became_of_it
    ledger/test_async_ledger.py::test_a_claim_whose_answer_met_a_cancelled_task_is_given_back
PG-D6  no way to go on after an approval
    seeds/test_approvals.py::test_after_an_approval_any_process_goes_on_with_the_same_call_and_once

TR-D1  redaction that fails open
    unit/test_redaction.py::test_what_looks_like_json_and_cannot_be_read_is_masked
    unit/test_redaction.py::test_a_path_whose_engine_fails_masks_the_whole_value
    unit/test_leaving.py::test_forms_and_queries_leave_without_what_is_redacted
    unit/test_leaving.py::test_what_cannot_be_read_to_its_end_is_not_sent
    instrument/test_egress_held.py::test_a_form_is_redacted_as_stripe_writes_it
TR-D2  content is sent before it is redacted
    instrument/test_openai.py::test_nothing_that_was_said_is_on_a_span
    telemetry/test_decision.py::test_arguments_and_results_are_on_spans_only_where_that_is_wanted
    acceptance/test_canary.py::test_a_secret_in_redacted_places_is_found_nowhere
    instrument/test_egress_held.py::test_what_is_redacted_is_not_sent_and_not_in_the_trace
    instrument/test_granted_redaction.py::test_a_call_is_passed_on_without_it_and_neither_span_nor_row_shows_it
TR-D3  asynchronous tools succeed in no time; the loop is blocked
    seeds/test_tracengent.py::test_the_span_of_an_asynchronous_tool_lasts_as_long_and_fails_as_it_did
    seeds/test_tracengent.py::test_a_loop_goes_on_while_a_call_waits_for_the_ledger
    seeds/test_agent_ledger.py::test_a_plain_function_that_gives_back_a_coroutine_is_no_success
TR-D4  closing elsewhere raises; overlapping traces leave a closed one around; threads do not inherit
    telemetry/test_decision.py::test_a_workflow_that_is_closed_in_another_context_ends_all_the_same
    telemetry/test_decision.py::test_workflows_closed_in_any_order_leave_none_behind_and_the_open_one_around
    seeds/test_tracengent.py::test_of_workflows_that_overlap_none_stays_around_after_its_end
    telemetry/test_decision.py::test_a_workflow_follows_a_job_into_an_executor_and_leaves_nothing_there
TR-D5  the tree is upside down
    seeds/test_tracengent.py::test_of_calls_inside_calls_in_many_threads_each_span_is_under_the_one_that_made_it
TR-D6  a failed model call keeps its reservation
    instrument/test_openai_budgets.py::test_an_abandoned_stream_costs_what_is_known_of_it_and_holds_nothing
    seeds/test_public_bugs.py::test_an_error_before_the_first_chunk_holds_nothing
TR-D7  one bad item poisons a batch; what is recorded is not what was asked; losses are not counted; no fork handler
    instrument/test_recording.py::test_one_bad_event_costs_no_other_and_is_counted_and_logged
    ledger/test_together.py::test_one_that_the_ledger_refuses_fails_alone
    seeds/test_tracengent.py::test_what_is_recorded_is_what_the_call_was_begun_with
    seeds/test_tracengent.py::test_arguments_that_hold_themselves_refuse_their_own_call_and_no_other
    ledger/test_spool.py::test_a_full_spool_keeps_the_oldest_and_counts_what_it_refuses
    ledger/test_workers.py::test_a_forked_child_has_connections_of_its_own
TR-D8  one refused login disables everything until the restart
    seeds/test_tracengent.py::test_after_credentials_that_did_not_work_once_the_next_call_asks_again
TR-D9  a platform that is down is a raw error
    ledger/test_connections.py::test_a_closed_port_is_an_error_that_names_it_and_nothing_runs
TR-D10  money through floats; limits without a currency
    seeds/test_tracengent.py::test_money_of_many_digits_comes_back_to_the_last_one_or_is_refused
    sql/test_budgets.py::test_a_currency_the_budget_is_not_kept_in_is_refused_with_a_reason
    sql/test_delegations.py::test_another_currency_is_converted_and_one_without_a_rate_refused
TR-D11  approvals that are not bound, cannot be waited for, and lose their id
    seeds/test_approvals.py::test_who_waits_goes_on_as_soon_as_a_person_has_said_yes
    seeds/test_approvals.py::test_the_id_of_a_request_survives_the_way_to_another_process
    seeds/test_approvals.py::test_who_is_refused_is_told_by_whom_and_why
    seeds/test_approvals.py::test_what_waits_for_a_person_holds_no_budget
    web/test_web.py::test_a_call_inside_waits_for_its_approval_and_the_request_is_told_its_id_until_then
TR-D12  tokens are not verified
    unit/test_tokens.py::test_a_token_in_which_anything_was_changed_is_none
    unit/test_tokens.py::test_a_token_that_is_long_over_is_told_early_also_where_it_was_known_before
    instrument/test_delegation.py::test_one_that_has_expired_a_second_ago_is_over_by_the_ledgers_clock
    instrument/test_delegation_carried.py::test_over_http_what_is_no_good_token_is_refused_and_says_why
TR-D13  a retried report is a second report
    seeds/test_tracengent.py::test_an_outcome_that_is_reported_from_many_threads_at_once_is_booked_once
    sql/test_late.py::test_a_settle_asked_again_gives_the_same_answer_and_spends_once

litellm#34732  nothing is reserved at admission
    ledger/test_workers.py::test_a_thousand_calls_from_many_threads_spend_the_budget_to_the_cent
litellm#40095  the first concurrent requests get around a budget
    seeds/test_public_bugs.py::test_processes_that_come_up_at_once_on_a_new_budget_spend_it_once
litellm#26672  budgets of users are overspent
    seeds/test_public_bugs.py::test_a_budget_per_user_is_each_user_s_own_from_the_first_requests_on
litellm#27639  reservations that are never finalized
    seeds/test_public_bugs.py::test_a_task_cancelled_at_any_moment_leaves_nothing_held_that_nobody_knows_of
    ledger/test_heartbeat.py::test_a_call_that_was_dropped_without_a_word_becomes_unknown
litellm#30522  a cancellation is no Exception, and its reservation leaks
    seeds/test_public_bugs.py::test_a_model_call_that_is_cancelled_while_the_model_thinks_holds_nothing
    seeds/test_public_bugs.py::test_an_awaited_stream_cancelled_in_the_middle_holds_nothing
litellm#39851  a failed request keeps its reservation
    seeds/test_public_bugs.py::test_an_error_before_the_first_chunk_holds_nothing
litellm#40050  what is enforced is not what was spent
    seeds/test_public_bugs.py::test_what_is_enforced_is_the_sum_of_what_was_really_spent
otari#128  the same leak elsewhere
    instrument/test_openai_budgets.py::test_a_call_that_certainly_failed_costs_nothing
riskkernel#61  a resumed run has forgotten what it spent
    seeds/test_public_bugs.py::test_a_budget_remembers_what_was_spent_before_the_restart
aihub#1766  a cap of one run that all replicas share
    seeds/test_public_bugs.py::test_a_cap_of_one_run_is_shared_by_all_who_work_on_it_and_by_no_other_run
langgraph#7417  long tool calls are executed again from the checkpoint
    ledger/test_heartbeat.py::test_a_call_that_outlasts_its_lease_is_still_in_progress_for_others
    instrument/test_langchain.py::test_in_a_thread_a_resumed_call_is_replayed_and_one_of_the_next_turn_is_new
crewAI#5802  duplicate payments when an agent is asked again
    acceptance/test_zero_code.py::test_a_second_run_of_the_same_workflow_replays_the_refund
langchain#40688  a retry after a timeout that says nothing of the effect
    instrument/test_langchain_outcomes.py::test_a_timeout_of_a_tool_is_not_run_again
    instrument/test_retry_inside.py::test_a_retry_inside_a_framework_s_tool_does_not_run_again_after_an_unknown_outcome
agno#10366  retries of a run execute again what succeeded
    instrument/test_langchain.py::test_by_rule_a_repeated_call_is_answered_under_its_new_id_and_does_not_run
composio#3654  a read timeout that is retried sends twice
    ledger/test_ledger.py::test_after_an_ambiguous_error_nobody_runs_it_again_until_a_person_decides
openai-agents#4615  the tool ran, and its record did not get written
    ledger/test_spool.py::test_an_outcome_survives_the_process_and_another_tells_it_unasked
eunomia#201  the effect's id is not on record before the effect
    seeds/test_agent_ledger.py::test_while_a_call_runs_it_is_on_record_and_nothing_is_locked
hermes#70724  a server that gives every call the same id
    instrument/test_langchain.py::test_an_id_that_every_call_has_tells_nothing
    unit/test_keys.py::test_a_call_id_alone_is_not_trusted
"""

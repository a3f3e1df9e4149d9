"""Commands by which a person decides about one call: approve, deny, resolve, cancel.

Rules: a call is named by its key and a request by its id, or by the beginning of one that no other has. Who decides is
kept in the ledger. What could not be decided, because somebody else did or it is too late, is exit code 1.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from typing import Any

from spanledger.cli.common import Commands, answer, decider, found_call, name_decider, opened, shown, words
from spanledger.core.approvals import Approval
from spanledger.errors import ConfigError, SpanledgerError


def add_to(commands: Commands) -> None:
    """Add the commands of this group."""
    approve = commands.add(
        "approve",
        _approve,
        "Allow a call to run, once, with exactly the arguments that were asked about.",
        'spanledger approve 5f0c --by ops@example.com --note "checked the order"',
    )
    approve.add_argument("--note", help="kept in the ledger")
    deny = commands.add(
        "deny",
        _deny,
        "Do not allow a call to run: final, until `resolve --outcome retry`.",
        'spanledger deny 5f0c --by ops@example.com --reason "no such order"',
    )
    resolve = commands.add(
        "resolve",
        _resolve,
        "Say what became of a call of unknown outcome; retry also reopens one that was denied, expired or cancelled.",
        'spanledger resolve 1cc4d506 --outcome succeeded --result \'{"id": "re_1"}\' --reason "seen at the provider"',
    )
    resolve.add_argument("--outcome", required=True, choices=("succeeded", "failed", "retry"))
    resolve.add_argument("--result", help="JSON: what later calls of this key are given")
    cancel = commands.add(
        "cancel",
        _cancel,
        "Say that a call shall not run (any more).",
        'spanledger cancel 1cc4d506 --reason "the customer changed their mind"',
    )
    for command in (approve, deny):
        command.add_argument(
            "id", type=words, help="the request's id, or its beginning; `spanledger approvals` lists them"
        )
    for command in (resolve, cancel):
        command.add_argument("key", type=words, help="the call's key, or its beginning")
    for command in (deny, resolve, cancel):
        command.add_argument("--reason", help="kept in the ledger")
    for command in (approve, deny, resolve, cancel):
        name_decider(command)


def _approve(arguments: argparse.Namespace) -> int:
    by = decider(arguments)
    with opened(arguments) as ledger:
        approval = _found_approval(ledger, arguments.id)
        done = ledger.approve(approval.id, by=by, note=arguments.note)
        _decided(arguments, ledger, approval, done=done)
    return 0


def _deny(arguments: argparse.Namespace) -> int:
    by = decider(arguments)
    with opened(arguments) as ledger:
        approval = _found_approval(ledger, arguments.id)
        done = ledger.deny(approval.id, by=by, reason=arguments.reason)
        _decided(arguments, ledger, approval, done=done)
    return 0


def _found_approval(ledger: Any, approval_id: str) -> Approval:
    found: list[Approval] = ledger.approvals(state=None, approval_id=approval_id, limit=2)
    if len(found) != 1:
        many = "more than one request has" if found else "the ledger has no request with"
        raise SpanledgerError(f"{many} id {approval_id}…; see `spanledger approvals --all`")
    return found[0]


def _decided(arguments: argparse.Namespace, ledger: Any, asked: Approval, *, done: bool) -> None:
    (approval,) = ledger.approvals(state=None, approval_id=asked.id)
    by = f" by {shown(approval.by)}" if approval.by else ""
    if not done:
        raise SpanledgerError(
            f"request {asked.id} was not decided: it is {approval.state}{by}; see `spanledger show {asked.key[:8]}`"
        )
    # Consumed: it was approved before, and the call has made use of it.
    state = "approved" if approval.state == "consumed" else approval.state
    used = ", and used since" if approval.state == "consumed" else ""
    said = f"{state}{by}{used}: {shown(approval.tool)} {shown(approval.arguments)}"
    answer(arguments, dataclasses.asdict(approval), [said])


def _resolve(arguments: argparse.Namespace) -> int:
    result = _parsed(arguments.result)
    by = decider(arguments)
    with opened(arguments) as ledger:
        call = found_call(ledger, arguments.key)
        key = call["key"]
        done = ledger.resolve(key, by=by, outcome=arguments.outcome, result=result, reason=arguments.reason)
    if not done:
        raise SpanledgerError(
            f"call {key} is {call['state']} and was not resolved as {arguments.outcome}; "
            f"see `spanledger show {arguments.key}`"
        )
    answer(arguments, {"key": key, "outcome": arguments.outcome}, [f"resolved as {arguments.outcome}"])
    return 0


def _cancel(arguments: argparse.Namespace) -> int:
    by = decider(arguments)
    with opened(arguments) as ledger:
        key = found_call(ledger, arguments.key)["key"]
        if not ledger.cancel(key, by=by, reason=arguments.reason):
            raise SpanledgerError(f"call {key} is running or has succeeded; see `spanledger show {arguments.key}`")
    answer(arguments, {"key": key, "state": "cancelled"}, ["cancelled"])
    return 0


def _parsed(text: str | None) -> Any:
    try:
        return None if text is None else json.loads(text)
    except ValueError as error:
        raise ConfigError(f"--result is not JSON: {error}") from None

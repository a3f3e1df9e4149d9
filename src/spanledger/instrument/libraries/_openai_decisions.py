"""OpenAI's runner of decisions: `openai.lib.decisions_tool_runner`.

Rules: what the model chooses among are functions of the program. One is named by its id, and called with nothing; what
the model was told of it stands for its arguments. A choice has no id of its own, so that a rule has to say which of
them are the same call. The runner reads no result, so that none is kept, and has the model told nothing: a refusal ends
the run, as what it is. Whether functions are awaited is known where the run begins alone, and goes along with its
parameters.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

from spanledger.core.call import Call
from spanledger.instrument.library import TELL, Arguments, Given, Wrap, no_call

_RUNNER = "openai.lib.decisions_tool_runner"
_Guarded = Callable[..., Any]


class _Awaited(dict[str, Any]):
    """The parameters of a run that awaits its functions."""

    def copy(self) -> _Awaited:
        return _Awaited(self)


def mark(_runner: Any, args: Arguments, kwargs: dict[str, Any], _guarded: _Guarded) -> Given:
    """Say in its parameters that a run awaits its functions."""
    if "params" in kwargs:
        return args, {**kwargs, "params": _marked(kwargs["params"])}
    return (*args[:1], *map(_marked, args[1:2]), *args[2:]), kwargs


def _marked(params: Any) -> Any:
    return _Awaited(params) if isinstance(params, Mapping) else params


def guard(run: Any, args: Arguments, kwargs: dict[str, Any], guarded: _Guarded) -> Given:
    """Guard the functions of candidates, in a list that is not the program's."""
    candidates = args[0] if args else kwargs["values"]
    if not isinstance(candidates, list):
        return args, kwargs
    do = guarded(_do_awaiting) if isinstance(run.params, _Awaited) else guarded(_do, awaiting=False)
    return ([_with(candidate, do) for candidate in list.copy(candidates)],), {}


def _with(candidate: Any, do: Callable[..., Any]) -> Any:
    execute = dict.get(candidate, "execute") if isinstance(candidate, dict) else None
    if not callable(execute):
        return candidate
    chosen = dict(candidate)

    # It may take what the runner gives to functions that ask for it.
    @functools.wraps(execute)
    def executing(**given: Any) -> Any:
        return do(chosen, **given)

    return {**chosen, "execute": executing}


def _do(chosen: Mapping[str, Any], **given: Any) -> Any:
    return chosen["execute"](**given)


async def _do_awaiting(chosen: Mapping[str, Any], **given: Any) -> Any:
    return await chosen["execute"](**given)


def describe(_function: Any, args: tuple[Any, ...], _kwargs: Mapping[str, Any]) -> Call:
    """Read a choice that is carried out."""
    said = {"description": args[0]["description"]}
    return Call(args[0]["id"], arguments=said)


class NothingKept:
    """For results that nobody reads."""

    def encode(self, _result: Any) -> None:
        """Keep that it is done."""

    def decode(self, _tree: Any, _call: Call) -> None:
        """Give nothing back."""


WRAPS = (
    Wrap(f"{_RUNNER}:AsyncDecisionsToolRunner.run", no_call, gives=mark, versions=">=3.31"),
    Wrap(f"{_RUNNER}:_Run.candidates", describe, gives=guard, codec=NothingKept(), versions=">=3.31"),
    Wrap(f"{_RUNNER}:_Run.error", no_call, TELL, versions=">=3.31"),
)

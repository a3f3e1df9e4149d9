"""Run a program against a model and a payment provider on loopback: no account, no network, no cost.

    python -m spanledger.testing COMMAND [ARG...]

The command finds them through its environment:

    OPENAI_BASE_URL    a model that reads an order number (o-123) and an amount (10 or 10.00 EUR) in what
    OPENAI_API_KEY     the user says, and asks for the tool refund(order_id: str, amount: str); the amount
                       comes without its currency
    PAYMENTS_URL       a payment provider: POST /refunds with order_id, amount, currency and, if you like,
                       a reference; it pays out as often as it is asked

The exit code is the command's. At the end, the number of refunds paid out is printed on stderr.

    python -m spanledger.testing python agent.py "refund 10.00 EUR for o-123"
"""

# Rules: the command behaves as if it had been started directly (its standard streams, its exit code, its
# signals); nothing of ours is left running when it ends.

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from types import FrameType

from spanledger.testing import ModelServer, PaymentProvider, refund_script

# What a shell would say.
_EXIT_USAGE = 2
_EXIT_CANNOT_RUN = 126
_EXIT_NOT_FOUND = 127
_EXIT_SIGNAL = 128


def main(argv: Sequence[str]) -> int:
    """Run the command line `argv` and return its exit code."""
    if not argv or argv[0] in {"-h", "--help"}:
        print(__doc__.strip())  # noqa: T201 - a program's output
        return 0 if argv else _EXIT_USAGE
    with ModelServer(refund_script()) as model, PaymentProvider() as payments:
        offline = {
            "OPENAI_BASE_URL": model.url,
            "OPENAI_API_KEY": "offline",
            "PAYMENTS_URL": payments.url,
        }
        code = _run(argv, os.environ | offline)
        count = len(payments.refunds)
    print(f"refunds the payment provider saw: {count}", file=sys.stderr)  # noqa: T201
    return code


def _run(argv: Sequence[str], environment: dict[str, str]) -> int:
    try:
        child = subprocess.Popen(argv, env=environment)  # noqa: S603 - running it is what we were asked
    except FileNotFoundError:
        print(f"{argv[0]}: command not found", file=sys.stderr)  # noqa: T201
        return _EXIT_NOT_FOUND
    except OSError as error:
        print(f"{argv[0]}: {error.strerror}", file=sys.stderr)  # noqa: T201
        return _EXIT_CANNOT_RUN

    def forward(number: int, _frame: FrameType | None) -> None:
        # At a terminal, Ctrl-C reaches the command without us; twice would cut its clean-up short.
        if number != signal.SIGINT or not _in_the_foreground():
            child.send_signal(number)

    with child:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, forward)
        code = child.wait()
    return code if code >= 0 else _EXIT_SIGNAL - code


def _in_the_foreground() -> bool:
    try:
        terminal = os.open(os.ctermid(), os.O_RDWR | os.O_NOCTTY)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    finally:
        os.close(terminal)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""A program that rolls a die three times in one workflow: `python rolling.py DSN FILE [DIES_AFTER]`.

Of each throw it writes a line, and says what all gave. It is killed after so many of them.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import spanledger
from spanledger import Config, tool, workflow


@tool(identity="occurrence")
def roll(sides: int) -> int:
    """Roll a die."""
    with Path(sys.argv[2]).open("a+") as file:
        file.write(f"{sides}\n")
        file.seek(0)
        return len(file.readlines())


if __name__ == "__main__":
    spanledger.instrument(Config(dsn=sys.argv[1]), libraries=[])
    rolled = []
    with workflow("game-1"):
        for number in range(3):
            if sys.argv[3:] == [str(number)]:
                os.kill(os.getpid(), signal.SIGKILL)
            rolled.append(roll(6))
    print(json.dumps(rolled))

"""Run the tests of the ledger and its SQL on every version of Postgres that is here.

    python -m tests.servers [DIRECTORY ...] [-- PYTEST ARGUMENTS ...]

A directory holds `initdb` and `postgres`; without any, all that are found on the machine and in installed wheels are
used, the newest of each major version. It ends with an error if a version fails.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from spanledger.ledger._binaries import _version, system_places, wheel_places

TESTS = ("tests/sql", "tests/ledger")


def main(arguments: list[str]) -> int:
    """Run them one after the other, and say how each went."""
    cut = arguments.index("--") if "--" in arguments else len(arguments)
    more = arguments[cut + 1 :]
    places = [Path(place) for place in arguments[:cut]] or [*system_places(), *wheel_places()]
    newest: dict[int, tuple[tuple[int, int], Path]] = {}
    for place in places:
        version = _version(place)
        if version > newest.get(version[0], ((0, 0), place))[0]:
            newest[version[0]] = version, place
    failed = [place for _, (version, place) in sorted(newest.items()) if not passes(version, place, more)]
    if not newest:
        print("no server was found")
    return 1 if failed or not newest else 0


def passes(version: tuple[int, int], place: Path, more: list[str]) -> bool:
    """Run the tests on one version."""
    started_s = time.monotonic()
    command = [sys.executable, "-m", "pytest", "-q", *TESTS, *more]
    done = subprocess.run(
        command, env=os.environ | {"SPANLEDGER_EMBEDDED": str(place)}, capture_output=True, text=True, check=False
    )
    result = (done.stdout.splitlines() or [done.stderr])[-1]
    print(
        f"PostgreSQL {version[0]}.{version[1]} ({place}): {result} [{time.monotonic() - started_s:.0f} s]", flush=True
    )
    if done.returncode != 0:
        print("\n".join(line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR", "E  "))))
    return done.returncode == 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

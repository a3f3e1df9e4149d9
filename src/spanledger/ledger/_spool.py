"""Outcomes that could not be recorded, on disk until they are.

Rules: an outcome is kept when the ledger did not take it, and told to the same ledger later, by whichever process comes
first. It is told under its attempt id, so that twice is as good as once, and a newer attempt is never overwritten.

* One file an entry. It is written beside its place, synced, renamed into it, and the folder synced: so an entry is
  there whole or not at all, without a format that has to be repaired, and is done with by removing one file. Files
  of one folder need no common lock; appended segments would need one, and somebody to cut off what is half written.
* A folder for each ledger, named by a hash of host, port and database (the password has no part in it). Only the
  owner may read it: 0700 and 0600.
* At most `ENTRIES_MAX` entries of together `BYTES_MAX`. The oldest stay; a newcomer that finds no room is logged and
  counted. Processes that write at the same moment may exceed the limits by one entry each.
* Who tells an entry holds a `flock` on it, which the kernel drops with its holder. A process that finds it taken
  leaves it alone, or waits so long and no longer if it wants to begin that very call.
* What cannot be read, what the ledger refuses for good, of whose call it knows nothing (it was restored from a backup,
  or the key was pruned), and what a crash left half written is set aside, at most `ASIDE_MAX` files, and never tried
  again. A claim that is given back while others are making it waits until they are done.

Meanwhile the lease of the call runs out; nobody renews it, because nothing runs. Until the outcome is told, another
process sees an unknown outcome, and a rule that says `on_unknown="retry"` runs the call again: that it may is what the
rule says. A process on this machine tells the outcome before it begins the same call, and so is given the result.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from psycopg.pq import Conninfo

from spanledger.core.asking import Ask, is_known
from spanledger.core.outcomes import alone
from spanledger.core.payload import without_payload
from spanledger.errors import LedgerUnavailable
from spanledger.ledger._supervisor import private_directory, wait_for_lock

if sys.platform != "win32":
    import fcntl

logger = logging.getLogger("spanledger.ledger")

ENTRIES_MAX = 1_000
BYTES_MAX = 64 * 1024 * 1024
ASIDE_MAX = 100
# A file that is still being written is younger.
PART_AGE_S_MAX = 60.0
VERSION = 1
# What of an entry is told to the ledger.
PARTS = frozenset({"item", "begin"})
ERASE_WAIT_S = 10.0
# No clock of a file system is coarser.
SETTLED_NS = 3_000_000_000
FUNCTIONS = frozenset({"settle", "fail"})
# What the ledger will say of this entry however often it is asked.
REFUSALS = (psycopg.DataError, psycopg.IntegrityError)
_ADDRESS = ("host", "hostaddr", "port", "dbname", "service")

Tell = Callable[[Ask], object]
# Tells whether the content of the call of an entry is to be forgotten.
Erased = Callable[[Mapping[str, Any]], bool]


@dataclass(frozen=True, slots=True)
class SpoolStatus:
    """What one spool holds.

    Attributes:
        path: Its folder, which need not exist.
        entries: Outcomes that wait to be told.
        bytes: Their size.
        oldest_age_s: For how long the oldest has waited; None where nothing waits.
        aside: Files that were set aside.
        refused: Outcomes that found no room, or could not be written, since this process began.
    """

    path: Path
    entries: int
    bytes: int
    oldest_age_s: float | None
    aside: int
    refused: int


def ledger_name(given: Mapping[str, object]) -> str:
    """Name a ledger by where it is.

    Args:
        given: The parameters of its connection string. What they leave out is libpq's default.
    """
    defaults = {d.keyword.decode(): d.val.decode() for d in Conninfo.get_defaults() if d.val is not None}
    address = {name: str(given.get(name) or defaults.get(name) or "") for name in _ADDRESS}
    address["dbname"] = address["dbname"] or str(given.get("user") or defaults.get("user") or "")
    return hashlib.sha256(json.dumps(address, sort_keys=True).encode()).hexdigest()[:32]


class Spool:
    """The outcomes kept for one ledger. Safe to use from many threads and processes.

    Args:
        state_dir: Of the user; the spools are in it.
        ledger: The name of the ledger.
    """

    def __init__(self, state_dir: Path, ledger: str) -> None:
        self.directory = state_dir.absolute() / "spool" / ledger
        self._folder = str(self.directory)
        self._empty_since_ns: int | None = None
        self._refused = 0

    def keep(self, ask: Ask, begin: Ask | None = None) -> bool:
        """Write an outcome to disk; True once it would survive a loss of power. Never raises: false is logged.

        Args:
            ask: The outcome.
            begin: What the ledger has to be told before that, of a call that ran unguarded.
        """
        try:
            self._keep(ask, begin)
        except Exception as error:
            self._refused += 1
            logger.exception("an outcome could not be kept in %s either", self.directory, exc_info=alone(error))
            return False
        return True

    def holds_some(self) -> bool:
        """Tell whether something waits; at every begin, so what is empty is not looked into again before it changes."""
        try:
            changed_ns = os.stat(self._folder).st_mtime_ns  # noqa: PTH116 - likewise
        except OSError:
            return False
        if changed_ns == self._empty_since_ns:
            return False
        try:
            holds = any(map(_is_entry, os.listdir(self._folder)))  # noqa: PTH208 - likewise
        except OSError:
            return False  # it may hold some: nothing is remembered of it
        # A folder that has just changed may change again at what its clock takes for the same time.
        settled = time.time_ns() - changed_ns > SETTLED_NS
        self._empty_since_ns = changed_ns if settled and not holds else None
        return holds

    def waiting(self, ask: Ask | None = None) -> list[Path]:
        """Return the entries that wait, the oldest first: all, or those of the call of `ask`."""
        try:
            names = os.listdir(self.directory)  # noqa: PTH208 - once per call; a Path for each would be slow
        except OSError:
            return []
        mark = "-" if ask is None else f"-{_mark(ask)}-"
        return [self.directory / name for name in sorted(names) if _is_entry(name) and mark in name]

    def deliver(self, tell: Tell, entries: list[Path], *, wait_s: float = 0.0) -> None:
        """Tell the ledger what waits.

        Args:
            tell: Asks the ledger.
            entries: Which.
            wait_s: How long to wait for an entry that another process is telling.

        Raises:
            LedgerUnavailable: Likewise, or a `psycopg.OperationalError`: the ledger does not answer; the rest waits on.
        """
        for path in entries:
            with _claimed(path, wait_s) as claimed:
                if claimed:
                    self._deliver(tell, path)

    def tidy(self) -> None:
        """Set aside what a crash left half written."""
        oldest_s = time.time() - PART_AGE_S_MAX
        for path in self.directory.glob("*.part"):
            with contextlib.suppress(OSError):
                if path.stat().st_mtime < oldest_s:
                    self._set_aside(path, "it was never written to its end")

    def erase(self, erased: Erased) -> None:
        """Forget what outcomes that wait, or were set aside, say of the content of some calls; they are told without.

        Raises:
            OSError: An entry cannot be written anew.
        """
        self.tidy()
        for path in (*self.waiting(), *self.directory.glob("*.aside")):
            with _claimed(path, ERASE_WAIT_S) as claimed:
                content = _content_of(path) if claimed else None
                if content is not None and erased(content):
                    left = {part: without_payload(content[part]) for part in PARTS & content.keys()}
                    _put(path, json.dumps(content | left).encode())
                    _sync(self.directory)

    def status(self) -> SpoolStatus:
        """Count what there is."""
        waiting, now_s = self.waiting(), time.time()
        oldest_age_s = max(0.0, now_s - int(waiting[0].name.split("-")[0]) / 1e9) if waiting else None
        return SpoolStatus(self.directory, len(waiting), _size(waiting), oldest_age_s, self._aside(), self._refused)

    def _keep(self, ask: Ask, begin: Ask | None) -> None:
        content = {"version": VERSION, "function": ask.function, "tenant": ask.tenant, "item": dict(ask.item)}
        if begin is not None:
            content["begin"] = dict(begin.item)
        data = json.dumps(content).encode()
        waiting = self.waiting()
        if len(waiting) >= ENTRIES_MAX or _size(waiting) + len(data) > BYTES_MAX:
            raise OSError(f"the spool is full: {len(waiting)} outcomes wait for the ledger already")
        self._make_directory()
        _put(self.directory / f"{time.time_ns():020d}-{_mark(ask)}-{uuid.uuid4().hex}.json", data)
        _sync(self.directory)

    def _make_directory(self) -> None:
        spools = self.directory.parent
        spools.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        for directory in (spools, self.directory):
            private_directory(directory)
            _sync(directory.parent)

    def _deliver(self, tell: Tell, path: Path) -> None:
        try:
            begin, ask = _read(path)
        except FileNotFoundError:
            return
        except (OSError, ValueError, KeyError, TypeError) as error:
            self._set_aside(path, f"it cannot be read: {error!r}")
            return
        try:
            if begin is not None:
                tell(begin)
            known = is_known(tell(ask))
        except REFUSALS as error:
            self._set_aside(path, f"the ledger refused it: {str(error).strip()}")
        except (psycopg.OperationalError, LedgerUnavailable):
            raise
        except Exception:
            logger.exception("an outcome could not be told to the ledger yet: %s", path)
        else:
            if known:
                path.unlink(missing_ok=True)
                logger.info("the outcome of %s was told to the ledger late", ask.item.get("tool"))
            elif not ask.item.get("not_invoked"):
                self._set_aside(path, "the ledger has no such call; was it restored, or pruned?")

    def _set_aside(self, path: Path, why: str) -> None:
        if self._aside() >= ASIDE_MAX:
            path.unlink(missing_ok=True)
            logger.error("an outcome was dropped, %s: %s", why, path)
            return
        aside = path.with_name(path.name + ".aside")
        path.rename(aside)
        logger.error("an outcome was set aside, %s: %s", why, aside)

    def _aside(self) -> int:
        return sum(1 for _ in self.directory.glob("*.aside"))


def _is_entry(name: str) -> bool:
    return name.endswith(".json")


def _mark(ask: Ask) -> str:
    """Mark the entries of one call."""
    return hashlib.sha256(f"{ask.tenant}\0{ask.item['key']}".encode()).hexdigest()[:32]


@contextlib.contextmanager
def _claimed(path: Path, wait_s: float) -> Iterator[bool]:
    """Take an entry; False where another has it, or has told it."""
    try:
        entry_fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        yield False
        return
    try:
        if not wait_for_lock(entry_fd, fcntl.LOCK_EX, timeout_s=wait_s):
            yield False
            return
        try:
            yield path.exists()
        finally:
            # A child forked meanwhile has the same lock open and would keep it.
            fcntl.flock(entry_fd, fcntl.LOCK_UN)
    finally:
        os.close(entry_fd)


def _read(path: Path) -> tuple[Ask | None, Ask]:
    content = json.loads(path.read_bytes())
    if content["version"] != VERSION or content["function"] not in FUNCTIONS:
        raise ValueError(f"version {content['version']} of {content['function']!r} is not known here")
    tenant, begin = content["tenant"], content.get("begin")
    ask = Ask(content["function"], tenant, dict(content["item"]), shielded=True)
    # By that the ledger does not take what was told, and is told again, for one more attempt.
    return None if begin is None else Ask("begin", tenant, dict(begin) | {"unguarded": True}), ask


def _content_of(path: Path) -> dict[str, Any] | None:
    """Read an entry; None where it cannot be read: nobody will tell it, and whose it is cannot be told either."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        logger.warning("cannot tell whether %s holds what is to be erased, so it is left: %s", path, error)
        return None
    return content if isinstance(content, dict) else None


def _put(path: Path, data: bytes) -> None:
    """Write a file beside its place and then into it, so that it is there whole or as it was."""
    part = path.with_suffix(".part")
    try:
        _write(part, data)
        part.rename(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def _write(path: Path, data: bytes) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync(directory: Path) -> None:
    directory_fd = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(directory_fd)
    finally:
        os.close(directory_fd)


def _size(entries: list[Path]) -> int:
    size = 0
    for path in entries:
        with contextlib.suppress(OSError):
            size += path.stat().st_size
    return size

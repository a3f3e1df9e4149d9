"""Where a process ends without telling Python, what waits is flushed first."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap

import pytest

PROGRAM = """
    import signal, sys, threading, time
    from spanledger.telemetry import exits

    exits.FLUSH_MAX_S = 0.2
    lock = threading.Lock()

    def flushes():
        print("flushed", flush=True)

    def raises():
        raise RuntimeError("the backend is on fire")

    def hangs():
        time.sleep(3600)

    def needs_what_is_held():
        with lock:
            print("flushed")

    {before}
    exits.flush_at_end({flush})
    with lock:
        signal.raise_signal(signal.SIGTERM)
    print("went on")
"""


def ended(flush: str, before: str = "pass") -> subprocess.CompletedProcess[str]:
    program = textwrap.dedent(PROGRAM).format(flush=flush, before=before)
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)


def test_sigterm_flushes_and_ends_the_program_as_it_would_have():
    done = ended("flushes")
    assert (done.stdout, done.returncode) == ("flushed\n", -signal.SIGTERM)


@pytest.mark.parametrize("flush", ["raises", "hangs", "needs_what_is_held"])
def test_so_it_ends_where_nothing_can_be_flushed(flush):
    done = ended(flush)
    assert (done.stdout, done.returncode) == ("", -signal.SIGTERM)


def test_who_handles_the_signal_goes_on_to_do_so():
    done = ended("flushes", before="signal.signal(signal.SIGTERM, lambda *_: print('mine'))")
    assert (done.stdout, done.returncode) == ("mine\nwent on\n", 0)


def test_outside_the_main_thread_no_signal_is_handled():
    elsewhere = "t = threading.Thread(target=exits.flush_at_end, args=(flushes,)); t.start(); t.join()"
    done = ended("flushes", before=f"{elsewhere}; exits.flush_at_end = lambda _: None")
    assert (done.stdout, done.returncode) == ("", -signal.SIGTERM)

"""A primary that dies under load, and a standby that has all it had confirmed."""

from __future__ import annotations

import random
from pathlib import Path

from hosts import NAME, Server, pair
from worlds import World

from spanledger import Ledger


def either_of(a: Server, b: Server) -> str:
    """The address of whichever of two servers takes writes."""
    return (
        f"host=127.0.0.1,127.0.0.1 port={a.port},{b.port} user={NAME} dbname={NAME} "
        "sslmode=disable gssencmode=disable target_session_attrs=read-write connect_timeout=2"
    )


def test_a_failover_under_load_loses_nothing_that_was_confirmed_and_pays_nobody_twice(tmp_path: Path) -> None:
    with pair(tmp_path / "servers") as (primary, standby, _):
        dsn = either_of(primary, standby)
        with Ledger(dsn) as ledger:
            ledger.migrate()
        world = World(dsn, orders=120, seed=random.SystemRandom().getrandbits(32))

        with world.working(threads=3, tasks=5):
            world.wait_for_effects(40)
            primary.kill()
            standby.promote()

        assert world.bank.paid.total() > 100
        states = world.check()
        assert states.get("unknown", 0) < 20

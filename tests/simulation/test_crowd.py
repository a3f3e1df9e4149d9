"""A small crowd behind a pooler. `python -m tests.simulation.crowd` plays one of 500 clients on 20 connections."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.ledger.pooler import PGBOUNCER, pgbouncer
from tests.simulation.crowd import Crowd, check, play

pytestmark = pytest.mark.skipif(PGBOUNCER is None, reason="needs pgbouncer")

CONNECTIONS = 4


def test_a_crowd_behind_a_pooler_spends_a_budget_to_the_cent_and_runs_a_shared_key_once(dsn, tmp_path: Path) -> None:
    effects = tmp_path / "effects"
    effects.mkdir()
    with pgbouncer(dsn, tmp_path, "transaction", CONNECTIONS) as through:
        crowd = Crowd(through(dsn), str(effects), processes=4, clients=15, calls=3, affordable=60)
        came = play(crowd, dsn)
        check(crowd, came, dsn, CONNECTIONS)
    assert came.took_s < 60

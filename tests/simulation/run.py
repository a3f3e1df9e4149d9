"""Play many rounds, each with a seed of its own that is printed.

    python -m tests.simulation.run [--rounds N] [--seed SEED] [--workers N]

It starts a private server for itself and ends with an error at the first round whose books do not agree.
"""

from __future__ import annotations

import argparse
import random
import tempfile
from pathlib import Path

import psycopg
from tests.simulation.chaos import Plan, play
from tests.simulation.test_chaos import check

from spanledger import Config, Ledger
from spanledger.ledger._embedded import EmbeddedPostgres


def main() -> None:
    """Play, check, and say how it went."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--seed", type=int, help="play this one, over and over")
    parser.add_argument("--workers", type=int, default=4)
    arguments = parser.parse_args()
    deaths = 0
    with tempfile.TemporaryDirectory() as folder:
        server = EmbeddedPostgres(Path(folder), linger_s=0.0)
        try:
            for number in range(arguments.rounds):
                seed = random.SystemRandom().getrandbits(32) if arguments.seed is None else arguments.seed
                deaths += one(server.dsn(), Path(folder, f"bank-{number}"), seed, arguments.workers)
        finally:
            server.release()
    print(f"{arguments.rounds} rounds, {deaths} workers killed: no effect happened twice, no outcome is a lie")


def one(dsn: str, bank: Path, seed: int, workers: int) -> int:
    """Play one round in a database of its own; returns how many workers were killed."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("drop database if exists round with (force)")
        connection.execute("create database round")
    own = psycopg.conninfo.make_conninfo(dsn, dbname="round")
    with Ledger(config=Config(dsn=own)) as ledger:
        ledger.migrate()
    drawn = random.Random(seed)
    plan = Plan(own, str(bank), seed, drawn.choice(("ask", "probe")), drawn.random() < 0.5, workers=workers)
    print(f"seed {seed} ({plan.on_unknown}{', approvals' if plan.approval else ''})", end=" ", flush=True)
    played = play(plan)
    check(plan, played)
    print(f"{played.deaths} killed, {sorted(played.states.values())}")
    return played.deaths


if __name__ == "__main__":
    main()

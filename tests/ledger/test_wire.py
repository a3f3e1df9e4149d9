"""A question over a wire has its own time, whatever was asked over it before."""

from __future__ import annotations

import asyncio

import psycopg

from spanledger.errors import LedgerUnavailable
from spanledger.ledger._functions import Question
from spanledger.ledger._wire import AwaitingWire


async def wired(dsn: str) -> AwaitingWire:
    return AwaitingWire(await psycopg.AsyncConnection.connect(dsn, autocommit=True), prepares=False)


def test_a_question_has_all_its_time_though_another_was_asked_a_moment_before(dsn: str) -> None:
    async def main() -> None:
        wire = await wired(dsn)
        await wire.ask(Question(b"select 1", ()), 3.0)
        await asyncio.sleep(1.5)
        answer = await wire.ask(Question(b"select 'late' from pg_sleep(2)", ()), 3.0)
        assert answer.rows() == [("late",)]
        assert wire.usable
        await wire.close()

    asyncio.run(main())


def test_a_question_has_no_more_than_its_time_though_the_one_before_had_longer(dsn: str) -> None:
    async def main() -> None:
        wire = await wired(dsn)
        await wire.ask(Question(b"select 1", ()), 600.0)
        answer = await wire.ask(Question(b"select pg_sleep(600)", ()), 0.2)
        assert isinstance(answer.error, LedgerUnavailable)
        assert not wire.usable
        await wire.close()

    asyncio.run(main())


def test_a_wire_that_nobody_asks_any_more_stays_usable(dsn: str) -> None:
    async def main() -> None:
        wire = await wired(dsn)
        await wire.ask(Question(b"select 1", ()), 0.05)
        await asyncio.sleep(0.2)
        assert wire.usable
        assert (await wire.ask(Question(b"select 2", ()), 600.0)).rows() == [(2,)]
        await wire.close()

    asyncio.run(main())

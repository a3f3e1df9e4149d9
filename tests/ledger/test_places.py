"""A loop has so many connections: who finds none free waits for one, and a place is never lost."""

from __future__ import annotations

import asyncio

import psycopg
import pytest

from spanledger.errors import LedgerUnavailable
from spanledger.ledger._pools import CONNECTIONS_MAX, AwaitingPool
from spanledger.ledger._wire import AwaitingWire


def pool_of(dsn: str, timeout_s: float) -> AwaitingPool:
    async def connect() -> AwaitingWire:
        return AwaitingWire(await psycopg.AsyncConnection.connect(dsn, autocommit=True), prepares=False)

    return AwaitingPool(connect, timeout_s=timeout_s)


async def all_of(pool: AwaitingPool) -> list[AwaitingWire]:
    return [await pool.borrow() for _ in range(CONNECTIONS_MAX)]


async def check_whole(pool: AwaitingPool, wires: list[AwaitingWire]) -> None:
    """There are as many places as there were, and no more."""
    for wire in wires:
        await pool.take_back(wire)
    wires = await all_of(pool)
    further = asyncio.create_task(pool.borrow())
    await asyncio.sleep(0.05)
    assert not further.done()
    await pool.take_back(wires[0])
    for wire in (*wires[1:], await further):
        await pool.take_back(wire)
    await pool.close()


def test_who_waits_longest_is_next(dsn: str) -> None:
    async def main() -> None:
        pool = pool_of(dsn, 60.0)
        wires = await all_of(pool)
        first, second = asyncio.create_task(pool.borrow()), asyncio.create_task(pool.borrow())
        await asyncio.sleep(0)
        await pool.take_back(wires[0])
        assert await first is wires[0]
        assert not second.done()
        await pool.take_back(wires[1])
        assert await second is wires[1]
        await check_whole(pool, wires)

    asyncio.run(main())


def test_who_waits_too_long_is_told_so_and_takes_no_place_with_it(dsn: str) -> None:
    async def main() -> None:
        pool = pool_of(dsn, 60.0)
        wires = await all_of(pool)
        pool._timeout_s = 0.05
        with pytest.raises(LedgerUnavailable, match="no connection"):
            await pool.borrow()
        pool._timeout_s = 60.0
        await check_whole(pool, wires)

    asyncio.run(main())


def test_who_is_cancelled_takes_no_place_with_it_even_if_one_was_just_left_to_it(dsn: str) -> None:
    async def main() -> None:
        pool = pool_of(dsn, 60.0)
        wires = await all_of(pool)
        waits, is_given = asyncio.create_task(pool.borrow()), asyncio.create_task(pool.borrow())
        await asyncio.sleep(0)
        waits.cancel()
        await pool.take_back(wires.pop())
        is_given.cancel()
        await asyncio.wait([waits, is_given])
        assert waits.cancelled()
        assert is_given.cancelled()
        await check_whole(pool, wires)

    asyncio.run(main())


def test_who_cannot_connect_takes_no_place_with_it(dsn: str) -> None:
    async def main() -> None:
        pool = pool_of(f"{dsn} dbname=nobody_made_it", 60.0)
        for _ in range(CONNECTIONS_MAX + 1):
            with pytest.raises(psycopg.OperationalError):
                await pool.borrow()
        await pool.close()

    asyncio.run(main())

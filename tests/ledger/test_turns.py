"""Many calls that set out at once leave the loop to others in between, and nobody is forgotten."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import weakref

from spanledger import AsyncLedger, Config, ToolCall
from spanledger.ledger._turns import IN_ROUND_MAX, turn


async def set_out(name: int, order: list[int | str]) -> None:
    if (mine := turn()) is not None:
        await mine
    order.append(name)


async def rounds(order: list[int | str]) -> None:
    while True:
        order.append("round")
        await asyncio.sleep(0)


def test_so_many_set_out_in_a_round_and_the_others_after_them_in_their_order() -> None:
    async def main() -> list[int | str]:
        order: list[int | str] = []
        ticking = asyncio.create_task(rounds(order))
        await asyncio.gather(*(set_out(name, order) for name in range(5 * IN_ROUND_MAX)))
        ticking.cancel()
        return order

    order = asyncio.run(main())
    crowds = " ".join(map(str, order)).split("round")
    assert [name for name in order if name != "round"] == list(range(5 * IN_ROUND_MAX))
    assert max(len(crowd.split()) for crowd in crowds) == IN_ROUND_MAX


def test_one_after_the_other_waits_for_nobody() -> None:
    async def main() -> None:
        for _ in range(3 * IN_ROUND_MAX):
            assert turn() is None
            await asyncio.sleep(0)

    asyncio.run(main())


def test_who_is_cancelled_holds_up_nobody() -> None:
    async def main() -> list[int | str]:
        order: list[int | str] = []
        tasks = [asyncio.create_task(set_out(name, order)) for name in range(3 * IN_ROUND_MAX)]
        await asyncio.sleep(0)
        for task in tasks[IN_ROUND_MAX : 2 * IN_ROUND_MAX + 5]:
            task.cancel()
        await asyncio.wait(tasks)
        return order

    kept = [*range(IN_ROUND_MAX), *range(2 * IN_ROUND_MAX + 5, 3 * IN_ROUND_MAX)]
    assert asyncio.run(main()) == kept


def test_a_loop_is_not_kept_alive() -> None:
    loops = []

    async def main() -> None:
        loops.append(weakref.ref(asyncio.get_running_loop()))
        assert turn() is None

    asyncio.run(main())
    gc.collect()
    assert loops[0]() is None


def test_a_crowd_that_is_cancelled_on_its_way_claims_nothing_and_the_rest_run(dsn: str) -> None:
    calls = [ToolCall("refund", {"n": n}, workflow_id="w") for n in range(2 * IN_ROUND_MAX)]

    async def main() -> tuple[list[int], list[dict | None]]:
        async with AsyncLedger(config=Config(dsn=dsn)) as ledger:
            ran: list[int] = []
            tasks = [asyncio.create_task(ledger.run(call, lambda n=n: ran.append(n))) for n, call in enumerate(calls)]
            await asyncio.sleep(0)
            for task in tasks[IN_ROUND_MAX:]:
                task.cancel()
            for task in tasks:
                with contextlib.suppress(asyncio.CancelledError):
                    await task
            return sorted(ran), [await ledger.get(ledger.key(call)) for call in calls]

    ran, rows = asyncio.run(main())
    assert ran == list(range(IN_ROUND_MAX))
    assert [row is not None for row in rows] == [n in ran for n in range(len(calls))]

import asyncio
import time

from remix_study.study.start_barrier import Barrier, wait_at_barrier


def test_the_barrier_opens_when_all_have_arrived() -> None:
    async def three() -> list[str]:
        door, order = Barrier(3, 60.0), list[str]()

        async def one(name: str) -> None:
            await door.arrive()
            order.append(f"{name} on")

        first, second = asyncio.create_task(one("first")), asyncio.create_task(one("second"))
        await asyncio.sleep(0)  # both wait at the barrier
        order.append("third comes")
        await asyncio.gather(first, second, one("third"))
        return order

    assert asyncio.run(three())[0] == "third comes"


def test_an_open_barrier_stays_open() -> None:
    async def later() -> None:
        door = Barrier(2, 60.0)
        await asyncio.gather(door.arrive(), door.arrive())
        await door.arrive()

    asyncio.run(later())


def test_open_releases_the_processes_that_wait() -> None:
    async def alone() -> None:
        door = Barrier(2, 60.0)
        waiting = asyncio.create_task(door.arrive())
        await asyncio.sleep(0)
        assert not waiting.done()
        await door.open()
        await waiting

    asyncio.run(alone())


def test_the_barrier_opens_after_its_timeout() -> None:
    started = time.monotonic()
    asyncio.run(Barrier(2, 0.05).arrive())
    assert 0.05 <= time.monotonic() - started < 5


def test_without_a_barrier_no_process_waits() -> None:
    wait_at_barrier(None)

"""What breaks off in the middle of owning state: nothing is lost, nobody stops over himself."""

import asyncio
from collections.abc import Mapping

import pytest

from app import ownership
from app.live import StateError
from app.meta import Meta
from app.watermarks import Watermark
from features.state import TRANSACTIONS
from tests.app.builders import T0
from tests.app.test_intake import until
from tests.app.test_ownership import PARTITIONS, Bench, bench

__all__ = ["bench"]


async def test_a_released_partition_whose_watermarks_are_being_read(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The read's answer comes after the release: it is passed over."""
    one = bench.owner("w1")
    await one.own(0, 1)
    bench.marks.marks[0] = [Watermark(TRANSACTIONS, 0, T0)]
    plain, going, go_on = bench.marks.read, asyncio.Event(), asyncio.Event()

    async def slow(starts: Mapping[int, int]) -> dict[int, tuple[list[Watermark], int]]:
        found = await plain(starts)
        going.set()
        await go_on.wait()
        return found

    monkeypatch.setattr(bench.marks, "read", slow)
    hearing = asyncio.create_task(one.its.hear_others())
    await going.wait()
    await one.release(0)
    go_on.set()
    await hearing


async def test_a_release_after_a_flush_that_broke_off(bench: Bench) -> None:
    """Partition 0 is another's: that ends the flush; 1 is released with all its rows, or not."""
    one, two = bench.owner("w1"), bench.owner("w2")
    await one.own(0, 1)
    await one.read(0, 1, committed=True)
    await one.read(1, 3, committed=True)
    await two.own(0)
    with pytest.raises(StateError):
        await one.its.flush()
    await one.release(0, 1)
    meta = bench.store.meta(1)
    assert meta is not None
    assert (meta.next_offset, len(bench.store.rows(1))) in [((3, 0), 4), ((0, 0), 0)]


async def test_a_claim_whose_answer_was_lost_and_a_flush(bench: Bench) -> None:
    """Everything is claimed again after go_back; the epoch in Redis is our own."""
    one = bench.owner("w1")
    await one.own(0)
    await one.read(0, 3, committed=True)
    assert await one.fence(0)
    bench.store.answers_lost = 1
    assert await one.claim(0) is None
    await one.its.flush()
    assert await one.own(0)


async def test_an_own_id_in_doubt_is_fenced_also_where_redis_has_lost_it(bench: Bench) -> None:
    """Its transaction may still be open, and nobody else knows of it; once is enough."""
    one = bench.owner("w1")
    one.its.begin("g.w1.first")
    await one.own(0)
    assert bench.fenced == []
    one.its.begin("g.w1.second")
    bench.store.blobs.clear()
    assert await one.fence(0)
    assert await one.fence(0)
    assert bench.fenced == ["g.w1.first"]


async def test_long_fencing_is_done_once(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The consumer's thread is let go meanwhile, and what is under way is not begun anew."""
    monkeypatch.setattr(ownership, "FENCE_S", 0.0)
    one = bench.owner("w1")
    bench.store.put(0, Meta(PARTITIONS, 3, "w0", released=False, transactional_id="g.w0"))
    assert not await one.fence(0)
    await until(lambda: bench.fenced)
    await asyncio.sleep(0.05)
    assert await one.fence(0)
    assert bench.fenced == ["g.w0"]

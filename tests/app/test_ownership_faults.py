"""What breaks off in the middle of owning state: nothing is lost, nobody stops over himself."""

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from app import ownership
from app.errors import StoreUnavailable
from app.live import StateError
from app.meta import Meta
from app.watermarks import Watermark
from features.blob import customer_key
from features.state import TRANSACTIONS
from tests.app.builders import T0
from tests.app.test_intake import until
from tests.app.test_ownership import AT, PARTITIONS, SPACE, Bench, bench

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
    hearing = asyncio.create_task(one.its.marks.hear_others())
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


async def test_older_state_than_ours_gets_no_live_worker_fenced(bench: Bench) -> None:
    """Redis went back to when another owned what we hold: he may be at work on something else."""
    one = bench.owner("w1")
    one.its.transactional_id = "g.w1.b"
    await one.own(0)
    other = Meta(PARTITIONS, 0, "w2", released=False, transactional_id="g.w2.live")
    bench.store.put(0, other)
    await one.own(0)
    assert bench.fenced == []
    await one.release(0, lost=True)
    bench.store.put(0, other)
    await one.own(0)
    assert bench.fenced == ["g.w2.live"]


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


async def test_a_worker_that_slept_fences_nobody(bench: Bench) -> None:
    """It goes back before it hears that its partition was given away: the new owner goes on."""
    one, two = bench.owner("w1"), bench.owner("w2")
    one.its.transactional_id, two.its.transactional_id = "g.w1", "g.w2"
    await one.own(0)
    await two.own(0)
    assert bench.fenced == ["g.w1"]
    with pytest.raises(StateError, match="'w2'"):
        await one.fence(0)
    assert bench.fenced == ["g.w1"]
    assert bench.store.meta(0) == two.live.owned[0]


async def test_a_partition_that_is_given_to_us_again_is_taken(bench: Bench) -> None:
    """What another did with it in between is his: he is fenced like any former owner."""
    one, two = bench.owner("w1"), bench.owner("w2")
    two.its.transactional_id = "g.w2"
    await one.own(0)
    await one.release(0, lost=True)
    await two.own(0)
    assert await one.own(0)
    assert bench.fenced == ["g.w2"]
    assert bench.store.meta(0).epoch == 3


async def test_a_new_incarnation_claims_what_the_last_one_may_have_claimed(bench: Bench) -> None:
    """The answer of that claim was lost: its id is fenced, and nobody takes it for another's."""
    one = bench.owner("w1")
    one.its.transactional_id = "g.w1.a"
    assert await one.fence(0)
    bench.store.answers_lost = 1
    assert await one.claim(0) is None
    one.its.transactional_id = "g.w1.b"
    assert await one.own(0)
    assert bench.fenced == ["g.w1.a"]
    assert bench.store.meta(0).epoch == 2


async def test_nobody_is_claimed_over_unfenced(bench: Bench) -> None:
    """Another claims between our fence and our claim: first his transaction must be ended."""
    one, two = bench.owner("w1"), bench.owner("w2")
    two.its.transactional_id = "g.w2"
    assert await one.fence(0)
    await two.own(0)
    assert await one.claim(0) is None
    assert bench.store.meta(0) == two.live.owned[0]
    assert await one.own(0)
    assert bench.fenced == ["g.w2"]


async def test_two_that_race_to_claim(bench: Bench) -> None:
    """Both fenced, one is first: the other claims later, or is told; never both at once."""
    one, two = bench.owner("w1"), bench.owner("w2")
    assert await one.fence(0)
    assert await two.fence(0)
    won = await asyncio.gather(one.claim(0), two.claim(0))
    assert [starts is None for starts in won].count(True) == 1
    winner, loser = (one, two) if won[0] else (two, one)
    assert bench.store.meta(0) == winner.live.owned[0]
    assert loser.live.owned == {}
    await winner.read(0, 1, committed=True)
    assert await loser.own(0)
    with pytest.raises(StateError):
        await winner.its.flush()


async def test_the_state_is_away_at_a_claim(bench: Bench) -> None:
    """Nothing is owned meanwhile; once it is back the claim goes on, with the same epoch."""
    one = bench.owner("w1")
    assert await one.fence(0)
    bench.store.away = True
    assert await one.claim(0) is None
    assert not await one.fence(0)
    assert one.live.owned == {}
    bench.store.away = False
    assert await one.own(0)
    assert bench.store.meta(0).epoch == 1


async def test_a_partition_that_is_taken_while_it_catches_up(bench: Bench) -> None:
    """Who is behind writes nothing over the successor, and its records are no state of ours."""
    one, two, three = (bench.owner(name) for name in ("w1", "w2", "w3"))
    await one.own(0)
    await one.read(0, 5, committed=True)
    two.known.offsets = dict(one.known.offsets)
    await two.own(0)
    await two.read(0, 3)  # of five that were answered
    three.known.offsets = dict(one.known.offsets)
    assert await three.own(0) == {("transactions", 0): 0, ("labels", 0): 0}
    with pytest.raises(StateError, match="'w3'"):
        await two.its.flush()
    await two.release(0)
    assert bench.store.meta(0) == three.live.owned[0]
    assert bench.store.rows(0) == []


async def test_state_that_another_claims_meanwhile_is_not_cleared(bench: Bench) -> None:
    """It is no longer what was read of it before."""
    one = bench.owner("w1")
    bench.store.put(0, Meta(PARTITIONS, 3, "w2", released=False))
    before = dict(bench.store.blobs)
    with pytest.raises(StoreUnavailable):
        await one.its._fill_anew(0, b"junk")
    assert bench.store.blobs == before


async def test_who_gives_up_a_partition_unreleased_goes_on_under_another_id(bench: Bench) -> None:
    """What stands with it is fenced by the next owner; released, or never ours, it stays."""
    one = bench.owner("w1")
    renewed: list[int] = []
    one.its.renew = lambda: renewed.append(len(renewed))
    await one.own(0, 1, 2)
    await one.release(0)
    await one.release(3, lost=True)
    assert renewed == []
    await one.release(1, lost=True)
    assert renewed == [0]
    assert one.known.gone_back == 0
    one.its.transactional_id = "g.w1"
    await one.release(2, lost=True)
    assert one.known.gone_back == 1, "Redis is to name the new id for all that is still owned"


async def test_a_redis_that_was_rolled_back_has_nobody_fenced(bench: Bench) -> None:
    """It names an owner who was gone before we came, and may be at work elsewhere."""
    one, two = bench.owner("w1"), bench.owner("w2")
    one.its.transactional_id, two.its.transactional_id = "g.w1", "g.w2"
    await one.own(0)
    await one.read(0, 2, committed=True)
    await one.its.flush()
    older = dict(bench.store.blobs)
    await one.release(0)
    two.known.offsets = dict(one.known.offsets)
    await two.own(0)
    bench.store.blobs = older
    assert await two.own(0)
    assert bench.fenced == []
    assert bench.store.meta(0).epoch == 3, "above what it was before, not what was found"
    two.its.transactional_id = "g.w2.b"
    assert await two.own(0)
    assert bench.fenced == ["g.w2"]


async def test_a_partition_is_revoked_while_its_flush_is_on_the_way(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis answers after the consumer's thread has given up waiting: it is released all the same.

    Nothing is written twice, and the next owner, who comes later, fences nobody.
    """
    monkeypatch.setattr(ownership, "RELEASE_S", 0.05)
    one, two = bench.owner("w1"), bench.owner("w2")
    one.its.transactional_id = "g.w1"
    await one.own(0)
    await one.read(0, 3, committed=True)
    plain, arrived, go_on = bench.store.flush, asyncio.Event(), asyncio.Event()

    async def slow(*its: Any) -> bool:
        arrived.set()
        await go_on.wait()
        return await plain(*its)

    monkeypatch.setattr(bench.store, "flush", slow)
    flushing = asyncio.create_task(one.its.flush())
    await arrived.wait()
    await one.release(0)
    assert 0 in one.live.owned, "it is not waited for any longer, and goes on"
    go_on.set()
    await flushing
    await until(lambda: bench.store.meta(0).released)
    assert (bench.store.meta(0).next_offset, one.live.owned) == ((3, 0), {})
    two.known.offsets = dict(one.known.offsets)
    assert await two.own(0) == {AT: 3, ("labels", 0): 0}
    assert bench.fenced == []


async def test_state_that_we_made_anew_is_nobody_elses(bench: Bench) -> None:
    """The claim after it does not come off at first: it is fenced again, and made anew but once."""
    one = bench.owner("w1")
    await one.own(0)
    one.live.distrusted.add(0)
    assert await one.fence(0)
    bench.store.blobs[customer_key(SPACE, 0, b"new")] = b"blob"
    assert await one.fence(0)
    assert len(bench.store.rows(0)) == 1
    assert await one.own(0)
    assert bench.store.meta(0).epoch == 2
    bench.store.blobs.clear()
    assert await one.fence(0)
    assert await one.own(0)
    assert bench.store.meta(0).epoch == 3


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

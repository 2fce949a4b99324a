"""Owning state over a store in memory: fence, claim, flush after the commit, release.

Each owner has a thread's place in `asyncio.to_thread`, as the consumer's thread calls it, and is
told by `Known` what is committed. Records are read by `Enrich`, so that there are rows to write.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from app import ownership
from app.adapters.memory import MemoryStore, MemoryWatermarks
from app.enrich import Enrich
from app.errors import ConfigError, StoreUnavailable
from app.ledger import Position
from app.live import Live, StateError
from app.meta import Meta, Pair
from app.metrics import Metrics
from app.ownership import Ownership
from app.snapshots import Snapshots
from app.watermarks import Watermark
from features.blob import customer_key, meta_key
from features.contract import LIVE
from features.state import LABELS, NEVER, TRANSACTIONS
from tests.app.builders import T0, record_batch, transactions
from tests.app.test_intake import until

if TYPE_CHECKING:
    from pathlib import Path

TOPICS = ("transactions", "labels")
PARTITIONS = 4
AT, LABELS_AT, NEXT_AT = ("transactions", 0), ("labels", 0), ("transactions", 1)
SPACE = Live(LIVE, PARTITIONS, 1, 1).namespace


class Known:
    """What a consumer knows of its commits, which a test says; implements `Commits`."""

    def __init__(self) -> None:
        self.offsets: dict[Position, int] = {}
        self.asked: list[dict[Position, int]] = []
        self.refuses, self.gone_back = False, 0
        self.tasks: list[asyncio.Future[None]] = []

    async def confirmed(
        self, offsets: Mapping[Position, int], still: Callable[[], bool], *, but_one: bool = False
    ) -> bool:
        """See `Commits.confirmed`; False at once if it `refuses`."""
        del but_one
        self.asked.append(dict(offsets))
        async with asyncio.timeout(5):
            while not self.refuses and still():
                if all(self.committed(at) >= offset for at, offset in offsets.items()):
                    return True
                await asyncio.sleep(0.002)
        return False

    def committed(self, at: Position) -> int:
        """See `Commits.committed`."""
        return self.offsets.get(at, -1)

    def ended(self, task: asyncio.Future[None]) -> None:
        """See `Commits.ended`."""
        self.tasks.append(task)

    def go_back(self) -> None:
        """See `Commits.go_back`."""
        self.gone_back += 1

    def at_end(self) -> dict[Position, int]:
        """See `Commits.at_end`."""
        return {}


class Store(MemoryStore):
    """A store that loses the answers of `answers_lost` writes."""

    answers_lost = 0

    async def flush(self, *its: Any, **more: Any) -> bool:
        """See `StateStore.flush`."""
        done = await super().flush(*its, **more)
        if self.answers_lost:
            self.answers_lost -= 1
            raise StoreUnavailable("the answer was lost")
        return done

    def meta(self, partition: int) -> Meta:
        """What is said of a partition."""
        found = Meta.parse(self.blobs.get(meta_key(SPACE, partition)))
        assert found is not None
        return found

    def put(self, partition: int, meta: Meta) -> None:
        """Let that be said of a partition, and a customer be in it."""
        self.blobs[meta_key(SPACE, partition)] = meta.encode()
        self.blobs[customer_key(SPACE, partition, b"old")] = b"blob"

    def rows(self, partition: int) -> list[bytes]:
        """The keys of a partition's customers and shares."""
        prefix = customer_key(SPACE, partition, b"").removesuffix(b"c:")
        return sorted(k for k in self.blobs if k.startswith(prefix) and not k.endswith(b":meta"))


class Owner:
    """One worker's `Ownership` with the consumer's thread and the pipeline around it."""

    def __init__(self, bench: "Bench", name: str, flush_s: float) -> None:
        self.live, self.known = Live(LIVE, PARTITIONS, 64, 64 * PARTITIONS), Known()
        self.its = its = Ownership(
            self.live, bench.store, TOPICS, name, "here", Metrics(), lambda: T0,
            flush_s=flush_s, marks=bench.marks, fencer=bench.fenced.append,
            snapshots=Snapshots(bench.directory, SPACE, PARTITIONS, "here", bench.every_s),
            append_time=lambda _topic, _partition: bench.oldest_us,
        )  # fmt: skip
        self.enrich = Enrich(self.live, bench.store, lambda: T0, its.backoff, its.make_room)
        its.start(self.known)

    async def fence(self, *partitions: int) -> bool:
        """See `StateOwner.fence`."""
        return await asyncio.to_thread(self.its.fence, partitions)

    async def claim(self, *partitions: int) -> Mapping[Position, int] | None:
        """See `StateOwner.claim`; with the committed offsets that are known."""
        return await asyncio.to_thread(self.its.claim, partitions, dict(self.known.offsets))

    async def own(self, *partitions: int) -> Mapping[Position, int]:
        """Fence and claim; where reading begins."""
        assert await self.fence(*partitions)
        starts = await self.claim(*partitions)
        assert starts is not None
        return starts

    async def release(self, *partitions: int, lost: bool = False) -> None:
        """See `StateOwner.release`."""
        await asyncio.to_thread(self.its.release, partitions, lost=lost)

    async def read(self, partition: int, count: int, *, committed: bool = False) -> None:
        """Let the state know the next transactions, each of a customer of its own."""
        first = self.live.next_offset[TRANSACTIONS, partition]
        rows = [
            {"partition": partition, "offset": i, "customer_id": f"c{i}", "event_time_us": T0 + i}
            for i in range(first, first + count)
        ]
        records = record_batch([(partition, first + i, None, None) for i in range(count)])
        await self.enrich.vectors(records, transactions(rows))
        if committed:
            self.known.offsets["transactions", partition] = first + count

    def quiet(self, partition: int) -> Pair:
        """Up to when a partition's logs are known to be complete."""
        known = self.live.state.quiet_us[:, partition]
        return int(known[TRANSACTIONS]), int(known[LABELS])


class Bench:
    """Owners that share a store, the topic of watermarks, and a broker that fences."""

    def __init__(self) -> None:
        self.store, self.marks = Store(), MemoryWatermarks()
        self.fenced: list[str] = []
        self.directory: Path | None = None
        self.every_s, self.oldest_us = 0.0, T0
        self.owners: list[Owner] = []

    def owner(self, name: str, flush_s: float = 3600) -> Owner:
        """A new worker, which by default flushes only when it is told to."""
        self.owners.append(Owner(self, name, flush_s))
        return self.owners[-1]


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    """A bench whose owners are closed at the end."""
    bench = Bench()
    yield bench
    for owner in bench.owners:
        await owner.its.close()


async def test_the_first_owner_begins_at_the_oldest_records(bench: Bench) -> None:
    """Nothing is in the store: fencing writes that nobody owns it, claiming has epoch 1."""
    one = bench.owner("w1")
    assert await one.fence(0)
    assert bench.store.meta(0) == Meta(PARTITIONS)
    assert await one.claim(0) == {AT: 0, LABELS_AT: 0}
    claimed = bench.store.meta(0)
    assert claimed == Meta(PARTITIONS, 1, "w1", released=False, source="here")
    assert one.live.owned == {0: claimed}


async def test_the_next_owner_begins_where_the_flushed_state_ends(bench: Bench) -> None:
    """What was answered and not flushed is read again, silently; all else is as it was left."""
    one, two = bench.owner("w1"), bench.owner("w2")
    await one.own(0)
    await one.read(0, 3, committed=True)
    await one.its.flush()
    await one.read(0, 2, committed=True)
    two.known.offsets = {AT: 5}
    assert await two.own(0) == {AT: 3, LABELS_AT: 0}
    claimed = bench.store.meta(0)
    assert (claimed.epoch, claimed.owner, claimed.next_offset) == (2, "w2", (3, 0))
    its, offsets = np.zeros(2, np.int32), np.array([4, 5])
    assert two.live.silent(TRANSACTIONS, its, offsets).tolist() == [True, False]
    assert len(bench.store.rows(0)) == 4  # three customers and a terminal


async def test_only_former_owners_that_did_not_let_go_are_fenced(bench: Bench) -> None:
    """Each once, however many partitions it had; not who released, wrote in none, or is us."""
    one = bench.owner("w1")
    one.its.transactional_id = "g.w1"
    held = Meta(PARTITIONS, 3, "w0", released=False, transactional_id="g.w0")
    bench.store.put(0, held)
    bench.store.put(1, held)
    bench.store.put(2, replace(held, released=True, transactional_id="g.gone"))
    bench.store.put(3, replace(held, owner="w1", transactional_id="g.w1"))
    before = dict(bench.store.blobs)
    assert await one.fence(0, 1, 2, 3)
    assert bench.fenced == ["g.w0"]
    assert bench.store.blobs == before
    bench.store.put(0, replace(held, transactional_id=""))
    await one.own(0)
    assert bench.fenced == ["g.w0"]
    assert bench.store.meta(0).transactional_id == "g.w1"


@pytest.mark.parametrize("value", [b"junk", b"deleting", b'{"partitions":4}'])
async def test_state_whose_meta_cannot_be_read_is_cleared(bench: Bench, value: bytes) -> None:
    """Of that partition and this namespace only, also where a clearing broke off in the middle."""
    one = bench.owner("w1")
    bench.store.put(0, Meta(PARTITIONS, 7, next_offset=(9, 9)))
    bench.store.put(1, Meta(PARTITIONS, 7, next_offset=(9, 9)))
    bench.store.blobs[meta_key(SPACE, 0)] = value
    others = {customer_key(f"{SPACE}.b", 0, b"old"): b"b", customer_key(SPACE, 10, b"old"): b"b"}
    bench.store.blobs |= others
    assert await one.own(0, 1) == {AT: 0, LABELS_AT: 0, NEXT_AT: 9, ("labels", 1): 9}
    assert bench.store.rows(0) == []
    assert len(bench.store.rows(1)) == 1
    assert others.items() <= bench.store.blobs.items()
    assert [bench.store.meta(p).epoch for p in (0, 1)] == [1, 8]


async def test_distrusted_state_is_cleared_and_its_epoch_goes_on(bench: Bench) -> None:
    """So that a former owner of it can write nothing; once claimed it is trusted."""
    one = bench.owner("w1")
    for partition in (0, 1):
        bench.store.put(partition, Meta(PARTITIONS, 7, next_offset=(9, 9), next_mark=5))
    one.live.distrusted.add(0)
    assert await one.fence(0, 1)
    assert bench.store.meta(0) == Meta(PARTITIONS, 7)
    assert (bench.store.rows(0), len(bench.store.rows(1))) == ([], 1)
    assert await one.claim(0, 1) == {AT: 0, LABELS_AT: 0, NEXT_AT: 9, ("labels", 1): 9}
    assert [bench.store.meta(p).epoch for p in (0, 1)] == [8, 8]
    assert not one.live.distrusted


@pytest.mark.parametrize("next_offset", [(5, 2), (4, 3)])
async def test_state_that_is_ahead_of_kafka_is_built_anew(bench: Bench, next_offset: Pair) -> None:
    """By either log: it is refused once, and the next fence clears it. As far as Kafka is fine."""
    one = bench.owner("w1")
    one.known.offsets = {AT: 4, LABELS_AT: 2}
    bench.store.put(0, Meta(PARTITIONS, 3, next_offset=(4, 2)))
    assert await one.own(0) == {AT: 4, LABELS_AT: 2}
    bench.store.put(0, Meta(PARTITIONS, 3, next_offset=next_offset))
    assert await one.fence(0)
    assert await one.claim(0) is None
    assert bench.store.meta(0).epoch == 3
    assert await one.own(0) == {AT: 0, LABELS_AT: 0}
    assert bench.store.meta(0).epoch == 5, "above the one that we had"
    assert bench.store.rows(0) == []


async def test_nothing_is_written_before_its_offsets_are_committed(bench: Bench) -> None:
    """A flush asks for what moved and waits, or gives up: then a later one writes all of it."""
    one = bench.owner("w1")
    await one.own(0)
    claimed = bench.store.meta(0)
    await one.read(0, 3)
    one.known.refuses = True
    await one.its.flush()
    assert (bench.store.meta(0), bench.store.rows(0)) == (claimed, [])
    one.known.refuses = False
    flushing = asyncio.create_task(one.its.flush())
    await asyncio.sleep(0.03)
    assert (bench.store.meta(0), bench.store.rows(0)) == (claimed, [])
    assert one.known.asked == [{AT: 3}, {AT: 3}]
    one.known.offsets[AT] = 3
    await flushing
    assert bench.store.meta(0) == one.live.owned[0]
    assert bench.store.meta(0).next_offset == (3, 0)
    assert len(bench.store.rows(0)) == 4


@pytest.mark.parametrize("older", [True, False])
async def test_a_flush_that_finds_what_was_lost_goes_back(bench: Bench, *, older: bool) -> None:
    """Redis has older state or none: nothing is written over it, everything is claimed again."""
    one = bench.owner("w1")
    await one.own(0)
    before = dict(bench.store.blobs) if older else {}
    await one.read(0, 3, committed=True)
    await one.its.flush()
    await one.read(0, 1, committed=True)
    bench.store.blobs = dict(before)
    await one.its.flush()
    assert one.known.gone_back == 1
    assert bench.store.blobs == before
    assert await one.own(0) == {AT: 0, LABELS_AT: 0}


async def test_a_flush_that_finds_another_owner_ends_the_worker(bench: Bench) -> None:
    """The task's end is told with its cause, and nothing of the other's is touched."""
    one, two = bench.owner("w1", flush_s=0.01), bench.owner("w2")
    await one.own(0)
    await one.read(0, 3)
    await until(lambda: one.known.asked)
    await two.own(0)
    await asyncio.sleep(0.01)
    one.its.check()  # nothing was to be written so far
    one.known.offsets[AT] = 3
    await until(lambda: one.known.tasks)
    with pytest.raises(StateError, match="'w2'"):
        one.its.check()
    with pytest.raises(StateError, match="partition 0"):
        one.known.tasks[0].result()
    assert (one.known.gone_back, bench.store.rows(0)) == (0, [])
    assert bench.store.meta(0) == two.live.owned[0]


async def test_a_write_whose_answer_was_lost_counts_as_done(bench: Bench) -> None:
    """It is found in Redis when it is tried again, and the next flush goes on from it."""
    one = bench.owner("w1")
    await one.own(0)
    for offset in (3, 6):
        await one.read(0, 3, committed=True)
        bench.store.answers_lost = 1
        await one.its.flush()
        assert bench.store.answers_lost == 0
        assert bench.store.meta(0) == one.live.owned[0]
        assert bench.store.meta(0).next_offset == (offset, 0)
    assert one.known.gone_back == 0


async def test_a_release_writes_what_is_committed_and_says_so(bench: Bench) -> None:
    """The next owner fences nobody and reads on; who released owns nothing any more."""
    one, two = bench.owner("w1"), bench.owner("w2")
    one.its.transactional_id = "g.w1"
    await one.own(0, 1)
    await one.read(0, 3, committed=True)
    await one.release(0, 1)
    assert one.live.owned == {}
    assert len(bench.store.rows(0)) == 4
    assert [bench.store.meta(p).released for p in (0, 1)] == [True, True]
    two.known.offsets = dict(one.known.offsets)
    assert await two.own(0, 1) == {AT: 3, LABELS_AT: 0, NEXT_AT: 0, ("labels", 1): 0}
    assert bench.fenced == []


@pytest.mark.parametrize("lost", [True, False])
async def test_a_release_may_write_nothing(bench: Bench, *, lost: bool) -> None:
    """What is lost or not committed is forgotten here, and stays there as it was, owned."""
    one = bench.owner("w1")
    await one.own(0, 1)
    await one.read(0, 3)
    one.known.offsets[AT] = 3 if lost else 2
    before = dict(bench.store.blobs)
    await one.release(0, lost=lost)
    await until(lambda: 0 not in one.live.owned)
    assert bench.store.blobs == before
    await one.read(1, 3, committed=True)
    await one.its.flush()
    assert bench.store.meta(1).next_offset == (3, 0)


async def test_a_claim_that_fails_leaves_the_other_partitions_flushing(bench: Bench) -> None:
    """While the store is away it is asked again later; the others need not wait for it."""
    one = bench.owner("w1")
    await one.own(0)
    await one.read(0, 3, committed=True)
    bench.store.away = True
    assert not await one.fence(1)
    assert await one.claim(1) is None
    bench.store.away = False
    await one.its.flush()
    assert bench.store.meta(0).next_offset == (3, 0)
    assert await one.own(1) == {NEXT_AT: 0, ("labels", 1): 0}


@pytest.mark.parametrize("claims", [True, False])
async def test_a_flush_gives_up_where_partitions_come_or_go(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, *, claims: bool
) -> None:
    """The consumer's thread waits for that, so it commits nothing that a flush could wait for."""
    monkeypatch.setattr(ownership, "CLAIM_S", 0.5)
    monkeypatch.setattr(ownership, "RELEASE_S", 0.5)
    one = bench.owner("w1")
    await one.own(0, *([] if claims else [1]))
    await one.read(0, 3)
    flushing = asyncio.create_task(one.its.flush())
    await until(lambda: one.known.asked)
    await (one.own(1) if claims else one.release(1))
    assert flushing.done()
    assert (1 in one.live.owned) == claims
    assert bench.store.rows(0) == []
    one.known.offsets[AT] = 3
    await one.its.flush()
    assert len(bench.store.rows(0)) == 4


async def test_making_room_where_nothing_can_be_flushed_lets_others_go_on(bench: Bench) -> None:
    """Who holds the lock asks again and again; the event loop is not held up by it."""
    one = bench.owner("w1")
    await one.own(0)
    await one.read(0, 3)
    one.known.refuses = True
    others: list[bool] = []

    async def other() -> None:
        others.append(one.its.lock.locked())

    async with one.its.lock:
        task = asyncio.create_task(other())
        for _ in range(3):
            await one.its.make_room()
            assert one.its.lock.locked()
        assert others == [False], "it ran while the lock was free"
        await task
        one.known.refuses, one.known.offsets[AT] = False, 3
        await one.its.make_room()
    assert len(bench.store.rows(0)) == 4


async def test_watermarks_hold_from_their_position_on(bench: Bench) -> None:
    """Those that were there when it was fenced; what is still awaited is read again by the next."""
    marks = [(TRANSACTIONS, 0, T0 + 1), (LABELS, 0, T0 + 2), (TRANSACTIONS, 3, T0 + 3)]
    bench.marks.marks[0] = [Watermark(*mark) for mark in marks]
    one, two = bench.owner("w1"), bench.owner("w2")
    assert await one.fence(0)
    bench.marks.marks[0].append(Watermark(LABELS, 0, T0 + 4))
    assert await one.claim(0)
    assert one.quiet(0) == (T0 + 1, T0 + 2)
    await one.read(0, 2, committed=True)
    await one.its.flush()
    assert bench.store.meta(0).next_mark == 0
    await one.read(0, 1, committed=True)
    assert one.quiet(0) == (T0 + 3, T0 + 2)
    await one.its.flush()
    assert bench.store.meta(0).next_mark == 3
    await two.own(0)
    assert two.quiet(0) == (T0 + 3, T0 + 4)


async def test_watermarks_before_the_state_are_passed_over(bench: Bench) -> None:
    """They are of before, or of a former owner that was one no longer."""
    one = bench.owner("w1")
    bench.store.put(0, Meta(PARTITIONS, 2, next_offset=(3, 1), quiet_us=(T0, T0), next_mark=1))
    marks = [(LABELS, 1, T0 + 9), (TRANSACTIONS, 2, T0 + 2), (TRANSACTIONS, 3, T0 + 1)]
    bench.marks.marks[0] = [Watermark(*mark) for mark in marks]
    await one.own(0)
    assert one.quiet(0) == (T0 + 1, T0), "the first is in the state, the second before it"
    assert one.live.next_mark[0] == 3


async def test_others_are_heard_and_what_was_declared_of_ours(bench: Bench) -> None:
    """How far another's flushed state is, and what came to the topic since we claimed."""
    one, two = bench.owner("w1"), bench.owner("w2")
    await one.own(0)
    await two.own(1)
    await two.read(1, 3, committed=True)
    await two.its.flush()
    bench.marks.marks[0] = [Watermark(TRANSACTIONS, 0, T0 + 7)]
    await one.its.marks.hear_others()
    assert one.quiet(1) == (T0 + 2 - LIVE.lateness_us, NEVER)
    assert one.quiet(0) == (T0 + 7, NEVER)


async def test_state_of_another_group_or_topic_is_refused(bench: Bench) -> None:
    """The message names the setting that tells them apart; nothing is claimed."""
    one = bench.owner("w1")
    theirs = Meta(PARTITIONS, 3, next_offset=(2, 0), source="there")
    bench.store.put(0, theirs)
    assert await one.fence(0)
    with pytest.raises(ConfigError, match=r"there.*here.*RISKWIRE_STATE_NAMESPACE"):
        await one.claim(0)
    assert bench.store.meta(0) == theirs

"""The live state against `features.offline`: however it is cut, restarted, evicted and shared.

Each stream is fed as workers are: record batches of owned partitions, outcomes among them, flushes,
restarts from what was flushed. Every vector that is not provisional must be the offline one, bit
for bit, whenever and however often it is computed.
"""

import asyncio
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.enrich import Dropped
from app.entities import TableFull
from app.errors import ConfigError
from app.live import Live, StateError
from app.meta import Meta
from features import blob
from features.contract import DAY_US, LIVE, REPLAY, Timing, contract_id
from features.state import LABELS, TRANSACTIONS
from tests.app.builders import record_batch, transactions
from tests.app.streams import (
    BATCH,
    START_US,
    Stream,
    Worker,
    one_each,
    quiet,
    random_log,
    shuffled,
)

BIG = 4096


@given(
    seed=st.integers(0, 10_000),
    partitions=st.sampled_from([1, 4]),
    timing=st.sampled_from([LIVE, REPLAY]),
)
@settings(max_examples=12, deadline=None)
def test_batches_cut_anyhow_are_offline_vectors(seed: int, partitions: int, timing: Timing) -> None:
    """One owner of all, outcomes in time: nothing is provisional, everything is equal."""
    stream = Stream(random_log(seed, 250, partitions, timing), partitions, timing)
    rng = np.random.default_rng(seed)

    async def work() -> None:
        worker = Worker(stream, "w", BIG, BIG)
        await worker.claim(*range(partitions))
        while len(coming := worker.waiting(TRANSACTIONS)):
            rows = coming[: rng.integers(1, BATCH)]
            told = worker.waiting(LABELS)
            until_us = stream.until_us[rows[-1]]
            await worker.learn(told[stream.log.known_at_us[told] <= until_us])
            worker.declare_quiet()
            for p in range(partitions):
                quiet(worker.live, LABELS, p, int(until_us))
            await worker.read(len(rows), 0)

    asyncio.run(work())
    assert stream.computed == Counter(final=250)


@given(
    seed=st.integers(0, 10_000),
    partitions=st.sampled_from([1, 4]),
    timing=st.sampled_from([LIVE, REPLAY]),
    crowd=st.sampled_from([(250, 15, 8, 0.4), (700, 4, 2, 0.05)]),
)
@settings(max_examples=25, deadline=None)
def test_restarts_evictions_and_late_flushes_leave_no_trace(
    seed: int, partitions: int, timing: Timing, crowd: tuple[int, int, int, float]
) -> None:
    """Rows of a batch and little more in memory; what was not flushed is read again.

    A few people at one terminal fill rows to their bounds.
    """
    n, people, places, frauds = crowd
    log = random_log(seed, n, partitions, timing, people, places, frauds)
    log = shuffled(log, seed, 3 * timing.lateness_us)
    stream, rng = Stream(log, partitions, timing), np.random.default_rng(seed)
    sizes = (BATCH + int(rng.integers(0, 4)), (BATCH + int(rng.integers(0, 4))) * partitions)

    async def work() -> None:
        worker = Worker(stream, "w", *sizes)
        await worker.claim(*range(partitions))
        while await worker.read(int(rng.integers(1, BATCH)), int(rng.integers(-2, 3)) * DAY_US):
            match rng.integers(0, 12):
                case 0:
                    await worker.flush()
                case 1 | 2:
                    await worker.begin_flush()
                case 3 | 4:
                    await worker.finish_flush(fails=bool(rng.integers(0, 2)))
                case 5:
                    await worker.finish_flush()
                    gone = int(rng.integers(0, partitions))
                    worker.live.drop([gone])
                    await worker.claim(gone)
                case 6:
                    worker = Worker(stream, "w", *sizes)
                    await worker.claim(*range(partitions))

    asyncio.run(work())
    assert stream.computed["final"] > 20


@given(seed=st.integers(0, 10_000), timing=st.sampled_from([LIVE, REPLAY]))
@settings(max_examples=25, deadline=None)
def test_workers_see_each_others_shares(seed: int, timing: Timing) -> None:
    """Two workers at their own pace, which flush, restart and hand partitions over now and then."""
    log = shuffled(random_log(seed, 300, 4, timing), seed, timing.lateness_us)
    stream, rng = Stream(log, 4, timing), np.random.default_rng(seed)
    sizes = BIG if rng.integers(0, 2) else 2 * BATCH, BIG if rng.integers(0, 2) else 8 * BATCH

    async def work() -> None:
        pair = [Worker(stream, f"w{i}", *sizes) for i in range(2)]
        await pair[0].claim(0, 1)
        await pair[1].claim(2, 3)
        going = True
        while going:
            going = False
            for worker in pair:
                if worker.live.owned:
                    read = await worker.read(int(rng.integers(1, BATCH)), 2 * DAY_US)
                    going |= read > 0
                if rng.integers(0, 2) or not going:
                    worker.declare_quiet()
                    await worker.flush()
            if rng.integers(0, 10) == 0:
                await hand_over(pair, rng)

    asyncio.run(work())
    assert stream.computed["final"] > 30


async def hand_over(pair: list[Worker], rng: np.random.Generator) -> None:
    """Let one worker give a partition up, flushed or not, and the other own it."""
    giver, taker = pair if rng.integers(0, 2) else reversed(pair)
    if giver.live.owned:
        partition = int(rng.choice(list(giver.live.owned)))
        if rng.integers(0, 2):
            await giver.flush()
        await giver.finish_flush()
        giver.live.drop([partition])
        await taker.claim(partition)


async def test_a_flush_that_failed_is_written_by_the_next() -> None:
    """What was frozen counts as changed again, and its rows stay until then."""
    stream = one_each()
    worker = Worker(stream, "w", 3, 3)
    await worker.claim(0)
    await worker.read(3, DAY_US)
    await worker.begin_flush()
    [lost] = worker.late
    with pytest.raises(TableFull):
        worker.live.lookup(transactions([{"customer_id": "new"}]), 0)
    await worker.finish_flush(fails=True)
    with pytest.raises(TableFull):
        worker.live.lookup(transactions([{"customer_id": "new"}]), 0)
    [again] = worker.live.freeze()
    assert sorted(again.pairs) == sorted(lost.pairs)
    assert len(again.pairs) == 6
    worker.live.writing(again)
    worker.live.flushed(again)
    assert worker.live.freeze()[0].pairs == []
    worker.live.lookup(transactions([{"customer_id": "new", "terminal_id": "new"}]), 0)


async def test_what_changes_while_it_is_written_is_written_again() -> None:
    """The image stands for its instant; the rows changed since stay in memory."""
    stream = one_each()
    worker = Worker(stream, "w", 8, 8)
    await worker.claim(0)
    await worker.read(1, 0)
    await worker.begin_flush()
    await worker.learn(worker.waiting(LABELS))
    await worker.finish_flush()
    [image] = worker.live.freeze()
    assert [key.rpartition(b":")[2] for key, _ in image.pairs] == [b"t0", b"t1", b"t2"]


async def test_a_batch_of_the_whole_capacity_follows_another() -> None:
    """Flushed rows make room, be they ever so new: no batch waits for ever."""
    stream = one_each(12)
    worker = Worker(stream, "w", 4, 4)
    await worker.claim(0)
    async with asyncio.timeout(20):
        while await worker.read(4, 0):
            pass
    assert worker.flushes > 0
    assert sum(stream.computed.values()) == 12


@pytest.mark.parametrize("kind", ["c", "t"])
async def test_a_damaged_blob_of_ours_has_the_partition_built_anew(kind: str) -> None:
    """No vector is made of what is left: the batch is dropped until the state is claimed again."""
    stream = one_each()
    first = Worker(stream, "w", 8, 8)
    await first.claim(0)
    await first.read(1, 0)
    await first.flush()
    contract = contract_id(LIVE)
    keys = {"c": blob.customer_key(contract, 0, b"c0"), "t": blob.share_key(contract, 0, b"t0")}
    assert keys[kind] in stream.store.blobs
    stream.store.blobs[keys[kind]] = b"broken"
    second = Worker(stream, "w", 8, 8)
    await second.claim(0)
    its = transactions([{"customer_id": "c0", "terminal_id": "t0"}])
    with pytest.raises(Dropped):
        await second.enrich.vectors(record_batch([(0, 1, None, None)]), its)
    assert second.live.damaged == 1
    assert second.live.distrusted == {0}
    assert not second.live.owned


async def test_a_vector_with_a_damaged_copy_is_provisional() -> None:
    """Whose share it is will find it; here it counts as not read."""
    stream = one_each(2, 2)
    theirs, ours = (Worker(stream, name, 8, 16) for name in ("them", "us"))
    await theirs.claim(1)
    await theirs.read(1, 0)
    for log in (TRANSACTIONS, LABELS):
        quiet(theirs.live, log, 1, START_US + 30 * DAY_US)
    await theirs.flush()
    key = blob.share_key(theirs.live.namespace, 1, b"t1")

    async def is_provisional() -> bool:
        await ours.claim(0)
        for log in (TRANSACTIONS, LABELS):
            quiet(ours.live, log, 0, START_US + 30 * DAY_US)
        fields = {"customer_id": "c", "terminal_id": "t1", "event_time_us": START_US + 20 * DAY_US}
        records = record_batch([(0, 0, None, None)])
        _, provisional, _ = await ours.enrich.vectors(records, transactions([fields]))
        return bool(provisional[0])

    assert not await is_provisional()
    assert key in stream.store.blobs
    stream.store.blobs[key] = b"broken"
    ours = Worker(stream, "us", 8, 16)
    assert await is_provisional()
    assert ours.live.damaged == 1
    assert not ours.live.distrusted


@pytest.mark.parametrize("lost", ["older", "all", "newer epoch"])
async def test_a_miss_tells_that_redis_is_not_as_it_was_written(lost: str) -> None:
    """Rolled back or emptied: claim again before anything is computed. Another's: stop."""
    stream = one_each(6)
    worker = Worker(stream, "w", 8, 8)
    await worker.claim(0)
    key = blob.meta_key(worker.live.namespace, 0)
    before = stream.store.blobs[key]
    await worker.read(2, 0)
    await worker.begin_flush()
    await worker.read(1, 0)  # while it is on its way, what was and what comes are both right
    await worker.finish_flush()
    await worker.read(1, 0)
    match lost:
        case "older":
            stream.store.blobs[key] = before
        case "all":
            stream.store.blobs.clear()
        case "newer epoch":
            stream.store.blobs[key] = worker.live.owned[0].owned_by("other").encode()
    with pytest.raises(StateError if lost == "newer epoch" else Dropped):
        await worker.read(1, 0)
    assert bool(worker.live.owned) is (lost == "newer epoch")


async def test_one_read_serves_a_batch_and_the_next_needs_none() -> None:
    """A customer, a terminal's shares and other partitions' metas, each key once."""
    stream = one_each(2, 2)
    worker = Worker(stream, "w", 8, 16)
    await worker.claim(0)
    stream.store.fetches.clear()
    its = transactions([{"customer_id": "c", "terminal_id": "t"}] * 3)
    for offset in (0, 1):
        await worker.enrich.vectors(record_batch([(0, offset, None, None)]), its)
    contract = worker.live.namespace
    wanted = [
        blob.customer_key(contract, 0, b"c"),
        blob.share_key(contract, 0, b"t"),
        blob.share_key(contract, 1, b"t"),
        blob.meta_key(contract, 0),
        blob.meta_key(contract, 1),
    ]
    assert stream.store.fetches[0] == wanted
    # The other partition has no state yet, so its share is asked for again, after a while.
    assert stream.store.fetches[1:] == [[wanted[2], wanted[4]]]
    await worker.claim(1)
    stream.store.fetches.clear()
    for offset in (2, 3):
        await worker.enrich.vectors(record_batch([(0, offset, None, None)]), its)
    assert stream.store.fetches == [[wanted[2], wanted[4]]]


async def test_a_batch_that_waited_for_room_while_its_partition_was_claimed_is_dropped() -> None:
    """It is read again from where the claim says."""
    stream = one_each()
    worker = Worker(stream, "w", 3, 3)
    await worker.claim(0)
    await worker.read(3, 0)

    async def claimed_meanwhile() -> None:
        await worker.flush()
        await worker.claim(0)

    enrich = replace(worker.enrich, flush=claimed_meanwhile)
    with pytest.raises(Dropped):
        await enrich.vectors(
            record_batch([(0, 3, None, None)]), transactions([{"customer_id": "new"}])
        )


def test_a_record_counts_once() -> None:
    """An offset that is in the state already is the worker's fault, not a second payment."""
    live = Live(LIVE, 2, 8, 8)
    live.adopt(1, Meta(2, next_offset=(5, 7)), (6, 9))
    live.applied(TRANSACTIONS, record_batch([(1, 5, None, None)]))
    with pytest.raises(StateError, match="offset 5 of partition 1"):
        live.applied(TRANSACTIONS, record_batch([(1, 5, None, None), (1, 6, None, None)]))
    partition, offset = np.ones(3, np.int32), np.array([5, 6, 8])
    assert live.silent(TRANSACTIONS, partition, offset).tolist() == [True, False, False]
    assert live.silent(LABELS, partition, offset).tolist() == [True, True, True]


@pytest.mark.parametrize(("partition", "count"), [(2, 2), (0, 3)])
def test_another_count_of_partitions_is_refused(partition: int, count: int) -> None:
    """The state is by partition: the message names the setting."""
    live = Live(LIVE, 2, 8, 8)
    with pytest.raises(ConfigError, match="RISKWIRE_PARTITIONS=2"):
        live.adopt(partition, Meta(count), (0, 0))
    assert not live.owned


async def test_what_is_dropped_leaves_nothing() -> None:
    """Rows, marks, offsets and watermarks; other partitions keep theirs."""
    stream = one_each(4, 2)
    worker = Worker(stream, "w", 8, 16)
    await worker.claim(0, 1)
    await worker.read(4, DAY_US)
    live = worker.live
    live.drop([0])
    assert list(live.owned) == [1]
    assert live.customers.in_use(0).size == 0
    assert live.customers.in_use(1).size == 2
    assert not live.state.s_count[0::2].any()
    assert live.state.s_count[1::2].sum() == 2
    assert (live.state.watermarks()[:, 0] < live.state.watermarks()[:, 1]).all()
    assert set(live.next_offset) == {(TRANSACTIONS, 1), (LABELS, 1)}
    assert [image.partition for image in live.freeze()] == [1]


async def test_ages_are_those_of_the_newest_records() -> None:
    """By entity and log; none where nothing was read."""
    stream = one_each()
    worker = Worker(stream, "w", 8, 8)
    assert worker.live.ages_s(START_US) == {}
    await worker.claim(0)
    await worker.read(3, 0)
    now_us = START_US + DAY_US
    payments = (now_us - int(stream.log.event_time_us[-1])) / 1e6
    ages = worker.live.ages_s(now_us)
    assert ages["customer", "transactions"] == ages["terminal", "transactions"] == payments
    assert ages["terminal", "labels"] > payments

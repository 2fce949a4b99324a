"""Watermarks of quiet logs: on the wire, and holding at their place for whoever reads again."""

import asyncio

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.watermarks import Awaited, Watermark, declarations, parse
from features.contract import DAY_US, LIVE
from features.state import LABELS, NEVER, TRANSACTIONS, Flags, Float32s, Int64s
from tests.app.streams import BATCH, Stream, Worker, random_log

N = 160


@given(
    log=st.sampled_from([TRANSACTIONS, LABELS]),
    position=st.integers(0, 2**62),
    until_us=st.integers(-(2**62), 2**62),
)
def test_a_watermark_is_read_as_it_was_written(log: int, position: int, until_us: int) -> None:
    """Every field; other groups pass it over."""
    mark = Watermark(log, position, until_us)
    assert parse(mark.encode("us"), "us") == mark
    assert parse(mark.encode("us"), "them") is None


@pytest.mark.parametrize("junk", [None, b"", b"\xc3\x01", Watermark(0, 1, 2).encode("us")[:-1]])
def test_what_is_none_is_passed_over(junk: bytes | None) -> None:
    """Nothing raises."""
    assert parse(junk, "us") is None


def test_each_goes_to_its_partition() -> None:
    """Where the log is that it speaks of."""
    marks = [(3, Watermark(TRANSACTIONS, 5, 6)), (1, Watermark(LABELS, 7, 8))]
    [columns] = declarations("watermarks", "us", marks).columns
    assert columns.partition.tolist() == [3, 1]
    assert [parse(columns.values[i], "us") for i in range(2)] == [mark for _, mark in marks]


def test_marks_are_due_at_their_position() -> None:
    """The latest of those that hold, once; the others' positions are limits."""
    awaited = Awaited()
    for position, until_us in ((7, 70), (3, 30), (3, 20), (9, 10)):
        awaited.add(1, Watermark(LABELS, position, until_us))
    partition = np.array([0, 1, 1, 2], np.int32)
    assert awaited.limits(LABELS, partition)[1:3].tolist() == [3, 3]
    assert awaited.limits(LABELS, partition)[[0, 3]].min() > 2**62
    assert awaited.limits(TRANSACTIONS, partition).min() > 2**62
    assert awaited.due(LABELS, 1, 2) == NEVER
    assert awaited.due(LABELS, 1, 8) == 70
    assert awaited.due(TRANSACTIONS, 1, 8) == NEVER
    assert awaited.limits(LABELS, partition)[1] == 9
    assert awaited.of(1)
    awaited.forget(1)
    assert not awaited


class Collected(Stream):
    """A stream whose vectors are compared with those that came out first, not with the log's."""

    def check(self, rows: Int64s, matrix: Float32s, provisional: Flags) -> None:
        """Keep final vectors, or compare with those kept."""
        if not hasattr(self, "seen"):
            self.seen: dict[int, Float32s] = {}
        for row, vector, flag in zip(rows.tolist(), matrix, provisional, strict=True):
            self.computed["provisional" if flag else "final"] += 1
            if not flag:
                assert (self.seen.setdefault(row, vector) == vector).all(), row


def random_marks(stream: Stream, rng: np.random.Generator) -> list[tuple[int, Watermark]]:
    """Logs declared complete up to some days after the next record's time, at any position."""
    marks = []
    for log, times in ((TRANSACTIONS, stream.log.event_time_us), (LABELS, stream.log.known_at_us)):
        for p, rows in stream.topics[log].rows.items():
            for at in rng.choice(len(rows), 4, replace=False).tolist():
                until_us = int(times[rows[at]] + rng.integers(0, 3 * DAY_US))
                marks.append((p, Watermark(log, at, until_us)))
    return marks


@given(seed=st.integers(0, 10_000), partitions=st.sampled_from([1, 3]))
@settings(max_examples=25)
def test_marks_hold_at_their_place_whoever_reads_the_logs_again(seed: int, partitions: int) -> None:
    """Declared while reading, or read beforehand after a restart: the same vectors."""
    rng = np.random.default_rng(seed)
    stream = Collected(random_log(seed, N, partitions, LIVE, 6, 3), partitions, LIVE)
    marks = random_marks(stream, rng)
    changed = asyncio.run(declared_in_passing(stream, marks))
    assert changed > 0, "the marks change nothing: this would show nothing"
    for partition, mark in marks:
        stream.marks.marks.setdefault(partition, []).append(mark)
    stream.store.blobs.clear()
    before = len(stream.seen)

    async def with_restarts() -> None:
        worker = Worker(stream, "w", 256, 256)
        await worker.claim(*range(partitions))
        while await worker.read(int(rng.integers(1, BATCH)), int(rng.integers(0, 2 * DAY_US))):
            if rng.integers(0, 3) == 0:
                await worker.flush()
            if rng.integers(0, 4) == 0:
                worker = Worker(stream, "w", 256, 256)
                await worker.claim(*range(partitions))

    asyncio.run(with_restarts())
    assert before > 10


async def declared_in_passing(stream: Collected, marks: list[tuple[int, Watermark]]) -> int:
    """One record at a time, each mark declared where it holds; how many vectors it changed."""
    worker = Worker(stream, "first", 256, 256)
    await worker.claim(*range(stream.partitions))

    def declare() -> None:
        for partition, mark in marks:
            if worker.live.next_offset[mark.log, partition] == mark.position:
                worker.live.declare(partition, mark)

    log, ahead_us = stream.log, DAY_US  # so that vectors are final
    while len(coming := worker.waiting(TRANSACTIONS)):
        until_us = int(stream.until_us[coming[0]]) + ahead_us
        while len(told := worker.waiting(LABELS)) and log.known_at_us[told[0]] <= until_us:
            declare()
            await worker.learn(told[:1])
        declare()
        await worker.read(1, -ahead_us)
    return sum((vector != stream.expected[row]).any() for row, vector in stream.seen.items())

"""Twenty-odd bugs put into the worker, each found by the law that it breaks; none without a bug."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import pytest

from app import pipeline as pipeline_module
from app import worker as worker_module
from app.adapters.onnx import OnnxScorer, load_scorer
from app.decide import Policy, Reasons
from app.emit import Scored
from app.errors import BrokerUnavailable, RejectCode
from app.intake import Intake
from app.live import Live
from app.records import Columns, Outbound, RecordBatch, Reject
from features import blob, kernel
from features.contract import DAY_US
from tests.verify.worlds import SETTINGS, TOPICS, At, Deployment, LogTransactor, World, filled, run
from verify import Report, judge

Patch = pytest.MonkeyPatch
pipeline: Any = pipeline_module
worker: Any = worker_module


@pytest.fixture(scope="module")
def scorer() -> OnnxScorer:
    """The shipped model."""
    return load_scorer(None)


def laws(report: Report) -> set[str]:
    """The laws that are violated."""
    return set(report.violated)


async def test_a_worker_without_a_bug_violates_nothing(scorer: OnnxScorer) -> None:
    """Every law holds and was put to the test, C7 on most vectors."""
    report = judge(await run(Deployment(filled(), scorer)), SETTINGS)
    assert report.holds, "\n".join(report.lines())
    assert report.counts["provisional scores"] < report.counts["scores"] / 2
    assert all(report.checked[law] for law in ("C1", "C2", "C3", "C5", "C6", "C9", "C10", "C11"))
    assert report.checked["C7"] > 400
    assert report.checked["C8"] > report.checked["C7"]
    assert report.counts["dead letters"] > 20


async def test_a_worker_that_stops_in_the_middle_violates_nothing(scorer: OnnxScorer) -> None:
    """What is not committed has no output, and Redis is not ahead: not drained, but sound."""
    deployment = Deployment(filled(), scorer)
    world = await run(deployment, lambda: sum(deployment.world.commits.values()) > 300)
    report = judge(world, SETTINGS, drained=False)
    assert report.holds, "\n".join(report.lines())
    assert {"C1", "C5"} <= laws(judge(world, SETTINGS, drained=True))


# How outputs and offsets are committed.


class _Nth(LogTransactor):
    """Does something else at its third transaction; the count is of the class."""

    count = 0

    def transact(
        self, outbounds: Iterable[Outbound], offsets: Mapping[At, int], group: object
    ) -> None:
        """See `Transactor.transact`."""
        type(self).count += 1
        if self.count == 3:
            self.fault(list(outbounds), offsets)
        else:
            super().transact(outbounds, offsets, group)

    def fault(self, outbounds: list[Outbound], offsets: Mapping[At, int]) -> None:
        """The bug."""
        raise NotImplementedError


class OffsetsFirst(_Nth):
    """Commits the offsets, and fails before the outputs."""

    def fault(self, outbounds: list[Outbound], offsets: Mapping[At, int]) -> None:
        """See `_Nth.fault`."""
        del outbounds
        self.commit(offsets)
        raise BrokerUnavailable("broken between offsets and outputs")


class OutputsApart(_Nth):
    """Outputs are there although the transaction failed."""

    def fault(self, outbounds: list[Outbound], offsets: Mapping[At, int]) -> None:
        """See `_Nth.fault`."""
        del offsets
        self.append(outbounds)
        raise BrokerUnavailable("broken between outputs and offsets")


class OffsetBehind(LogTransactor):
    """Commits the offset of the last record, not of the next."""

    def commit(self, offsets: Mapping[At, int]) -> None:
        """See `LogTransactor.commit`."""
        super().commit({at: offset - 1 for at, offset in offsets.items()})


class LeftOpen(_Nth):
    """A transaction whose end never came: what follows in the topic cannot be read."""

    def fault(self, outbounds: list[Outbound], offsets: Mapping[At, int]) -> None:
        """See `_Nth.fault`."""
        self.world.open = {
            ("scores", p): len(self.world.logs["scores", p]) for p in range(SETTINGS.partitions)
        }
        self.append(outbounds)
        self.commit(offsets)


@pytest.mark.parametrize(
    ("bug", "law"),
    [(OffsetsFirst, "C1"), (OutputsApart, "C2"), (OffsetBehind, "C5"), (LeftOpen, "C10")],
)
async def test_bugs_of_committing(
    scorer: OnnxScorer, bug: type[LogTransactor], law: str, monkeypatch: Patch
) -> None:
    """Offsets before outputs, outputs twice, offsets behind, a transaction left open."""
    monkeypatch.setattr(bug, "count", 0, raising=False)
    monkeypatch.setattr("app.transactions._RETRY_FIRST_S", 0.01)
    report = judge(await run(Deployment(filled(), scorer, bug)), SETTINGS)
    assert law in laws(report), "\n".join(report.lines())


# What is sent.

Emit = Callable[..., Outbound]


def _emit(change: Callable[[Emit, RecordBatch, Scored, list[Reject], Any, Any], Outbound]) -> Any:
    """`emit` with a bug."""
    real: Emit = pipeline.emit

    def emit(records: RecordBatch, scored: Scored, rejects: list[Reject], *rest: Any) -> Outbound:
        return change(real, records, scored, rejects, *rest)

    return lambda patch: patch.setattr(pipeline, "emit", emit)


def _needless_alert(
    real: Emit, records: RecordBatch, scored: Scored, rejects: list[Reject], *rest: Any
) -> Outbound:
    calm = np.flatnonzero(scored.decisions == 0)[:1]
    more = dataclasses.replace(
        scored,
        alerted=np.concatenate([scored.alerted, calm]),
        reasons=Reasons.none(len(scored.alerted) + len(calm)),
    )
    return real(records, more, rejects, *rest)


def _missing_alert(
    real: Emit, records: RecordBatch, scored: Scored, rejects: list[Reject], *rest: Any
) -> Outbound:
    fewer = dataclasses.replace(scored, alerted=scored.alerted[:-1], reasons=scored.reasons[:-1])
    return real(records, fewer, rejects, *rest)


def _missing_letter(
    real: Emit, records: RecordBatch, scored: Scored, rejects: list[Reject], *rest: Any
) -> Outbound:
    return real(records, scored, rejects[1:], *rest)


def _letter_and_score(
    real: Emit, records: RecordBatch, scored: Scored, rejects: list[Reject], *rest: Any
) -> Outbound:
    row = Reject(int(scored.transactions.row[0]), RejectCode.BAD_TIME, "validate")
    return real(records, scored, [*rejects, row], *rest)


def _wrong_partition(
    real: Emit, records: RecordBatch, scored: Scored, rejects: list[Reject], *rest: Any
) -> Outbound:
    its = real(records, scored, rejects, *rest)
    [first, *others] = its.columns
    turned = dataclasses.replace(first, partition=(first.partition + 1) % SETTINGS.partitions)
    return dataclasses.replace(its, columns=(turned, *others))


def _without_headers(
    real: Emit, records: RecordBatch, scored: Scored, rejects: list[Reject], *rest: Any
) -> Outbound:
    its = real(records, scored, rejects, *rest)
    bare = tuple(dataclasses.replace(each, value=b"") for each in its.letters)
    return dataclasses.replace(its, letters=bare)


def _swapped(
    real: Emit, records: RecordBatch, scored: Scored, rejects: list[Reject], *rest: Any
) -> Outbound:
    its = real(records, scored, rejects, *rest)
    [first, *others] = its.columns
    back = np.arange(len(first))[::-1]
    turned = Columns(
        first.topic, first.partition[back], first.keys.take(back), first.values.take(back)
    )
    return dataclasses.replace(its, columns=(turned, *others))


def _nothing(patch: Patch) -> None:
    """A batch of which nothing is sent."""
    real, count = worker.emitted, [0]

    def emitted(its: Any, parts: Any) -> Any:
        found = real(its, parts)
        count[0] += 1
        if count[0] != 3:
            return found
        return dataclasses.replace(found, outbound=Outbound((), (), found.outbound.source_topic))

    patch.setattr(worker, "emitted", emitted)


def _other_hash(patch: Patch) -> None:
    real = pipeline.vector_hash
    patch.setattr(pipeline, "vector_hash", lambda matrix: np.roll(real(matrix), 1))


def _no_instant(patch: Patch) -> None:
    real = worker.emitted

    def emitted(its: Any, parts: Any) -> Any:
        return real(its, dataclasses.replace(parts, clock=lambda: 0))

    patch.setattr(worker, "emitted", emitted)


def _next_threshold(patch: Patch) -> None:
    real: Any = Policy.thresholds
    up = np.float32(2)
    patch.setattr(Policy, "thresholds", property(lambda p: np.nextafter(real.fget(p), up)))


def _stale_score(patch: Patch) -> None:
    real, last = pipeline.score, [np.zeros(0, np.float32)]

    def score(matrix: Any, scorer: Any) -> Any:
        found = real(matrix, scorer)
        stale, last[0] = last[0], found
        return np.resize(stale, len(found)) if len(stale) else found

    patch.setattr(pipeline, "score", score)


SENDING: dict[str, tuple[Callable[[Patch], None], str]] = {
    "nothing sent of a batch": (_nothing, "C1"),
    "records swapped": (_emit(_swapped), "C3"),
    "an alert without its decision": (_emit(_needless_alert), "C9"),
    "an alert missing": (_emit(_missing_alert), "C9"),
    "a dead letter missing": (_emit(_missing_letter), "C1"),
    "a dead letter and a score": (_emit(_letter_and_score), "C1"),
    "a dead letter without its bytes": (_emit(_without_headers), "C1"),
    "the wrong partition": (_emit(_wrong_partition), "C3"),
    "the hash of another row": (_other_hash, "C7"),
    "latency zero": (_no_instant, "C11"),
    "a threshold off by one ulp": (_next_threshold, "C9"),
    "scores of another batch": (_stale_score, "C8"),
}


@pytest.mark.parametrize("bug", SENDING)
async def test_bugs_of_what_is_sent(scorer: OnnxScorer, bug: str, monkeypatch: Patch) -> None:
    """Each is found by the law that it breaks."""
    patch, law = SENDING[bug]
    patch(monkeypatch)
    report = judge(await run(Deployment(filled(), scorer)), SETTINGS)
    assert law in laws(report), "\n".join(report.lines())


# Features and state.


def _advance(change: Callable[..., None]) -> Callable[[Patch], None]:
    """The kernel's `advance`, and then a bug that gets its arguments."""
    real: Any = kernel.advance

    def advance(*arguments: Any) -> None:
        real(*arguments)
        change(real, *arguments)

    return lambda patch: patch.setattr(kernel, "advance", advance)


def _float_sums(_: Any, *arguments: Any) -> None:
    out = arguments[6]
    count = out[:, 7]
    out[:, 8] = (out[:, 8] * count).astype(np.float32) / count * np.float32(1.0000001)


def _wall_clock(_: Any, *arguments: Any) -> None:
    out, t = arguments[6], arguments[4]
    out[:, 2] = (t // (DAY_US // 24) + 5) % 24 < 7  # of a zone whose clock stands on the wall


def _twice(real: Any, *arguments: Any) -> None:
    out, provisional = np.empty_like(arguments[6]), np.empty_like(arguments[7])
    real(*arguments[:6], out, provisional)


def _known_too_early(patch: Patch) -> None:
    real: Any = kernel.learn

    def learn(state: Any, shares: Any, partition: Any, event: Any, known: Any, *rest: Any) -> None:
        del known
        real(state, shares, partition, event, event.copy(), *rest)

    patch.setattr(kernel, "learn", learn)


def _label_lost(patch: Patch) -> None:
    real, count = Live.learn, [0]

    def learn(self: Live, labels: Any, pending: Any) -> None:
        count[0] += 1
        if count[0] % 3:
            real(self, labels, pending)

    patch.setattr(Live, "learn", learn)


def _damaged_blob(patch: Patch) -> None:
    real = blob.pack_customers

    def pack(state: Any, rows: Any) -> list[bytes]:
        return [each[:-1] + bytes([each[-1] ^ 1]) for each in real(state, rows)]

    patch.setattr(blob, "pack_customers", pack)


def _unflushed_row(patch: Patch) -> None:
    real = blob.pack_shares

    def pack(state: Any, rows: Any) -> list[bytes]:
        return [real(state, rows[:1])[0] for _ in rows]

    patch.setattr(blob, "pack_shares", pack)


STATE: dict[str, tuple[Callable[[Patch], None], str]] = {
    "sums of floats": (_advance(_float_sums), "C7"),
    "the clock on the wall": (_advance(_wall_clock), "C7"),
    "state applied twice": (_advance(_twice), "C6"),
    "a label seen before it is known": (_known_too_early, "C7"),
    "a label lost from the state": (_label_lost, "C7"),
    "a blob damaged": (_damaged_blob, "C6"),
    "a blob of another row": (_unflushed_row, "C6"),
}


@pytest.mark.parametrize("bug", STATE)
async def test_bugs_of_features_and_state(scorer: OnnxScorer, bug: str, monkeypatch: Patch) -> None:
    """Each is found by the law that it breaks; what concerns vectors is not only in Redis."""
    patch, law = STATE[bug]
    patch(monkeypatch)
    report = judge(await run(Deployment(filled(), scorer)), SETTINGS)
    assert law in laws(report), "\n".join(report.lines())


class NeverCommits(_Nth):
    """From the third on a transaction does not end."""

    def fault(self, outbounds: list[Outbound], offsets: Mapping[At, int]) -> None:
        """See `_Nth.fault`."""
        del outbounds, offsets
        type(self).count = 2
        raise BrokerUnavailable("not committed")


async def test_a_flush_ahead_of_the_commit_is_found(scorer: OnnxScorer, monkeypatch: Patch) -> None:
    """State is written before its offsets are committed, and then they never are."""

    async def confirmed(*_: Any, **__: Any) -> bool:
        return True

    monkeypatch.setattr(Intake, "confirmed", confirmed)
    monkeypatch.setattr(NeverCommits, "count", 0)
    deployment = Deployment(filled(), scorer, NeverCommits)

    def is_ahead() -> bool:
        report = judge(deployment.world, SETTINGS, drained=False)
        return any("ahead of Kafka" in each.text for each in report.violations)

    world = await run(deployment, is_ahead)
    assert isinstance(world, World)


async def test_state_that_is_lost_or_was_never_written_is_found(scorer: OnnxScorer) -> None:
    """Once the workers have had time to write it; before, Redis may have nothing."""
    world = await run(Deployment(filled(), scorer))
    world.store.blobs.clear()
    assert judge(world, SETTINGS, drained=False).holds
    report = judge(world, SETTINGS, drained=True)
    assert laws(report) == {"C6"}, "\n".join(report.lines())


async def test_reading_what_was_aborted_is_found(scorer: OnnxScorer) -> None:
    """A worker that reads uncommitted records scores what never was."""
    world = filled()
    world.aborted = {("transactions", p, i) for p in range(2) for i in range(40, 45)}
    deployment = Deployment(world, scorer)
    deployment.reads_aborted = True
    report = judge(await run(deployment), SETTINGS)
    assert "C1" in laws(report), "\n".join(report.lines())


async def test_what_a_reader_beside_has_seen_must_stay(scorer: OnnxScorer) -> None:
    """A record that changed, one that went away and one that nobody saw in time break C4."""
    from verify.laws import checksum  # noqa: PLC0415 -- for this test alone

    world = await run(Deployment(filled(), scorer))
    log = world.logs["scores", 0]
    seen = {("scores", 0): {record.offset: checksum(record) for record in log}}
    assert judge(world, SETTINGS, seen=seen).verdict("C4") == "holds"
    seen["scores", 0] |= {3: 0, len(log): 1}
    del seen["scores", 0][5]
    report = judge(world, SETTINGS, seen=seen)
    assert report.violated["C4"] == 3
    assert TOPICS["scores"] == report.violations[0].topic

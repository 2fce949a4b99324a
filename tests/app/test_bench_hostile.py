"""The hostile benchmark's own parts, without a cluster: what it measures and calls missed."""

import itertools
from typing import Any

from app.bench import hostile
from app.bench.bombs import BOMBS, SMALL_BYTES
from app.bench.hostile import batch_of, costs, missed, size_of
from app.bench.load import load
from app.decode import Writers, decode
from app.demo.traffic import BROKEN
from tests.app.builders import record_batch
from tests.strategies import LIMITS


def report(us: float, kept: float) -> dict[str, Any]:
    """A report of one small bomb."""
    its: dict[str, Any] = {each: {"good_kept": kept} for each in hostile.DELIVERIES}
    return {"bombs_us": {"JSON": us, "header of a megabyte": 9e9}, **its}


def test_goals() -> None:
    """A small record over a millisecond is a miss, a large one is not; less than 80 % is."""
    assert missed(report(999.0, 0.8)) == []
    assert missed(report(1001.0, 0.9)) == ["JSON: 1001 µs, not 1000"]
    assert len(missed(report(1.0, 0.79))) == 2


def test_every_bomb_is_measured(monkeypatch: Any) -> None:
    """Each has a figure, from batches of itself that stay small enough."""
    monkeypatch.setattr(hostile, "_REPEATS", 1)
    monkeypatch.setattr(hostile, "_BATCH_RECORDS", 2)
    assert costs().keys() == BOMBS.keys()
    monkeypatch.undo()
    assert all(len(batch_of(bomb)) * size_of(bomb) <= 9 << 20 for bomb in BOMBS.values())
    assert sum(size_of(bomb) <= SMALL_BYTES for bomb in BOMBS.values()) >= 40


def test_traffic_is_half_broken() -> None:
    """Behind each good record comes a broken one, all kinds in turn, each with its code."""
    its = load(20)
    rows = list(hostile._traffic(its, broken=True))
    assert rows[::2] == list(hostile._traffic(its, broken=False))
    records = record_batch([(0, i, key, value) for i, (key, value) in enumerate(rows)],
                           polled_us=its.now_us)  # fmt: skip
    records.timestamp_ms[:] = its.now_us // 1000
    rejects = decode(records, Writers(), LIMITS).rejects
    assert [each.row for each in rejects] == list(range(1, 40, 2))
    kinds = itertools.islice(itertools.cycle(BROKEN), 20)
    assert [each.code for each in rejects] == [kind.code for kind in kinds]

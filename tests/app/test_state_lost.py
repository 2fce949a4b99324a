"""Redis loses a partition's state: it is there again, bit for bit, or what it lacks is said."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from app.meta import Meta
from app.progress import REBUILD_US, STALLED_US
from app.snapshots import file_of, found, take
from features.state import LABELS, TRANSACTIONS
from tests.app.builders import T0
from tests.app.test_intake import until
from tests.app.test_ownership import AT, LABELS_AT, SPACE, Bench, Owner, bench

__all__ = ["bench"]
READ = 40


async def finish(bench: Bench, owner: Owner) -> dict[bytes, bytes]:
    """Read to the end of the log and flush; the blobs that are in Redis then."""
    left = READ - owner.live.next_offset[TRANSACTIONS, 0]
    if left:
        await owner.read(0, left, committed=True)
    await owner.its.flush()
    return {key: blob for key, blob in bench.store.blobs.items() if not key.endswith(b"meta")}


@pytest.mark.parametrize("seed", range(12))
async def test_what_was_lost_is_there_again(bench: Bench, tmp_path: Path, seed: int) -> None:
    """Whenever snapshots are taken and the state is lost, the end is that of a quiet run."""
    rng = np.random.default_rng(seed)
    quiet = Bench()
    one = quiet.owner("w1")
    await one.own(0)
    expected = await finish(quiet, one)
    await one.its.close()
    bench.directory = tmp_path
    worker, committed = bench.owner("w1"), 0
    await worker.own(0)
    for _ in range(12):
        what = str(rng.choice(["read", "read", "read", "flush", "keep", "lose", "restart"]))
        at = worker.live.next_offset[TRANSACTIONS, 0]
        if what == "read" and at < READ:
            await worker.read(0, min(int(rng.integers(1, 6)), READ - at), committed=True)
            committed = max(committed, worker.live.next_offset[TRANSACTIONS, 0])
        elif what == "flush":
            await worker.its.flush()
        elif what == "keep":
            await take(bench.store, SPACE, 0, tmp_path)
        elif what in {"lose", "restart"}:
            if what == "lose":
                bench.store.blobs.clear()
            worker = bench.owner("w1")
            worker.known.offsets = {AT: committed} if committed else {}
            starts = await worker.own(0)
            assert starts[AT] <= committed
    assert await finish(bench, worker) == expected


async def test_a_snapshot_spares_the_log(bench: Bench, tmp_path: Path) -> None:
    """Reading goes on from it, silently up to the commit; without one, from the oldest records."""
    one = bench.owner("w1")
    await one.own(0)
    await one.read(0, 6, committed=True)
    await one.its.flush()
    await take(bench.store, SPACE, 0, tmp_path)
    await one.read(0, 2, committed=True)
    for directory, start in ((tmp_path, 6), (None, 0)):
        bench.store.blobs.clear()
        bench.directory = directory
        two = bench.owner("w2")
        two.known.offsets = {AT: 8}
        assert await two.own(0) == {AT: start, LABELS_AT: 0}
        assert two.its.progress.behind(T0) == {0: (8 - start, 0)}
        assert len(bench.store.rows(0)) == (7 if start else 0)
        assert bench.store.meta(0).epoch == (2 if start else 1)


async def test_a_snapshot_that_is_ahead_of_kafka_is_not_used_twice(
    bench: Bench, tmp_path: Path
) -> None:
    """It is of other logs: the claim refuses it, and the next one goes without it."""
    bench.directory = tmp_path
    one = bench.owner("w1")
    bench.store.put(0, Meta(4, 2, next_offset=(9, 0), source="here"))
    await take(bench.store, SPACE, 0, tmp_path)
    bench.store.blobs.clear()
    one.known.offsets = {AT: 4}
    assert await one.fence(0)
    assert bench.store.meta(0).next_offset == (9, 0)
    assert await one.claim(0) is None
    assert await one.own(0) == {AT: 0, LABELS_AT: 0}
    assert bench.store.rows(0) == []


async def test_a_worker_takes_snapshots_now_and_then(bench: Bench, tmp_path: Path) -> None:
    """The newest ones are kept; a directory that cannot be written stops nothing."""
    bench.directory, bench.every_s = tmp_path / "kept", 0.01
    one = bench.owner("w1")
    await one.own(0)
    for offset in range(1, 5):
        await one.read(0, 1, committed=True)
        await one.its.flush()
        path = file_of(tmp_path / "kept", SPACE, 0, (offset, 0))
        await until(path.exists)
    await until(lambda: len(found(tmp_path / "kept", SPACE, 0)) <= 3)
    (tmp_path / "file").write_text("")
    bench.directory = tmp_path / "file"
    two = bench.owner("w2")
    await two.own(1)
    await two.read(1, 1, committed=True)
    failed = ("riskwire_snapshots_total", {"result": "failed"})
    await until(lambda: two.its._metrics.registry.get_sample_value(*failed))
    await two.its.flush()
    assert bench.store.meta(1).next_offset == (1, 0)


@pytest.mark.parametrize("days", [0, 200])
async def test_what_is_gone_from_the_log_is_said_and_kept(bench: Bench, days: int) -> None:
    """Also by the next owner, unless no window reaches there; a metric says it by partition."""
    one, two = bench.owner("w1"), bench.owner("w2")
    bench.oldest_us = T0 - days * 86_400_000_000
    await one.own(0, 1)
    one.its.lacks({AT: 3})
    lacking = {0: days == 0, 1: False}
    assert one.its.progress.incomplete(T0) == lacking
    await one.its.flush()
    await two.own(0)
    assert bench.store.meta(0).whole_since_us == (T0 if days == 0 else 0)
    assert two.its.progress.incomplete(T0) == {0: days == 0}
    assert two.its.progress.incomplete(T0 + REBUILD_US) == {0: False}
    assert not one.its.live.whole_since_us[1]


async def test_a_backfilled_past_lacks_nothing_before_its_logs(bench: Bench) -> None:
    """The history ends before the first record; what was answered and is gone since is lacking."""
    one = bench.owner("w1")
    for partition, offset in ((0, 0), (1, 1), (2, 0)):
        bench.store.put(partition, Meta(4, 1, base="ab", next_offset=(offset, 0)))
    one.known.offsets = {("transactions", 2): 5}
    await one.own(0, 1, 2)
    one.its.lacks({("transactions", partition): 3 for partition in range(3)})
    assert one.its.progress.incomplete(T0) == {0: False, 1: True, 2: True}


async def test_progress_goes_on_where_nothing_comes_any_more(bench: Bench) -> None:
    """A log may end before the committed offset: after a while that holds nobody up."""
    one = bench.owner("w1")
    one.known.offsets = {AT: 5, LABELS_AT: 2}
    await one.own(0)
    assert one.its.progress.behind(T0) == {0: (5, 2)}
    await one.read(0, 3)
    assert one.its.progress.behind(T0 + STALLED_US) == {0: (2, 2)}
    [reason] = one.its.progress.reasons(T0 + STALLED_US)
    assert "partition 0 catches up: 2 transactions and 2 labels" in reason
    assert one.its.progress.behind(T0 + 2 * STALLED_US) == {}
    assert one.live.next_offset[LABELS, 0] == 0


def test_a_meta_of_before_is_read() -> None:
    """Without the fields that came later; those are kept by every owner."""
    meta = Meta(4, 3, "w", base="ab", whole_since_us=7)
    assert Meta.parse(meta.encode()) == meta
    assert meta.owned_by("x").base == "ab"
    old = meta.encode().replace(b',"base":"ab","whole_since_us":7', b"")
    assert Meta.parse(old) == replace(meta, base="", whole_since_us=0)

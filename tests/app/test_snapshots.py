"""Snapshots: what was taken comes back bit for bit, what is no good is refused, and says why."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from app.adapters.memory import MemoryStore
from app.errors import ConfigError, StoreUnavailable
from app.meta import Meta
from app.rewrite import MARK, OvertakenError, Rewrite
from app.snapshots import Snapshot, Snapshots, file_of, forget, found, take
from features.blob import customer_key, meta_key

SPACE, P = "abc.x", 1
KEY = meta_key(SPACE, P)
META = Meta(4, 3, "w1", released=False, next_offset=(9, 4), source="here", transactional_id="g.w1")


def filled(n: int = 2500, meta: Meta = META) -> MemoryStore:
    """A store with a partition of n customers, and neighbours that are not to be touched."""
    blobs = {customer_key(SPACE, P, b"c%d" % i): b"\x00blob %d\xff" % i for i in range(n)}
    others = {meta_key(SPACE, 11): b"11", customer_key("abc", P, b"c1"): b"of another namespace"}
    return MemoryStore({**blobs, **others, KEY: meta.encode()})


def fits(directory: Path, source: str = "here", namespace: str = SPACE) -> Snapshots:
    """The snapshots of a deployment of four partitions."""
    return Snapshots(directory, namespace, 4, source)


async def restored(store: MemoryStore, its: Snapshots) -> Meta | None:
    """Let the partition be filled anew, as a worker does."""
    rewrite = Rewrite(store, SPACE, P)
    await rewrite.begin(store.blobs.get(KEY))
    meta = await its.refill(rewrite, P)
    if meta is not None:
        await rewrite.end(meta)
    return meta


async def test_what_was_taken_comes_back(tmp_path: Path) -> None:
    """Every blob and how far the logs are; under nobody, in a store that had others meanwhile."""
    before = filled()
    taken = await take(before, SPACE, P, tmp_path)
    assert (taken.blobs, taken.path) == (2500, file_of(tmp_path, SPACE, P, (9, 4)))
    assert taken.path.stat().st_size == taken.bytes
    after = MemoryStore({KEY: b"junk", customer_key(SPACE, P, b"stale"): b"old"})
    meta = await restored(after, fits(tmp_path))
    assert meta == replace(META, owner="", released=True, transactional_id="")
    mine = {key: b for key, b in before.blobs.items() if key.startswith(KEY.removesuffix(b"meta"))}
    assert after.blobs == {**mine, KEY: meta.encode()}
    assert [path.name for path in taken.path.parent.iterdir()] == ["p1.9-4.snapshot"]


async def test_the_epoch_never_falls(tmp_path: Path) -> None:
    """That of the store counts where it is higher: a former owner must see that he is one."""
    store = filled()
    await take(store, SPACE, P, tmp_path)
    store.blobs[KEY] = replace(META, epoch=8).encode()
    meta = await restored(store, fits(tmp_path))
    assert meta is not None
    assert meta.epoch == 8


class Moving(MemoryStore):
    """A store in which a worker flushes while its keys are looked through, so many times."""

    flushes = 0

    async def scan(self, prefix: bytes) -> AsyncIterator[bytes]:
        """See `StateStore.scan`."""
        async for key in super().scan(prefix):
            yield key
        meta = Meta.parse(self.blobs[KEY])
        if self.flushes and meta is not None:
            self.flushes -= 1
            first, second = meta.next_offset
            self.blobs[customer_key(SPACE, P, b"c0")] = b"newer"
            self.blobs[KEY] = replace(meta, next_offset=(first + 1, second)).encode()


async def test_a_state_that_moves_is_read_again(tmp_path: Path) -> None:
    """The image is that of one moment; where it never stands still nothing is left behind."""
    store = Moving(filled(10).blobs)
    store.flushes = 2
    taken = await take(store, SPACE, P, tmp_path)
    assert taken.meta.next_offset == (11, 4)
    [pairs] = Snapshot.read(taken.path).pairs()
    assert dict(pairs)[customer_key(SPACE, P, b"c0")] == b"newer"
    assert [path.name for path in taken.path.parent.iterdir()] == ["p1.11-4.snapshot"]
    store.flushes = 100
    with pytest.raises(StoreUnavailable, match="RISKWIRE_STATE_FLUSH_MS"):
        await take(store, SPACE, P, tmp_path)
    assert [path.name for path in taken.path.parent.iterdir()] == ["p1.11-4.snapshot"]


async def test_no_state_gives_no_snapshot(tmp_path: Path) -> None:
    """Neither where nothing is, nor while it is being written."""
    for value in ({}, {KEY: MARK + b"3 x"}):
        with pytest.raises(ConfigError, match="no state of partition 1"):
            await take(MemoryStore(value), SPACE, P, tmp_path)
    assert found(tmp_path, SPACE, P) == []


@pytest.mark.parametrize("at", [0, 9, 40, 200, 2000, -30, -1])
@pytest.mark.parametrize("cut", [True, False])
async def test_a_damaged_file_is_passed_over(tmp_path: Path, at: int, *, cut: bool) -> None:
    """Wherever a byte changes or the file ends: the next older one is taken instead."""
    store = filled(100, replace(META, next_offset=(5, 2)))
    await take(store, SPACE, P, tmp_path)
    store.blobs[KEY] = META.encode()
    path = (await take(store, SPACE, P, tmp_path)).path
    data = bytearray(path.read_bytes())
    if cut:
        del data[at:]
    else:
        data[at] ^= 0x40
    path.write_bytes(data)
    meta = await restored(store, fits(tmp_path))
    assert meta is not None
    assert meta.next_offset == (5, 2)


async def test_a_snapshot_of_something_else_is_refused(tmp_path: Path) -> None:
    """Another namespace, partition, count or group: the message names both."""
    path = (await take(filled(3), SPACE, P, tmp_path)).path
    its = Snapshot.read(path)
    its.check()
    for other, partition in (
        (Snapshots(tmp_path, "abd", 4, "here"), P),
        (Snapshots(tmp_path, SPACE, 4, "here"), 2),
        (Snapshots(tmp_path, SPACE, 6, "here"), P),
        (Snapshots(tmp_path, SPACE, 4, "there"), P),
    ):
        with pytest.raises(ConfigError, match=r"p1\.9-4\.snapshot is of .*not of"):
            other.judge(its, partition)
    fits(tmp_path).judge(its, P)
    fits(tmp_path, source="").judge(its, P)
    assert await restored(filled(3), fits(tmp_path, source="there")) is None


async def test_what_turned_out_to_be_no_good_is_not_restored_again(tmp_path: Path) -> None:
    """Then the next older one; without a directory there is none."""
    store = filled(3, replace(META, next_offset=(5, 2)))
    await take(store, SPACE, P, tmp_path)
    store.blobs[KEY] = META.encode()
    await take(store, SPACE, P, tmp_path)
    its = fits(tmp_path)
    for expected in ((9, 4), (5, 2)):
        meta = await restored(store, its)
        assert meta is not None
        assert meta.next_offset == expected
        its.distrust(P)
    assert await restored(store, its) is None
    assert await restored(store, Snapshots(None, SPACE, 4, "here")) is None


async def test_the_newest_stay_and_what_a_backfill_began_with(tmp_path: Path) -> None:
    """Without a number to keep all go: they go on from another past."""
    for offset in (0, 3, 20, 100):
        await take(filled(1, replace(META, next_offset=(offset, 0))), SPACE, P, tmp_path)
    forget(tmp_path, SPACE, P, keep=2)
    assert [its.meta.next_offset[0] for its in found(tmp_path, SPACE, P)] == [100, 20, 0]
    forget(tmp_path, SPACE, P)
    assert found(tmp_path, SPACE, P) == []


class Slow(MemoryStore):
    """A store in which somebody else does something before a write."""

    before: Sequence[tuple[int, bytes]] = ()
    writes = 0

    async def flush(self, *its: object) -> bool:
        """See `StateStore.flush`."""
        for at, value in self.before:
            if self.writes == at:
                self.blobs[KEY] = value
        self.writes += 1
        return await super().flush(*its)  # type: ignore[arg-type]


@pytest.mark.parametrize("at", [0, 1, 2])
async def test_who_is_overtaken_deletes_nothing_more(at: int) -> None:
    """A worker that slept while it cleared must not touch what its successor has written since."""
    store = Slow(filled(1500).blobs)
    store.before = [(at, replace(META, epoch=9).encode())]
    with pytest.raises(OvertakenError, match="partition 1"):
        await Rewrite(store, SPACE, P).begin(META.encode())
    left = [key for key in store.blobs if key.startswith(customer_key(SPACE, P, b"c"))]
    assert len(left) == (1500 if at < 2 else 500)
    assert store.blobs[KEY] == replace(META, epoch=9).encode()

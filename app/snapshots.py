"""Snapshots: a partition's state as one file, which a rebuild begins with instead of the log.

A file is `<directory>/<namespace>/p<partition>.<w>-<w>.snapshot`; w are the next offsets of the
transactions and of the labels log that are not in it. All of a file counts or nothing:

    magic 8    "RWSNAP1" and a line feed
    header     length 4, JSON: the partition's `Meta` as in Redis, namespace, partition, created_us
    entries    key length 2, blob length 4, key without what all keys of the partition begin with,
               blob; as often as there are blobs, a key perhaps twice
    end        two lengths of 0, how many entries 8, BLAKE2b of all before 16

Numbers are little-endian, unsigned. It is written to a file of another name beside it and renamed
once it is on the disk. Files are read and written in chunks, so memory is bounded whatever the
state's size; blobs are packed already, and are not packed again. Raises ConfigError for a file that
cannot be used, StoreUnavailable.
"""

import asyncio
import hashlib
import json
import os
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, NamedTuple, Self

import structlog

from app.errors import ConfigError, StoreUnavailable
from app.meta import Meta, Pair
from app.ports import StateStore
from app.rewrite import Rewrite
from features.blob import meta_key

log = structlog.get_logger("riskwire.state")
MAGIC = b"RWSNAP1\n"
CHUNK_KEYS = 1000
HEADER_BYTES_MAX = 1 << 16
ENTRY_BYTES = 6
READ_BYTES = 1 << 20
TRIES = 5
KEPT = 2
"""Of a partition so many are kept, and besides one that a backfill began with."""
Pairs = Sequence[tuple[bytes, bytes]]


class Snapshot(NamedTuple):
    """A file whose header could be read; `check` says whether the rest is good."""

    path: Path
    namespace: str
    partition: int
    created_us: int
    meta: Meta

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a file's header."""
        try:
            with path.open("rb") as file:
                magic, length = file.read(len(MAGIC)), int.from_bytes(file.read(4), "little")
                if magic != MAGIC or length > HEADER_BYTES_MAX:
                    raise ConfigError(f"{path} is no snapshot of this version")
                header = json.loads(file.read(length))
            meta = Meta.parse(header["meta"].encode())
            if meta is None:
                raise ConfigError(f"{path} is no snapshot of this version")
            its = str(header["namespace"]), int(header["partition"]), int(header["created_us"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ConfigError(f"the snapshot {path} cannot be read: {error}") from None
        return cls(path, *its, meta)

    def check(self) -> int:
        """How many entries there are; raises ConfigError unless the file is whole and unaltered."""
        entries = 0
        digest = hashlib.blake2b(digest_size=16)
        try:
            size = self.path.stat().st_size
            with self.path.open("rb") as file:
                left = size - 16
                while left > 0 and (part := file.read(min(READ_BYTES, left))):
                    digest.update(part)
                    left -= len(part)
                whole = left == 0 and file.read() == digest.digest()
            if whole:
                with self.path.open("rb") as file:
                    file.seek(size - 24)
                    entries = int.from_bytes(file.read(8), "little")
        except OSError as error:
            raise ConfigError(f"the snapshot {self.path} cannot be read: {error}") from None
        if not whole:
            raise ConfigError(f"the snapshot {self.path} is cut short or altered: take another")
        return entries

    def pairs(self) -> Iterator[list[tuple[bytes, bytes]]]:
        """Keys and blobs, some at a time; of a file that was checked."""
        prefix = meta_key(self.namespace, self.partition).removesuffix(b"meta")
        with self.path.open("rb") as file:
            file.seek(len(MAGIC))
            file.seek(int.from_bytes(file.read(4), "little"), os.SEEK_CUR)
            chunk: list[tuple[bytes, bytes]] = []
            while True:
                sizes = file.read(ENTRY_BYTES)
                key_bytes = int.from_bytes(sizes[:2], "little")
                if not key_bytes:
                    break
                key = file.read(key_bytes)
                chunk.append((prefix + key, file.read(int.from_bytes(sizes[2:], "little"))))
                if len(chunk) >= CHUNK_KEYS:
                    yield chunk
                    chunk = []
            if chunk:
                yield chunk


class _Writer:
    """A file that is being written."""

    def __init__(self, file: BinaryIO, namespace: str, partition: int, meta: Meta) -> None:
        self._file, self.entries = file, 0
        self.counts = True
        """Else it is not there in the end."""
        self._prefix = meta_key(namespace, partition).removesuffix(b"meta")
        self._digest = hashlib.blake2b(digest_size=16)
        header = {
            "namespace": namespace,
            "partition": partition,
            "created_us": time.time_ns() // 1000,
            "meta": meta.encode().decode(),
        }
        text = json.dumps(header).encode()
        self._put(MAGIC + len(text).to_bytes(4, "little") + text)

    def add(self, pairs: Pairs) -> None:
        """Write some blobs."""
        parts = []
        for key, blob in pairs:
            name = key.removeprefix(self._prefix)
            parts += [len(name).to_bytes(2, "little"), len(blob).to_bytes(4, "little"), name, blob]
        self.entries += len(pairs)
        self._put(b"".join(parts))

    def end(self) -> None:
        """Write the end; the file is on the disk then."""
        self._put(bytes(ENTRY_BYTES) + self.entries.to_bytes(8, "little"))
        self._file.write(self._digest.digest())
        self._file.flush()
        os.fsync(self._file.fileno())

    def _put(self, data: bytes) -> None:
        self._digest.update(data)
        self._file.write(data)


@contextmanager
def writing(directory: Path, namespace: str, partition: int, meta: Meta) -> Iterator[_Writer]:
    """Give a file to write, which is there once this ends well; `file_of` says where."""
    path = file_of(directory, namespace, partition, meta.next_offset)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with beside.open("wb") as file:
            out = _Writer(file, namespace, partition, meta)
            yield out
            out.end()
        if out.counts:
            beside.replace(path)
    except OSError as error:
        raise ConfigError(f"the snapshot {path} cannot be written: {error}") from None
    finally:
        with suppress(OSError):
            beside.unlink(missing_ok=True)


def file_of(directory: Path, namespace: str, partition: int, next_offset: Pair) -> Path:
    """Where a snapshot lies."""
    name = f"p{partition}.{next_offset[0]}-{next_offset[1]}.snapshot"
    return directory / namespace / name


def found(directory: Path, namespace: str, partition: int) -> list[Snapshot]:
    """The snapshots of a partition, the newest first; those that cannot be read are passed over."""
    its = []
    for path in (directory / namespace).glob(f"p{partition}.*.snapshot"):
        try:
            its.append(Snapshot.read(path))
        except ConfigError as error:
            log.warning("a snapshot is passed over", error=str(error))
    return sorted(its, key=lambda each: each.meta.next_offset, reverse=True)


def forget(directory: Path, namespace: str, partition: int, keep: int = 0) -> None:
    """Delete a partition's snapshots but the newest; the base of a backfill stays if any does."""
    for each in found(directory, namespace, partition)[keep:]:
        if not keep or each.meta.next_offset != (0, 0):
            each.path.unlink(missing_ok=True)


@dataclass(frozen=True, slots=True)
class Taken:
    """A snapshot that was written: its file and what is in it."""

    path: Path
    meta: Meta
    blobs: int
    bytes: int


async def take(
    store: StateStore,
    namespace: str,
    partition: int,
    directory: Path,
    still: Callable[[], bool] = lambda: True,
) -> Taken:
    """Write a partition's state as it is at one moment.

    It is one moment's if the partition's `Meta` was the same before and after, since every flush
    changes that; else it is read again, a few times. Raises ConfigError where there is no state,
    StoreUnavailable also where `still` says no.
    """
    guard = meta_key(namespace, partition)
    for _ in range(TRIES):
        [value] = await store.fetch([guard])
        meta = Meta.parse(value)
        if meta is None:
            raise ConfigError(f"Redis holds no state of partition {partition}")
        path = file_of(directory, namespace, partition, meta.next_offset)
        with writing(directory, namespace, partition, meta) as out:
            async for pairs in _blobs(store, guard):
                await asyncio.to_thread(out.add, pairs)
                if not still():
                    raise StoreUnavailable(f"partition {partition} is being given up")
            out.counts = await store.fetch([guard]) == [value]
        if out.counts:
            return Taken(path, meta, out.entries, path.stat().st_size)
    raise StoreUnavailable(
        f"partition {partition} was written to while it was read, {TRIES} times: the worker flushes"
        " more often than that takes. Stop it meanwhile, or raise RISKWIRE_STATE_FLUSH_MS"
    )


async def _blobs(store: StateStore, guard: bytes) -> AsyncIterator[list[tuple[bytes, bytes]]]:
    keys: list[bytes] = []
    async for key in store.scan(guard.removesuffix(b"meta")):
        if key != guard:
            keys.append(key)
        if len(keys) >= CHUNK_KEYS:
            yield await _fetched(store, keys)
            keys = []
    if keys:
        yield await _fetched(store, keys)


async def _fetched(store: StateStore, keys: list[bytes]) -> list[tuple[bytes, bytes]]:
    blobs = await store.fetch(keys)
    return [(key, blob) for key, blob in zip(keys, blobs, strict=True) if blob is not None]


class Snapshots:
    """The snapshots of a deployment, for whoever fills a partition anew."""

    def __init__(
        self,
        directory: Path | None,
        namespace: str,
        partitions: int,
        source: str,
        every_s: float = 0.0,
    ) -> None:
        """`source` is what `Meta` calls so, empty for any; without a directory there are none.

        A worker takes one of each partition every `every_s`, if that is not 0.
        """
        self.every_s = every_s if directory is not None else 0.0
        self._directory, self._namespace = directory, namespace
        self._partitions, self._source = partitions, source
        self._used: dict[int, Path] = {}
        self._refused: set[Path] = set()

    def fitting(self, partition: int) -> Iterator[Snapshot]:
        """The snapshots that may be gone on from, the newest first; says why others may not."""
        if self._directory is None:
            return
        for each in found(self._directory, self._namespace, partition):
            if each.path in self._refused:
                continue
            try:
                self.judge(each, partition)
                each.check()
            except ConfigError as error:
                log.warning("a snapshot is passed over", error=str(error))
            else:
                yield each

    def judge(self, its: Snapshot, partition: int) -> None:
        """Raise ConfigError where a snapshot is of something else."""
        theirs = (its.namespace, its.partition, its.meta.partitions)
        ours = (self._namespace, partition, self._partitions)
        if theirs != ours:
            raise ConfigError(
                f"{its.path} is of {theirs[0]}, partition {theirs[1]} of {theirs[2]}, not of"
                f" {ours[0]}, partition {ours[1]} of {ours[2]}"
            )
        if self._source and its.meta.source not in ("", self._source):
            raise ConfigError(f"{its.path} is of {its.meta.source}, not of {self._source}")

    async def keep(self, store: StateStore, partition: int, still: Callable[[], bool]) -> bool:
        """Take a snapshot and delete old ones; False, and a line in the log, where that fails."""
        if self._directory is None:
            return False
        try:
            await take(store, self._namespace, partition, self._directory, still)
            forget(self._directory, self._namespace, partition, KEPT)
        except (ConfigError, StoreUnavailable, OSError) as error:
            log.warning("no snapshot was taken", partition=partition, error=str(error))
            return False
        return True

    def distrust(self, partition: int) -> None:
        """Use no more what the partition was filled from last: it turned out to be no good."""
        if (path := self._used.pop(partition, None)) is not None:
            self._refused.add(path)

    async def refill(self, rewrite: Rewrite, partition: int) -> Meta | None:
        """Write the newest fitting snapshot into a partition that was begun.

        What is to be said of it then, under nobody; None where none fits.
        """
        its = await asyncio.to_thread(lambda: next(self.fitting(partition), None))
        if its is None:
            return None
        await write_back(its, rewrite)
        self._used[partition] = its.path
        log.info(
            "state is restored from a snapshot",
            partition=partition, path=str(its.path), next_offset=its.meta.next_offset,
        )  # fmt: skip
        return released(its.meta, rewrite.epoch)


async def write_back(its: Snapshot, rewrite: Rewrite) -> None:
    """Write a snapshot's blobs into a partition that was begun."""
    pairs = its.pairs()
    try:
        while (chunk := await asyncio.to_thread(next, pairs, None)) is not None:
            await rewrite.go_on(chunk)
    except OSError as error:
        raise ConfigError(f"the snapshot {its.path} cannot be read: {error}") from None


def released(meta: Meta, epoch: int) -> Meta:
    """The same state under nobody."""
    return replace(meta, epoch=max(epoch, meta.epoch), owner="", transactional_id="", released=True)

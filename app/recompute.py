"""A partition's state made anew from its logs, apart from any worker: what Redis should hold.

It is the stream's own live state over a store in memory: decode, let the state know, silently, with
the watermarks of quiet logs at their places. The two logs meet in no blob, so one is read after the
other. All blobs of the partition are in memory in the end. Raises what the registry raises.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from app.adapters.memory import MemoryStore
from app.backoff import Backoff
from app.decode import Limits, Writers, decode
from app.enrich import Enrich
from app.errors import SchemaError
from app.labels import decode_labels, label_writers
from app.live import Live
from app.meta import Meta
from app.ports import WriterSchemas
from app.records import RecordBatch
from app.snapshots import Snapshot
from app.watermarks import Watermark
from features.blob import meta_key
from features.contract import Timing


class Difference(NamedTuple):
    """A key whose blob is not as the logs say: `what` is missing, unexpected or different."""

    key: bytes
    what: str


class Recomputed:
    """One partition's state, from what it begins with on."""

    def __init__(
        self,
        timing: Timing,
        partitions: int,
        partition: int,
        name: str,
        rows_max: tuple[int, int],
        limits: Limits,
        registry: WriterSchemas,
    ) -> None:
        """Begin before the first record, with nothing.

        `rows_max` are the customers and the shares that are kept at work, as a worker's settings.
        """
        self._partition, self._limits, self._registry = partition, limits, registry
        self._store = MemoryStore()
        self.live = Live(timing, partitions, *rows_max, name)
        self._enrich = Enrich(self.live, self._store, lambda: 0, Backoff(), self._flush)
        self._writers, self._label_writers = Writers(), label_writers()
        self._guard = meta_key(self.live.namespace, partition)
        self._adopt(Meta(partitions))

    def begin_with(self, snapshot: Snapshot) -> None:
        """Begin with what a snapshot holds, which was checked."""
        for pairs in snapshot.pairs():
            self._store.blobs |= pairs
        self._adopt(snapshot.meta)

    def _adopt(self, meta: Meta) -> None:
        self._store.blobs[self._guard] = meta.encode()
        self.live.adopt(self._partition, meta, (0, 0))

    def declare(self, marks: Iterable[Watermark]) -> None:
        """Let watermarks hold from their positions on."""
        for mark in marks:
            self.live.declare(self._partition, mark)

    async def transactions(self, records: RecordBatch) -> None:
        """Let the state know the next records of the transactions log."""
        while (its := decode(records, self._writers, self._limits)).unresolved:
            await self._resolve(self._writers, its.unresolved)
        await self._enrich.vectors(records, its.transactions)
        self._store.fetches.clear()

    async def labels(self, records: RecordBatch) -> None:
        """Let the state know the next records of the labels log."""
        while (its := decode_labels(records, self._label_writers, self._limits)).unresolved:
            await self._resolve(self._label_writers, its.unresolved)
        await self._enrich.learn(records, its.labels)
        self._store.fetches.clear()

    async def _resolve(self, writers: Writers, ids: Iterable[int]) -> None:
        for schema_id, text in (await self._registry.resolve(sorted(ids))).items():
            try:
                if text is not None:
                    writers.add_id(schema_id, text)
                    continue
            except SchemaError:
                pass  # nor could the worker use it
            writers.mark_unknown(schema_id)

    async def _flush(self) -> None:
        """Make room: what changed goes to the store."""
        [image] = self.live.freeze()
        before, after = image.before.encode(), image.after.encode()
        self.live.writing(image)
        await self._store.flush(self._guard, before, after, image.pairs)
        self.live.flushed(image)

    async def compare(self, image: Snapshot) -> Iterator[Difference]:
        """What is not the same in an image of Redis at the same place of the logs."""
        await self._flush()
        blobs = self._store.blobs
        ours = Meta.parse(blobs.pop(self._guard))
        assert ours is not None  # noqa: S101 -- just written
        return self._differences(image, ours, blobs)

    def _differences(
        self, image: Snapshot, ours: Meta, blobs: dict[bytes, bytes]
    ) -> Iterator[Difference]:
        theirs = image.meta
        quiet = [a > b for a, b in zip(theirs.quiet_us, ours.quiet_us, strict=True)]
        if theirs.newest_us != ours.newest_us or any(quiet):
            yield Difference(self._guard, "different")
        seen: set[bytes] = set()
        for pairs in image.pairs():
            for key, blob in pairs:
                expected = blobs.get(key)
                if expected != blob and key not in seen:
                    yield Difference(key, "unexpected" if expected is None else "different")
                seen.add(key)
        for key in blobs.keys() - seen:
            yield Difference(key, "missing")

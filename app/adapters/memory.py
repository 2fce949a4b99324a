"""The ports in memory: what the tests and the test kit run the pipeline on, no mocking library.

They behave as the real adapters do, down to the errors of `app.errors`, and let a test take them
away and bring them back.
"""
# ruff: noqa: ARG002 -- the ports' arguments, of which memory needs few

import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from app.errors import BrokerUnavailable, GroupMoved, RegistryUnavailable, StoreUnavailable
from app.ports import RebalanceListener
from app.records import Float32s, Outbound, RecordBatch
from app.watermarks import Watermark


class MemoryStore:
    """Blobs in a dict; `away` makes it raise StoreUnavailable."""

    def __init__(self, blobs: Mapping[bytes, bytes] | None = None) -> None:
        """Begin with these blobs."""
        self.blobs = dict(blobs or {})
        self.away = False
        self.fetches: list[list[bytes]] = []

    async def fetch(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """See `StateStore.fetch`."""
        self._answer()
        self.fetches.append(list(keys))
        return [self.blobs.get(key) for key in keys]

    async def flush(
        self,
        guard: bytes,
        expected: bytes | None,
        new: bytes,
        pairs: Sequence[tuple[bytes, bytes | None]],
    ) -> bool:
        """See `StateStore.flush`."""
        self._answer()
        if self.blobs.get(guard) != expected:
            return False
        for key, blob in (*pairs, (guard, new)):
            if blob is None:
                self.blobs.pop(key, None)
            else:
                self.blobs[key] = blob
        return True

    async def delete(self, prefix: bytes) -> None:
        """See `StateStore.delete`."""
        self._answer()
        self.blobs = {key: b for key, b in self.blobs.items() if not key.startswith(prefix)}

    async def scan(self, prefix: bytes) -> AsyncIterator[bytes]:
        """See `StateStore.scan`."""
        self._answer()
        for key in [key for key in self.blobs if key.startswith(prefix)]:
            yield key

    def _answer(self) -> None:
        if self.away:
            raise StoreUnavailable("the store in memory is away")


class MemoryWatermarks:
    """The topic `watermarks` in lists by partition."""

    def __init__(self) -> None:
        """Begin empty."""
        self.marks: dict[int, list[Watermark]] = {}

    async def read(self, starts: Mapping[int, int]) -> dict[int, tuple[list[Watermark], int]]:
        """See `WatermarkLog.read`."""
        found = {p: self.marks.get(p, []) for p in starts}
        return {p: (found[p][at:], len(found[p])) for p, at in starts.items()}

    def close(self) -> None:
        """See `WatermarkLog.close`."""


class MemoryRegistry:
    """Writer schemas in a dict; `away` makes it raise RegistryUnavailable."""

    def __init__(self, schemas: Mapping[int, str] | None = None) -> None:
        """Begin with these schema texts by id."""
        self.schemas = dict(schemas or {})
        self.away = False

    async def resolve(self, ids: Sequence[int]) -> dict[int, str | None]:
        """See `WriterSchemas.resolve`."""
        if self.away:
            raise RegistryUnavailable("the registry in memory is away")
        return {i: self.schemas.get(i) for i in ids}


class LinearScorer:
    """A logistic model whose scores depend on each row alone: weights float32 (features,)."""

    provider = "memory"

    def __init__(self, weights: Float32s, model_id: str, feature_contract_id: str) -> None:
        """Score by sigmoid(row · weights)."""
        self.weights, self.model_id = weights, model_id
        self.feature_contract_id = feature_contract_id

    def score_many(self, matrix: Float32s) -> Float32s:
        """See `Scorer.score_many`; a loop over rows, so that no row sees its neighbours."""
        raw = np.array([float(np.sum(row * self.weights)) for row in matrix], np.float32)
        return np.asarray(1 / (1 + np.exp(-raw)), np.float32)


class LinearExplainer:
    """What each weight adds to a `LinearScorer`'s raw score."""

    base = 0.0

    def __init__(self, weights: Float32s) -> None:
        """Explain sigmoid(row · weights)."""
        self.weights = weights

    def contributions(self, rows: Float32s) -> NDArray[np.float64]:
        """See `Explainer.contributions`."""
        return rows.astype(np.float64) * self.weights


class MemorySource:
    """A consumer fed by `add`; keeps what was committed."""

    def __init__(
        self,
        listener: RebalanceListener,
        partitions: Sequence[tuple[str, int]],
        companions: Sequence[str] = (),
    ) -> None:
        """Own these partitions from the first poll on, and those of their companions."""
        besides = [(topic, p) for topic in companions for p in sorted({p for _, p in partitions})]
        self.listener, self._partitions = listener, [*partitions, *besides]
        self._waiting: deque[RecordBatch] = deque()
        self._added = threading.Condition()
        self._owned: set[tuple[str, int]] = set()
        self.commits: dict[tuple[str, int], int] = {}
        self.starts: dict[tuple[str, int], int] = {}
        self.paused: set[tuple[str, int]] = set()
        self.away = False
        self.sought: list[dict[tuple[str, int], int]] = []
        self.closed = False

    def add(self, batch: RecordBatch) -> None:
        """Let the next poll find this batch."""
        with self._added:
            self._waiting.append(batch)
            self._added.notify_all()

    def revoke(self, *, lost: bool = False) -> None:
        """Take all partitions away; call it on the polling thread, as a rebalance would."""
        owned = sorted(self._owned)
        self.listener.revoked(owned, lost=lost)
        self._owned.clear()

    def poll(self, records_max: int, wait_ms: int, linger_ms: int) -> list[RecordBatch]:
        """See `Source.poll`."""
        if not self._owned and self._partitions:
            self._owned = set(self._partitions)
            self.listener.assigned(self._partitions)
        with self._added:
            self._added.wait_for(lambda: self._ready() is not None, wait_ms / 1000)
            if (ready := self._ready()) is None:
                return []
            batch = self._waiting[ready]
            del self._waiting[ready]
            return [batch]

    def _ready(self) -> int | None:
        """Where the first batch waits that overtakes no other of its partitions; none is paused."""
        held = set(self.paused)
        for i, batch in enumerate(self._waiting):
            its = {(batch.topic, int(p)) for p in np.unique(batch.partition)}
            if not its & held:
                return i
            held |= its
        return None

    def assignment(self) -> set[tuple[str, int]]:
        """See `Source.assignment`."""
        return set(self._owned)

    def commit(self, offsets: Mapping[tuple[str, int], int], *, wait: bool) -> None:
        """See `Source.commit`."""
        self.commits |= {at: offset for at, offset in offsets.items() if at in self._owned}

    def committed(self, partitions: Sequence[tuple[str, int]]) -> dict[tuple[str, int], int]:
        """See `Source.committed`; fails while `away`."""
        if self.away:
            raise BrokerUnavailable("the broker in memory is away")
        return {at: self.commits[at] for at in partitions if at in self.commits}

    def seek(self, offsets: Mapping[tuple[str, int], int]) -> None:
        """See `Source.seek`."""
        self.sought.append(dict(offsets))

    def ends(self) -> dict[tuple[str, int], int]:
        """See `Source.ends`."""
        return dict.fromkeys(self._owned, 0)

    def group_metadata(self) -> object:
        """See `Source.group_metadata`."""
        return "group"

    def reached(self) -> dict[tuple[str, int], int]:
        """See `Source.reached`: there are no markers."""
        return {}

    def unreadable(self) -> dict[tuple[str, int], str]:
        """See `Source.unreadable`."""
        return {}

    def beginnings(self) -> dict[tuple[str, int], int]:
        """See `Source.beginnings`; what `starts` says, else 0. Fails while `away`."""
        if self.away:
            raise BrokerUnavailable("the broker in memory is away")
        return {at: self.starts.get(at, 0) for at in self._owned}

    def pause(self, partitions: Sequence[tuple[str, int]]) -> None:
        """See `Source.pause`."""
        self.paused |= set(partitions)

    def resume(self, partitions: Sequence[tuple[str, int]]) -> None:
        """See `Source.resume`."""
        self.paused -= set(partitions)

    def close(self) -> None:
        """See `Source.close`."""
        self.closed = True


class MemorySink:
    """A producer that keeps what it was sent; acknowledges at once unless `holding`."""

    def __init__(self) -> None:
        """Begin empty."""
        self.sent: list[tuple[int, Outbound]] = []
        self._unacknowledged: list[int] = []
        self.holding = False
        self.failing = False
        self.full = False
        self.closed = False

    def room(self, records: int) -> bool:
        """See `Sink.room`."""
        return not self.full

    def send(self, outbound: Outbound, ticket: int) -> None:
        """See `Sink.send`."""
        self.sent.append((ticket, outbound))
        self._unacknowledged.append(ticket)

    def poll(self, wait_ms: int) -> list[int]:
        """See `Sink.poll`."""
        if self.failing:
            raise BrokerUnavailable("the sink in memory refused a record")
        if self.holding:
            return []
        done, self._unacknowledged = self._unacknowledged, []
        return done

    def close(self, timeout_ms: int) -> None:
        """See `Sink.close`."""
        self.closed = True


class MemoryTransactor:
    """A transactional producer of one incarnation; commits offsets to a source, or fails."""

    def __init__(self, source: Callable[[], MemorySource]) -> None:
        """`source` gives the consumer whose offsets go into the transactions."""
        self._source = source
        self.committed: list[tuple[list[Outbound], dict[tuple[str, int], int]]] = []
        self.failing, self.troubled = "", False
        self.closed = False
        self.holding = threading.Event()
        self.holding.set()

    def is_troubled(self) -> bool:
        """See `Transactor.is_troubled`."""
        return self.troubled

    def transact(
        self,
        outbounds: Iterable[Outbound],
        offsets: Mapping[tuple[str, int], int],
        group: object,
    ) -> None:
        """See `Transactor.transact`; waits while `holding` is clear.

        `failing` is "before" the commit, or "after" it, or "moved".
        """
        its = list(outbounds)
        self.holding.wait()
        if self.failing == "moved":
            raise GroupMoved("the group in memory has moved on")
        if self.failing == "before":
            raise BrokerUnavailable("the transaction in memory was not committed")
        self.committed.append((its, dict(offsets)))
        self._source().commit(offsets, wait=True)
        if self.failing == "after":
            raise BrokerUnavailable("nobody knows whether the transaction was committed")

    def close(self, timeout_ms: int) -> None:
        """See `Transactor.close`."""
        self.closed = True

"""What the pipeline and the worker need from outside, as small protocols.

`adapters/` implements them on Kafka, Redis and ONNX Runtime; `adapters/memory.py` implements them
in memory and ships beside the real ones. Failures arrive as `app.errors`.
"""

from asyncio import Future
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from app.records import Float32s, Outbound, RecordBatch

Clock = Callable[[], int]
"""Microseconds since 1970-01-01 UTC."""


class StateStore(Protocol):
    """The online store of state: blobs by key, where a partition's keys share the tag {p<N>}."""

    async def fetch(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """One blob for each key in one round trip, None where there is none.

        Raises StoreUnavailable.
        """

    async def flush(
        self,
        guard: bytes,
        expected: bytes | None,
        new: bytes,
        pairs: Sequence[tuple[bytes, bytes | None]],
    ) -> bool:
        """Write all pairs and the guard's new value at once, if it holds what is expected.

        A value of None deletes its key. Expected None: there must be no guard. False: it was
        another, and nothing is written. Raises StoreUnavailable, which leaves open whether all is
        written or nothing.
        """

    async def delete(self, prefix: bytes) -> None:
        """Delete all keys that begin with a prefix; raises StoreUnavailable."""

    def scan(self, prefix: bytes) -> AsyncIterator[bytes]:
        """The keys that begin with a prefix, in no order; one may come twice.

        One written meanwhile may be left out. Raises StoreUnavailable.
        """


class WriterSchemas(Protocol):
    """The schema registry, as far as decoding needs it."""

    async def resolve(self, ids: Sequence[int]) -> Mapping[int, str | None]:
        """The schema text of each id, None for an id that it does not know.

        Raises RegistryUnavailable.
        """


class Scorer(Protocol):
    """A loaded model."""

    model_id: str
    feature_contract_id: str
    provider: str

    def score_many(self, matrix: Float32s) -> Float32s:
        """Probabilities (n,) for a C-contiguous matrix (n, features); raises ScoringError."""


class Explainer(Protocol):
    """A model's raw score taken apart; `models.explain` has them."""

    @property
    def base(self) -> float:
        """The raw score (log-odds) before any feature is known."""

    def contributions(self, rows: Float32s) -> NDArray[np.float64]:
        """What each feature adds, float64 (k, features), for float32 rows (k, features).

        With `base` they sum to the row's raw score.
        """


class RebalanceListener(Protocol):
    """Whoever holds batches in hand; called inside `Source.poll`, on its thread.

    Partitions of companion topics come and go in the same call as those that they go with.
    """

    def assigned(self, partitions: Sequence[tuple[str, int]]) -> None:
        """These partitions are ours from now on."""

    def revoked(self, partitions: Sequence[tuple[str, int]], *, lost: bool) -> None:
        """Finish and commit what is in hand of these.

        If lost, they may be another's already: only let go.
        """


class Commits(Protocol):
    """What is known of the consumer's commits and places."""

    async def confirmed(
        self,
        offsets: Mapping[tuple[str, int], int],
        still: Callable[[], bool],
        *,
        but_one: bool = False,
    ) -> bool:
        """Wait until these next offsets are committed, and outputs begun by now acknowledged.

        Without those of the last batch that was begun if `but_one`: it waits for room.
        False once `still` says no.
        """

    def committed(self, at: tuple[str, int]) -> int:
        """The next offset that is committed for certain, -1 where it is unknown."""

    def ended(self, task: Future[None]) -> None:
        """Let whoever waits for the next batch raise what ended a task, unless it was cancelled."""

    def go_back(self) -> None:
        """Drop what is in hand and claim every partition again, soon."""

    def at_end(self) -> dict[tuple[str, int], int]:
        """The logs that were read to their end, as far as the consumer has heard.

        With the offset up to which their records came, -1 where none came since it was claimed.
        """


class StateOwner(Protocol):
    """Whoever keeps the state of partitions; called by the consumer's thread, which waits."""

    def start(self, commits: Commits) -> None:
        """Begin; called in the event loop before anything is claimed."""

    def fence(self, partitions: Sequence[int]) -> bool:
        """See to it that no former owner's transaction is open; False: not yet, ask again.

        Committed offsets that are read then are the last of former owners.
        """

    def claim(
        self, partitions: Sequence[int], committed: Mapping[tuple[str, int], int]
    ) -> Mapping[tuple[str, int], int] | None:
        """Own these partitions' state; from which offset on each log is to be read.

        A log that is left out is read from its beginning. None: not now, ask again.
        """

    def lacks(self, gone: Mapping[tuple[str, int], int]) -> None:
        """Know that records of claimed logs are gone that should come next; the oldest there are.

        Raises BrokerUnavailable.
        """

    def release(self, partitions: Sequence[int], *, lost: bool) -> None:
        """Let go of these partitions: nothing of them is in hand any more, unless they are lost."""


class Source(Protocol):
    """A Kafka consumer that gives record batches. All calls come from one thread.

    It reads the topics it subscribed to, and of its companion topics the partitions with the
    numbers of those it owns of the first; every call is about both.
    """

    def poll(self, records_max: int, wait_ms: int, linger_ms: int) -> list[RecordBatch]:
        """Wait for the first record, then take what is there (or comes within linger_ms).

        Gives one batch a topic. Rebalances are served inside this call. Raises BrokerUnavailable
        on a fatal client error.
        """

    def assignment(self) -> set[tuple[str, int]]:
        """The partitions owned now, as (topic, partition)."""

    def commit(self, offsets: Mapping[tuple[str, int], int], *, wait: bool) -> None:
        """Commit next offsets of owned partitions.

        Raises BrokerUnavailable if `wait` and it failed.
        """

    def seek(self, offsets: Mapping[tuple[str, int], int]) -> None:
        """Go on from these offsets; what was prefetched is dropped."""

    def committed(self, partitions: Sequence[tuple[str, int]]) -> dict[tuple[str, int], int]:
        """Committed next offsets; a partition without one is left out. Raises BrokerUnavailable."""

    def ends(self) -> dict[tuple[str, int], int]:
        """The end of each owned partition's log as last seen, without asking the broker."""

    def reached(self) -> Mapping[tuple[str, int], int]:
        """The end at which the logs were that were read to their end, when they last were.

        A transaction's marker counts there, which is never given out.
        """

    def unreadable(self) -> Mapping[tuple[str, int], str]:
        """Partitions that stand still since their next batch cannot be read, and why."""

    def group_metadata(self) -> object:
        """This member of the group, for `Transactor.transact`; may be called by any thread."""

    def beginnings(self) -> dict[tuple[str, int], int]:
        """The oldest offset of each owned partition's log; asks the broker.

        Raises BrokerUnavailable.
        """

    def pause(self, partitions: Sequence[tuple[str, int]]) -> None:
        """Fetch no more of these until resumed; heartbeats go on."""

    def resume(self, partitions: Sequence[tuple[str, int]]) -> None:
        """Fetch these again."""

    def close(self) -> None:
        """Leave the group; commits nothing."""


class Sink(Protocol):
    """A Kafka producer of whole micro-batches; says when all of a batch is acknowledged."""

    def room(self, records: int) -> bool:
        """Whether that many records fit into the send queue now."""

    def send(self, outbound: Outbound, ticket: int) -> None:
        """Queue everything of a batch.

        `poll` gives `ticket` (> 0) back once all of it is acknowledged.
        """

    def poll(self, wait_ms: int) -> list[int]:
        """Wait for acknowledgements; the tickets complete by now.

        Raises BrokerUnavailable if a record failed.
        """

    def close(self, timeout_ms: int) -> None:
        """Flush within the time-out, then let go."""


class Transactor(Protocol):
    """A transactional producer of one incarnation. All calls come from one thread.

    Making one fences whatever used its transactional id before.
    """

    def is_troubled(self) -> bool:
        """Whether the connection had trouble since the last transaction: better take a new one."""

    def transact(
        self, outbounds: Iterable[Outbound], offsets: Mapping[tuple[str, int], int], group: Any
    ) -> None:
        """Send all outputs, and commit the input's next offsets with them, or nothing of it.

        `group` is what `Source.group_metadata` gave just now. Raises BrokerUnavailable where it is
        not certain that all is committed: then this producer must not be used again. If it is a
        GroupMoved, it is certain that nothing is.
        """

    def close(self, timeout_ms: int) -> None:
        """Let go; what is not committed is left to whoever fences the id."""

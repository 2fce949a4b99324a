"""What the pipeline and the worker need from outside, as small protocols.

`adapters/` implements them on Kafka, Redis and ONNX Runtime; `adapters/memory.py` implements them
in memory and ships beside the real ones. Failures arrive as `app.errors`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from app.records import Float32s, Outbound, RecordBatch

Clock = Callable[[], int]
"""Microseconds since 1970-01-01 UTC."""


class ProfileStore(Protocol):
    """The online store: packed profile blobs by key."""

    async def fetch(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """One blob for each key in one round trip, None where there is none.

        Raises StoreUnavailable.
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


class RebalanceListener(Protocol):
    """Whoever holds batches in hand; called inside `Source.poll`, on its thread."""

    def assigned(self, partitions: Sequence[tuple[str, int]]) -> None:
        """These partitions are ours from now on."""

    def revoked(self, partitions: Sequence[tuple[str, int]], *, lost: bool) -> None:
        """Finish and commit what is in hand of these.

        If lost, they may be another's already: only let go.
        """


class Source(Protocol):
    """A Kafka consumer that gives record batches. All calls come from one thread."""

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

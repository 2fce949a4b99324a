"""What the laws are stated of: records by topic and partition, offsets, blobs. A value or Kafka."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple, Protocol

Headers = tuple[tuple[str, bytes | None], ...]


class CannotDecide(Exception):  # noqa: N818 -- no fault of the deployment: the question is wrong
    """A setting, a model or a truncated topic stands in the way; the message says what to do."""


class CannotReach(Exception):  # noqa: N818 -- it may pass
    """Kafka or Redis does not answer, or what is there still moves."""


class Record(NamedTuple):
    """One record; `timestamp_type` 0 none, 1 by its producer, 2 by the broker."""

    offset: int
    key: bytes | None
    value: bytes | None
    headers: Headers = ()
    timestamp_ms: int = 0
    timestamp_type: int = 2


class Ends(NamedTuple):
    """Of a partition: its first offset, the end for read_committed, and the end."""

    first: int
    stable: int
    end: int


class Evidence(Protocol):
    """What is there; roles are those of `settings.ROLES`."""

    def records(self, role: str, partition: int) -> Iterable[Record]:
        """The committed records of a topic's partition, in order. May be asked for again."""

    def ends(self, role: str, partition: int) -> Ends:
        """How far the partition goes."""

    def committed(self, role: str, partition: int) -> int:
        """The group's next offset of transactions or labels; -1 where none is committed."""

    def blobs(self, prefix: bytes) -> Mapping[bytes, bytes]:
        """All of Redis whose key begins so."""

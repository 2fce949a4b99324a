"""What Redis says of a partition's state: who owns it, and up to where the logs are in it.

One small JSON value a partition, written together with the state and compared before every write,
so that a former owner can write nothing. A value that cannot be read counts as missing: the state
is built anew from the logs. Pure.
"""

import json
from dataclasses import asdict, dataclass, replace
from typing import Self

from features.state import LABELS, NEVER, TRANSACTIONS

Pair = tuple[int, int]
"""Of the transactions log, then of the labels log."""


@dataclass(frozen=True, slots=True)
class Meta:
    """How far a partition's state is, and whose.

    `next_offset` is the first record of each log that is not in it. `newest_us` is the running
    maximum of each log's own times, `quiet_us` up to when it was declared complete, `held_us` the
    time of a record that was read and waits (see `features.state`). `next_mark` is the first record
    of the topic `watermarks` that is not in it. `epoch` rises with every owner. `transactional_id`
    is what the owner writes under: the next one fences it unless the partition was released.
    `source` names the consumer group and the topic whose logs are in it, once a worker owned it.
    `base` names the backfilled past that the logs go on from, empty for none. `whole_since_us` is
    not 0 where records that should be in it were gone from the logs already: what was appended
    before that time is not all there.
    """

    partitions: int
    epoch: int = 0
    owner: str = ""
    released: bool = True
    next_offset: Pair = (0, 0)
    newest_us: Pair = (NEVER, NEVER)
    quiet_us: Pair = (NEVER, NEVER)
    held_us: Pair = (NEVER, NEVER)
    next_mark: int = 0
    transactional_id: str = ""
    source: str = ""
    base: str = ""
    whole_since_us: int = 0

    @classmethod
    def parse(cls, value: bytes | None) -> Self | None:
        """The inverse of `encode`; None for what is none."""
        if value is None:
            return None
        try:
            fields = json.loads(value)
            names = ("next_offset", "newest_us", "quiet_us", "held_us")
            pairs = {name: _pair(fields[name]) for name in names}
            return cls(
                int(fields["partitions"]),
                int(fields["epoch"]),
                str(fields["owner"]),
                bool(fields["released"]),
                **pairs,
                next_mark=int(fields["next_mark"]),
                transactional_id=str(fields["transactional_id"]),
                source=str(fields["source"]),
                base=str(fields.get("base", "")),
                whole_since_us=int(fields.get("whole_since_us", 0)),
            )
        except (ValueError, TypeError, KeyError):
            return None

    def encode(self) -> bytes:
        """As it lies in Redis."""
        return json.dumps(asdict(self), separators=(",", ":")).encode()

    def owned_by(self, owner: str, source: str = "", transactional_id: str = "") -> Self:
        """The same state under a new owner."""
        return replace(
            self,
            source=source,
            epoch=self.epoch + 1,
            owner=owner,
            transactional_id=transactional_id,
            released=False,
        )

    def watermarks(self, lateness_us: int) -> Pair:
        """Up to when all records of each log are in the state."""
        logs = zip(self.newest_us, self.held_us, self.quiet_us, strict=True)
        marks = [max(newest - lateness_us, held - lateness_us, q) for newest, held, q in logs]
        return marks[TRANSACTIONS], marks[LABELS]


def namespace(contract_id: str, name: str) -> str:
    """What stands in front of every key of one deployment's state."""
    return f"{contract_id}.{name}" if name else contract_id


def _pair(value: list[int]) -> Pair:
    first, second = value
    return int(first), int(second)

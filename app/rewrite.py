"""Writing all of a partition's state anew, guarded so that nobody meets half of it.

While it is written its `Meta` is a mark that nobody can read, which a worker takes for none: what
ends half-way leaves nothing that counts. Every write and every deletion happens only while that
very mark is there, so whoever is overtaken (a worker that slept, a command that was run twice) can
neither write into nor delete from what another has made since. Raises StoreUnavailable, and
OvertakenError.
"""

import uuid
from collections.abc import Sequence

from app.errors import ConfigError
from app.meta import Meta
from app.ports import StateStore
from features.blob import meta_key

MARK = b"rewriting "
CHUNK_KEYS = 1000


class OvertakenError(ConfigError):
    """Somebody else has taken the partition meanwhile."""


class Rewrite:
    """The writing of one partition: `begin`, `go_on` as often as wanted, `end`."""

    def __init__(self, store: StateStore, namespace: str, partition: int) -> None:
        """Nothing is touched before `begin`."""
        self._store, self._partition = store, partition
        self._key = meta_key(namespace, partition)
        self._mark = b""
        self.epoch = 0
        """The last owner's, as far as it is known."""

    async def begin(self, found: bytes | None) -> None:
        """Take the partition, of which this is said now, and delete what is there.

        All keys of the store are looked through, which takes as long as it takes.
        """
        meta = Meta.parse(found)
        self.epoch = meta.epoch if meta else _epoch(found)
        self._mark = MARK + b"%d %b" % (self.epoch, uuid.uuid4().hex.encode())
        await self._flush(found, self._mark, [])
        gone: list[tuple[bytes, None]] = []
        async for key in self._store.scan(self._key.removesuffix(b"meta")):
            if key != self._key:
                gone.append((key, None))
            if len(gone) >= CHUNK_KEYS:
                await self._flush(self._mark, self._mark, gone)
                gone = []
        await self._flush(self._mark, self._mark, gone)

    async def go_on(self, pairs: Sequence[tuple[bytes, bytes]]) -> None:
        """Write some blobs."""
        await self._flush(self._mark, self._mark, pairs)

    async def end(self, meta: Meta) -> None:
        """Let all that is written count."""
        await self._flush(self._mark, meta.encode(), [])

    async def _flush(
        self, expected: bytes | None, new: bytes, pairs: Sequence[tuple[bytes, bytes | None]]
    ) -> None:
        if not await self._store.flush(self._key, expected, new, pairs):
            raise OvertakenError(
                f"somebody else took partition {self._partition} meanwhile: stop the workers, then"
                " run this again"
            )


def refuse_owned(partition: int, found: bytes | None) -> None:
    """Raise ConfigError where a worker owns the partition of which this is said."""
    meta = Meta.parse(found)
    if meta is not None and not meta.released:
        raise ConfigError(
            f"partition {partition} is owned by the worker {meta.owner!r}: stop the workers first"
            " (one that was killed owns it still: start it again, and stop it)"
        )


def _epoch(value: bytes | None) -> int:
    """The epoch of a partition whose state was being written, 0 where that cannot be told."""
    fields = (value or b"").removeprefix(MARK).split()
    return int(fields[0]) if fields and value != fields[0] and fields[0].isdigit() else 0

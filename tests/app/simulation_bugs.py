"""Bugs seeded into the worker's code, each of which the simulation must find: its controls."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

from app.intake import Intake
from app.ledger import Ledger, Position
from app.live import Live
from app.ownership import Ownership
from app.simulation.clients import SimulatedSource
from app.simulation.store import SimulatedStore
from app.transactions import TransactionalDelivery

Patch = pytest.MonkeyPatch


def no_rewind_after_doubt(patch: Patch) -> None:
    """A new producer goes on where the old one was."""
    patch.setattr(Intake, "rewind_and_wait", lambda _: True)


def reuse_the_producer_after_doubt(patch: Patch) -> None:
    """A time-out is taken for nothing: what was in the transaction is sent again."""
    plain = TransactionalDelivery._transact

    def transact(self: Any, transactor: Any, taken: Any) -> None:
        try:
            plain(self, transactor, taken)
        except Exception:  # noqa: BLE001 -- that is the bug
            self._give_back(taken)

    patch.setattr(TransactionalDelivery, "_transact", transact)


def no_fence_of_the_former_owner(patch: Patch) -> None:
    """Who takes over asks for offsets while the former owner's transaction is open."""
    plain = Ownership._fence

    async def fence(self: Any, partitions: Any) -> Any:
        fencer, self._fencer = self._fencer, lambda _: None
        try:
            return await plain(self, partitions)
        finally:
            self._fencer = fencer

    patch.setattr(Ownership, "_fence", fence)


def flush_before_commit(patch: Patch) -> None:
    """Redis gets what is not committed yet."""

    async def confirmed(*_: Any, **__: Any) -> bool:
        await asyncio.sleep(0)
        return True

    patch.setattr(Intake, "confirmed", confirmed)


def admit_batches_of_before(patch: Patch) -> None:
    """The ledger forgets of which generation a batch is."""
    plain = Ledger.admit

    def admit(self: Any, batch: Any) -> Any:
        kept = {topic: since.copy() for topic, since in self._owned_since.items()}
        for since in self._owned_since.values():
            since[since <= self.generation] = 0
        try:
            return plain(self, batch)
        finally:
            self._owned_since = kept

    patch.setattr(Ledger, "admit", admit)


def revoke_without_waiting(patch: Patch) -> None:
    """Partitions are given up as if nothing of them were in hand."""

    def revoked(self: Any, partitions: Any, *, lost: bool) -> None:
        self.ledger.released(partitions)
        self._owner.release(sorted({p for _, p in partitions}), lost=lost)
        self._unclaimed -= set(partitions)

    patch.setattr(Intake, "revoked", revoked)


def claim_from_the_position(patch: Patch) -> None:
    """Where the consumer stands is taken for what is committed."""

    def committed(self: Any, partitions: Any) -> dict[Position, int]:
        found = self._cluster.offsets
        return {at: max(self._positions.get(at, 0), found.get(at, 0)) for at in partitions}

    patch.setattr(SimulatedSource, "committed", committed)


def write_whatever_redis_holds(patch: Patch) -> None:
    """Neither epoch nor offsets are compared before a write."""
    plain = SimulatedStore.flush

    async def flush(self: Any, guard: bytes, expected: Any, new: bytes, pairs: Any) -> bool:
        del expected
        return await plain(self, guard, self._server.blobs.get(guard), new, pairs)

    patch.setattr(SimulatedStore, "flush", flush)


def read_from_the_commit(patch: Patch) -> None:
    """The state that lies between Redis and the committed offset is never made."""
    plain = Ownership._claim

    async def claim(self: Any, partitions: Any, committed: Mapping[Position, int]) -> Any:
        starts = await plain(self, partitions, committed)
        if starts is not None:
            for at in starts:
                starts[at] = max(starts[at], committed.get(at, 0))
        return starts

    patch.setattr(Ownership, "_claim", claim)


def answer_twice(patch: Patch) -> None:
    """Records that a former owner has answered are answered again."""
    patch.setattr(Live, "silent", lambda _, __, partition, ___: np.zeros(len(partition), np.bool_))


def dropped_is_done(patch: Patch) -> None:
    """Found by the simulation: a flush takes what a rewind dropped for committed."""
    patch.setattr(Intake, "_is_going_back", property(_not_while_flushing))


def _not_while_flushing(self: Any) -> bool:
    import sys  # noqa: PLC0415 -- who asks decides

    if sys._getframe(1).f_code.co_name == "confirmed":
        return False
    return bool(self._rewind.is_set() or self._going_back)


def forget_ids_in_doubt(patch: Patch) -> None:
    """Found by the simulation: where Redis has lost an own id in doubt, nobody fences it."""

    def begin(self: Any, transactional_id: str) -> None:
        self.transactional_id = transactional_id

    patch.setattr(Ownership, "begin", begin)


def go_on_after_a_stop_in_doubt(patch: Patch) -> None:
    """Found by the simulation: who stops does not go back, but commits what comes after."""
    plain = TransactionalDelivery._doubt

    def doubt(self: Any, error: Any) -> bool:
        plain(self, error)
        return True

    patch.setattr(TransactionalDelivery, "_doubt", doubt)


BUGS: tuple[Callable[[Patch], None], ...] = (
    no_rewind_after_doubt,
    reuse_the_producer_after_doubt,
    no_fence_of_the_former_owner,
    flush_before_commit,
    admit_batches_of_before,
    revoke_without_waiting,
    claim_from_the_position,
    write_whatever_redis_holds,
    read_from_the_commit,
    answer_twice,
    dropped_is_done,
    go_on_after_a_stop_in_doubt,
)

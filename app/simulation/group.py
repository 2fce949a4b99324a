"""A consumer group with cooperative rebalances, as its coordinator and its members see it.

Whoever joins or leaves begins a rebalance; it ends once all members have joined, which those that
are silent do not: they are put out when their session is over. Then there is a new generation, of
which each member hears a while later. A partition that changes hands is first given up by its
owner, who then joins again, and only then it is given to the new one. Commits are refused that come
with another generation than the group's, or of nobody.
"""

from collections.abc import Iterable
from typing import Protocol

from app.errors import BrokerUnavailable, GroupMoved
from app.simulation.kafka import REFUSED, Cluster
from app.simulation.world import Process

SESSION_US = 3_000_000
HEARTBEAT_US = 300_000
HEARD_US_MAX = 40_000


class Client(Protocol):
    """What the group needs of a consumer."""

    process: Process
    member: str
    generation: int

    def may_join(self) -> bool:
        """Whether it has done what the last rebalance asked of it."""

    def owned(self) -> set[int]:
        """The partitions it has."""

    def synced(self, generation: int, partitions: set[int]) -> None:
        """Hear of a new generation."""

    def lost(self) -> None:
        """Hear that it is no member any more."""


class Group:
    """One group of consumers of one topic."""

    def __init__(self, cluster: Cluster, partitions: int) -> None:
        """Without members."""
        self.cluster, self.world, self.partitions = cluster, cluster.world, partitions
        self.members: dict[str, Client] = {}
        self.generation = 0
        self._joined: dict[str, set[int]] = {}
        self._is_preparing = False
        self._count = 0

    def check(self, member: str, generation: int) -> None:
        """Raise unless this is a member of this generation."""
        if member not in self.members:
            raise BrokerUnavailable(REFUSED + "UNKNOWN_MEMBER_ID")
        if generation != self.generation:
            raise GroupMoved(REFUSED + "ILLEGAL_GENERATION")

    def join(self, client: Client) -> None:
        """Let a client join, or join again; nothing while it is silent."""
        if client.process.is_silent:
            return
        if client.member not in self.members:
            self._count += 1
            client.member = f"m{self._count}"
            self.members[client.member] = client
        self.world.note("group", "joins", client.process.name, client.member)
        self._prepare()
        self._joined[client.member] = client.owned()
        self._complete()

    def leave(self, client: Client) -> None:
        """Take a member out."""
        if self.members.pop(client.member, None) is not None:
            self._joined.pop(client.member, None)
            self.world.note("group", "leaves", client.process.name, client.member)
            self._prepare()
            self._complete()

    def rebalance(self) -> None:
        """Begin a rebalance for no reason."""
        if self.members:
            self._prepare()

    def _prepare(self) -> None:
        if not self._is_preparing:
            self._is_preparing = True
            self._joined.clear()
        for client in self.members.values():
            if client.member not in self._joined:
                self.world.after(self.world.between(0, HEARTBEAT_US), self._ask, client)

    def _ask(self, client: Client) -> None:
        """Let a member join that has heard of the rebalance, once it can."""
        if not self._is_preparing or client.member in self._joined:
            return
        if self.members.get(client.member) is not client or client.process.is_dead:
            return
        if client.process.is_silent or not client.may_join():
            self.world.after(HEARTBEAT_US, self._ask, client)
        else:
            self.join(client)

    def _complete(self) -> None:
        if not self._is_preparing or self.members.keys() - self._joined.keys():
            return
        self._is_preparing = False
        self.generation += 1
        given = self._assigned()
        self.world.note("group", "generation", self.generation, str(given))
        for member, partitions in given.items():
            client = self.members[member]
            delay_us = self.world.between(0, HEARD_US_MAX)
            self.world.after(delay_us, self._sync, client, member, self.generation, partitions)

    def _sync(
        self, client: Client, member: str, generation: int, partitions: Iterable[int]
    ) -> None:
        if client.process.is_dead or client.member != member or generation != self.generation:
            return
        if client.process.is_silent:
            self.world.after(HEARTBEAT_US, self._sync, client, member, generation, set(partitions))
            return
        client.synced(generation, set(partitions))

    def _assigned(self) -> dict[str, set[int]]:
        """Who gets what now; what changes hands goes to nobody yet."""
        members = sorted(self._joined)
        if self.world.chance(0.3):
            members.reverse()
        target: dict[str, set[int]] = {member: set() for member in members}
        if not members:
            return target
        most = -(-self.partitions // len(members))
        owner = {p: m for m in members for p in sorted(self._joined[m])}
        shuffle = self.world.chance(0.2)
        for p in range(self.partitions):
            if not shuffle and p in owner and len(target[owner[p]]) < most:
                target[owner[p]].add(p)
        for p in range(self.partitions):
            if not any(p in its for its in target.values()):
                least = min(members, key=lambda m: len(target[m]))
                target[least].add(p)
        return {
            member: {p for p in its if owner.get(p, member) == member}
            for member, its in target.items()
        }

    def fell_silent(self, client: Client) -> None:
        """Count the time from now on: who stays silent is put out."""
        silence = client.process.silences
        wait_us = SESSION_US - self.world.between(0, HEARTBEAT_US)
        self.world.after(wait_us, self._expire, client, client.member, silence)

    def _expire(self, client: Client, member: str, silence: int) -> None:
        process = client.process
        if self.cluster.away:
            self.world.after(SESSION_US, self._expire, client, member, silence)
        elif process.is_silent and process.silences == silence and member in self.members:
            self.world.note("group", "session over", process.name, member)
            self.leave(client)
            if process.cut and not process.is_frozen:
                client.lost()

    def heard_again(self, client: Client) -> None:
        """Let a client that was silent hear how the group is."""
        self.world.after(self.world.between(0, HEARTBEAT_US), self._beat, client)

    def _beat(self, client: Client) -> None:
        if not client.process.is_silent and client.member and client.member not in self.members:
            client.lost()

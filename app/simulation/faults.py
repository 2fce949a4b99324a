"""What breaks, and when: drawn from the seed, and all mended at one time.

A seed takes some of the faults, so that each has runs in which it is alone (swarm testing).
"""

from collections.abc import Callable, Sequence

from app.simulation.clients import Network
from app.simulation.group import SESSION_US, Group
from app.simulation.kafka import Cluster
from app.simulation.store import Server
from app.simulation.workers import Host
from app.simulation.world import Process, World

FAULTS_US = 4_000_000
SHARES = (0.002, 0.01, 0.05)


class Faults:
    """All faults of one seed."""

    def __init__(
        self, world: World, hosts: Sequence[Host], cluster: Cluster, group: Group, server: Server,
        network: Network,
    ) -> None:  # fmt: skip
        """Draw and plan them."""
        self._world, self._hosts, self._cluster = world, hosts, cluster
        self._group, self._server, self._network = group, server, network
        self.is_over = False
        kinds: list[Callable[[], None]] = [
            self._kill, self._kill_at_a_step, self._freeze, self._stop, self._cut, self._broker,
            self._rebalance, self._redis_away, self._redis_restarts, self._redis_loses,
        ]  # fmt: skip
        chosen = [kind for kind in kinds if world.chance(0.3)]
        for _ in range(world.between(1, 5) if chosen else 0):
            kind = chosen[world.between(0, len(chosen) - 1)]
            world.at(world.between(0, FAULTS_US), self._break, kind)
        rates = ["lost", "answer_lost", "late_end", "trouble"]
        for name in rates:
            if world.chance(0.25):
                share = SHARES[world.between(0, 2)]
                setattr(network, name, share * (5 if name in {"late_end", "trouble"} else 1))
        for name in ("lost", "answer_lost", "late"):
            if world.chance(0.25):
                setattr(server, name, SHARES[world.between(0, 2)] * 2)
        for i in range(8):
            world.at(i * FAULTS_US // 8, server.keep)
        world.at(FAULTS_US, self._mend)

    def _break(self, kind: Callable[[], None]) -> None:
        if not self.is_over:
            self._world.note("fault", kind.__name__.strip("_"))
            kind()

    def _mend(self) -> None:
        """From now on all is well."""
        self.is_over = True
        self._world.note("fault", "mended")
        self._network.lost = self._network.answer_lost = 0.0
        self._network.late_end = self._network.trouble = 0.0
        self._server.lost = self._server.answer_lost = self._server.late = 0.0
        self._server.away = self._cluster.away = False
        for host in self._hosts:
            if host.process is not None and not host.process.is_dead:
                host.process.doom = 0
                host.process.cut_off(cut=False)
                if host.process.is_frozen:
                    host.process.thaw()
            host.start()

    def _one(self) -> Host:
        return self._hosts[self._world.between(0, len(self._hosts) - 1)]

    def _kill(self) -> None:
        if process := self._one().process:
            process.kill()

    def _kill_at_a_step(self) -> None:
        if process := self._one().process:
            process.doom = self._world.between(1, 300)

    def _freeze(self) -> None:
        process = self._one().process
        if process and not process.is_dead and not process.is_frozen:
            process.freeze()
            us = self._world.between(10_000, 2 * SESSION_US)
            self._world.after(us, _thaw, process)

    def _stop(self) -> None:
        host = self._one()
        host.stop()
        us = self._world.between(100_000, SESSION_US)
        self._world.after(us, self._start_again, host)

    def _start_again(self, host: Host) -> None:
        if not self.is_over:
            host.start()

    def _cut(self) -> None:
        process = self._one().process
        if process and not process.is_dead:
            process.cut_off(cut=True)
            us = self._world.between(10_000, 2 * SESSION_US)
            self._world.after(us, _reconnect, process)

    def _broker(self) -> None:
        self._cluster.away = True
        us = self._world.between(10_000, SESSION_US)
        self._world.after(us, _is_back, self._cluster)

    def _rebalance(self) -> None:
        self._group.rebalance()

    def _redis_away(self) -> None:
        self._server.away = True
        us = self._world.between(10_000, SESSION_US)
        self._world.after(us, _is_back, self._server)

    def _redis_restarts(self) -> None:
        self._server.restart(age=self._world.between(0, 4))

    def _redis_loses(self) -> None:
        self._server.restart(age=None)


def _is_back(what: Cluster | Server) -> None:
    what.away = False


def _thaw(process: Process) -> None:
    if process.is_frozen:
        process.thaw()


def _reconnect(process: Process) -> None:
    if not process.is_dead:
        process.cut_off(cut=False)

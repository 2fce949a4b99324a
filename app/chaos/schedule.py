"""Which faults a campaign has: drawn from its seed alone, as places in the stream of records.

A fault's `at` is how many transactions have been sent when it comes, not a time of day, so that one
seed repeats a campaign on a fast machine and on a slow one. Pure.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random

from app.chaos.points import POINTS
from app.errors import ConfigError

KINDS = ("kill", "point", "zombie", "rebalance", "broker", "network", "held", "redis", "loss")
SESSION_MS = 6000
"""The workers' session time-out: the least that a broker takes unasked."""
BREAKS = ("cut", "black hole", "delay", "throttle")
LOSSES = ("flushed", "older data", "emptied")
ALONE_KILLS = 3
CALLS_MAX = 5
REDIS_SHARE = 1 / 3
ROOM_ALONE = 3.5
"""So many times the usual distance stands around a fault at which takeover is measured."""
FIRST, LAST = 0.04, 0.93
"""Between these shares of the transactions there are faults: the rest shows that all goes on."""


@dataclass(frozen=True, slots=True)
class Tier:
    """The size of a campaign; `counts` says how many faults of each kind."""

    transactions: int
    partitions: int
    workers: int
    brokers: int
    rate_per_s: float
    counts: Mapping[str, int]

    def scaled(self, scale: float) -> "Tier":
        """The same with that share of transactions and faults, at least one of each kind."""
        counts = {kind: max(1, round(scale * count)) for kind, count in self.counts.items()}
        return replace(self, transactions=round(scale * self.transactions), counts=counts)

    def with_counts(self, given: Sequence[str]) -> "Tier":
        """With other numbers of faults, each as kind=number; raises ConfigError."""
        counts = dict(self.counts)
        for each in given:
            kind, _, number = each.partition("=")
            if kind not in counts or not number.isdigit():
                raise ConfigError(f"--count wants one of {', '.join(KINDS)} and a number: {each}")
            counts[kind] = int(number)
        return replace(self, counts=counts)


def _counts(*counts: int) -> dict[str, int]:
    return dict(zip(KINDS, counts, strict=True))


TIERS: Mapping[str, Tier] = {
    "ci": Tier(100_000, 4, 2, 1, 600.0, _counts(10, 13, 3, 5, 3, 20, 5, 2, 1)),
    "long": Tier(2_000_000, 12, 3, 3, 600.0, _counts(200, 130, 50, 100, 60, 300, 100, 40, 20)),
}


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault: where, what, whom it hits and for how long.

    `what` is a variant of the kind, `target` the number of a worker or a broker, `amount` a second
    figure where the kind needs one. One that is `alone` waits until all is well, and the next waits
    until it is again.
    """

    at: int
    kind: str
    what: str
    target: int
    seconds: float
    amount: float = 0.0
    alone: bool = False

    def __str__(self) -> str:
        figure = f" {self.amount:g}" if self.amount else ""
        return f"{self.kind} {self.what}{figure} ({self.target}) {self.seconds:.1f} s"


def draw(tier: Tier, seed: int) -> list[Fault]:
    """The faults of a campaign, in order."""
    rng = Random(f"riskwire chaos {seed}")  # noqa: S311 -- repeatable, no secret
    faults = [_fault(kind, i, tier, rng) for kind in KINDS for i in range(tier.counts[kind])]
    rng.shuffle(faults)
    # A crash point needs traffic after it: none is among the last.
    others = [i for i, fault in enumerate(faults) if fault.kind != "point"]
    last = set(others[-max(1, len(faults) // 10) :])
    order = sorted(range(len(faults)), key=lambda i: i in last)
    faults = [faults[i] for i in order]
    rooms = [ROOM_ALONE if fault.alone else rng.uniform(0.5, 1.5) for fault in faults]
    step = (LAST - FIRST) * tier.transactions / sum(rooms)
    placed, passed = [], 0.0
    for fault, room in zip(faults, rooms, strict=True):
        at = FIRST * tier.transactions + step * passed
        placed.append(replace(fault, at=round(at)))
        passed += room
    return placed


def _fault(kind: str, number: int, tier: Tier, rng: Random) -> Fault:
    target, seconds, amount, alone = rng.randrange(tier.workers), 0.0, 0.0, False
    match kind:
        case "kill":
            what, alone = "-9", number < ALONE_KILLS
        case "point":
            point = POINTS[number % len(POINTS)]
            what, alone = point.name, point.alone
            amount = 1 if point.begins or point.leaves else rng.randint(1, CALLS_MAX)
        case "zombie":
            what, seconds = "SIGSTOP", SESSION_MS / 1000 + rng.uniform(1.0, 4.0)
        case "rebalance":
            what = ("rolling", "join and leave")[number % 2]
            seconds = rng.uniform(1.0, 4.0)
        case "broker":
            what, target, seconds = "-9", rng.randrange(tier.brokers), rng.uniform(0.2, 2.0)
        case "network":
            to = "redis" if rng.random() < REDIS_SHARE else "kafka"
            how = BREAKS[number % len(BREAKS)]
            what, seconds = f"{to} {how}", rng.uniform(0.3, 4.0)
            amount = _amount(how, rng)
        case "held":
            what = ("EndTxn", "EndTxn, then hang up")[number % 2]
            seconds = rng.uniform(0.5, 12.0)
        case "redis":
            what, seconds = ("-9", "SIGSTOP")[number % 2], rng.uniform(0.5, 4.0)
        case _:
            what, seconds = LOSSES[(number + rng.randrange(3)) % 3], rng.uniform(0.5, 3.0)
    return Fault(0, kind, what, target, seconds, amount, alone)


def _amount(how: str, rng: Random) -> float:
    """Seconds of a delay, bytes a second of a throttle."""
    if how == "delay":
        return round(rng.uniform(0.05, 0.4), 2)
    return round(rng.uniform(8e3, 64e3)) if how == "throttle" else 0.0

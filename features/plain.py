"""The features once more, as plain Python: what `kernel.advance` and `kernel.learn` must equal.

Remembers every record for ever and looks through all of them, so no bound, no pruning and no
sorting can hide in it; the kernel's tiles, which stand for what exceeds its bounds, have no
counterpart. For tests and for readers.
"""

import statistics
from dataclasses import dataclass, field
from typing import NamedTuple

from features.contract import DAY_US, LABEL_DELAY_DAYS, LONGEST_DAYS, MEDIAN_LAST, Timing
from features.state import NEVER

DELAY_US = LABEL_DELAY_DAYS * DAY_US
HOUR_US = DAY_US // 24
NIGHT_HOURS = 7


class Payment(NamedTuple):
    """A transaction; `seen_us` is when it becomes visible."""

    customer: int
    terminal: int
    partition: int
    event_time_us: int
    amount_minor: int
    seen_us: int


class Outcome(NamedTuple):
    """What a label said: 1 makes the transaction a fraud, -1 takes that back."""

    terminal: int
    tag: int
    event_time_us: int
    seen_us: int
    sign: int


@dataclass(slots=True)
class Plain:
    """Everything ever seen, and the features of what comes next."""

    timing: Timing
    payments: list[Payment] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)
    newest_us: dict[tuple[str, int], int] = field(default_factory=dict)

    def transaction(
        self, customer: int, terminal: int, partition: int, event_time_us: int, amount_minor: int
    ) -> dict[str, float]:
        """The features of a transaction by name, float64; then it is remembered."""
        found = {
            **_own_fields(event_time_us, amount_minor),
            **self._customer(customer, partition, event_time_us, amount_minor),
            **self._terminal(terminal, event_time_us),
        }
        seen_us = self._seen("transactions", partition, event_time_us)
        self.payments.append(
            Payment(customer, terminal, partition, event_time_us, amount_minor, seen_us)
        )
        return found

    def label(
        self,
        terminal: int,
        partition: int,
        event_time_us: int,
        known_at_us: int,
        tag: int,
        *,
        fraud: bool,
    ) -> None:
        """Remember an outcome; said twice counts once."""
        seen_us = self._seen("labels", partition, known_at_us)
        same = (terminal, tag, event_time_us)
        net = sum(o.sign for o in self.outcomes if (o.terminal, o.tag, o.event_time_us) == same)
        if fraud != (net > 0):
            self.outcomes.append(Outcome(*same, seen_us, 1 if fraud else -1))

    def _seen(self, log: str, partition: int, own_us: int) -> int:
        newest = max(self.newest_us.get((log, partition), NEVER), own_us)
        self.newest_us[log, partition] = newest
        return max(own_us, newest - self.timing.lateness_us)

    def _customer(self, customer: int, partition: int, t: int, amount: int) -> dict[str, float]:
        before = sorted(
            (p.event_time_us, p.amount_minor)
            for p in self.payments
            if p.customer == customer and p.partition == partition
            and t - LONGEST_DAYS * DAY_US < p.event_time_us <= t
        )  # fmt: skip
        found: dict[str, float] = {}
        for days in (1, 7, 30):
            within = [a for at, a in before if at > t - days * DAY_US] + [amount]
            found[f"customer_count_{days}d"] = len(within)
            found[f"customer_mean_{days}d"] = sum(within) / (100 * len(within))
        month = [a for at, a in before if at > t - 30 * DAY_US]
        longest = [a for _, a in before]
        found["amount_over_mean_30d"] = _over_mean(amount, month)
        found["amount_over_mean_longest"] = _over_mean(amount, longest)
        median = statistics.median(longest[-MEDIAN_LAST:]) if longest else 0
        found["amount_over_median"] = 2 * amount / (2 * median) if median else 1.0
        return found

    def _terminal(self, terminal: int, t: int) -> dict[str, float]:
        until, known = t - DELAY_US, t - self.timing.skew_us
        times = sorted(
            p.event_time_us
            for p in self.payments
            if p.terminal == terminal and p.seen_us <= until
            and until - 30 * DAY_US < p.event_time_us
        )  # fmt: skip
        frauds = [
            o
            for o in self.outcomes
            if o.terminal == terminal and o.seen_us <= known
            and until - 30 * DAY_US < o.event_time_us <= until
        ]  # fmt: skip
        found: dict[str, float] = {}
        for days in (1, 3, 7, 14, 21, 30):
            count = sum(at > until - days * DAY_US for at in times)
            net = sum(o.sign for o in frauds if o.event_time_us > until - days * DAY_US)
            share = net / count if count else 0.0
            if days in {1, 7, 30}:
                found |= {f"terminal_count_{days}d": count, f"terminal_risk_{days}d": share}
            else:
                found |= {f"terminal_frauds_{days}d": net, f"terminal_fraud_rate_{days}d": share}
        run: list[int] = []
        for at in reversed(times):
            if sum(o.sign for o in frauds if o.event_time_us == at) <= 0:
                break
            run.append(at)
        found["terminal_last_fraud"] = float(bool(run))
        found["terminal_fraud_run_days"] = (t - run[-1]) / DAY_US if run else 0.0
        return found


def _own_fields(t: int, amount: int) -> dict[str, float]:
    hours = t // HOUR_US
    return {
        "amount": amount / 100,
        # 1970-01-01 was a Thursday: with three days added, Saturday and Sunday are 5 and 6.
        "weekend": float((hours // 24 + 3) % 7 >= 5),
        "night": float(hours % 24 < NIGHT_HOURS),
    }


def _over_mean(amount: int, others: list[int]) -> float:
    return amount * len(others) / sum(others) if sum(others) else 1.0

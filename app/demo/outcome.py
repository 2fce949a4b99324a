"""What became of the demo's transactions, told from the output topics alone.

In: records of scores, alerts and dead letters, and which payments are frauds. Out: counts, in which
a repeated record counts once, and latencies from the scores' own latency records. Pure.
"""

from collections import Counter
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from app.adapters.follow import Decoder, Fields, Seen
from app.config import Settings
from app.demo.traffic import number_of
from app.histogram import LatencyHistogram
from app.latency import PARTS

ERROR = "riskwire.error."
INSTANTS = ("event_time", "polled", "decoded", "enriched", "scored", "emitted")


class Outcome:
    """Counts outputs as they come."""

    def __init__(self, settings: Settings, frauds: Collection[int] = ()) -> None:
        """`frauds` are the numbers of the payments that the simulation knows to be frauds."""
        self._scores, self._alerts, self._letters = (
            settings.topic(role) for role in ("scores", "alerts", "dead_letters")
        )
        self._decode_score, self._decode_alert = Decoder("risk_score"), Decoder("risk_alert")
        self._scored: set[tuple[int, int]] = set()
        self._alerted: set[str] = set()
        self._dead: set[tuple[bytes | None, bytes | None]] = set()
        self._frauds = frozenset(frauds)
        self.frauds_alerted = self.provisional = 0
        self.codes: Counter[str] = Counter()
        self.latency = {name: LatencyHistogram() for name in ("event_to_emit", *PARTS)}
        self.first_us, self.last_us = 2**63 - 1, 0

    @property
    def scored(self) -> int:
        """Transactions that have a score."""
        return len(self._scored)

    @property
    def alerts(self) -> int:
        """Transactions that have an alert."""
        return len(self._alerted)

    @property
    def dead(self) -> int:
        """Records that became dead letters."""
        return len(self._dead)

    def add(self, records: Sequence[Seen]) -> list[Fields]:
        """Count outputs; the alerts among them that are new."""
        alerts, instants = [], []
        for record in records:
            if record.topic == self._scores:
                fields = self._decode_score(record.value)
                if fields is not None and self._is_new(fields):
                    instants.append([fields["latency"][name] for name in INSTANTS])
            elif record.topic == self._alerts:
                fields = self._decode_alert(record.value)
                if fields is not None and fields["alert_id"] not in self._alerted:
                    self._alerted.add(fields["alert_id"])
                    number = number_of(fields["transaction"]["transaction_id"])
                    self.frauds_alerted += number in self._frauds
                    alerts.append(fields)
            elif record.topic == self._letters:
                self._add_letter(record)
        if instants:
            self._add_latency(np.array(instants, np.int64))
        return alerts

    def _is_new(self, score: Fields) -> bool:
        at = (score["source_partition"], score["source_offset"])
        new = at not in self._scored
        self._scored.add(at)
        self.provisional += new and score["provisional"]
        return new

    def _add_letter(self, record: Seen) -> None:
        at = tuple(record.headers.get(f"{ERROR}source.{part}") for part in ("partition", "offset"))
        if at not in self._dead:
            self._dead.add((at[0], at[1]))
            self.codes[(record.headers.get(ERROR + "code") or b"?").decode()] += 1

    def _add_latency(self, instants: np.typing.NDArray[np.int64]) -> None:
        self.first_us = min(self.first_us, int(instants[:, 0].min()))
        self.last_us = max(self.last_us, int(instants[:, -1].max()))
        self.latency["event_to_emit"].add(instants[:, -1] - instants[:, 0])
        for part, spent in zip(PARTS, np.diff(instants).T, strict=True):
            self.latency[part].add(spent)

    def summary(self, sent: int) -> dict[str, Any]:
        """Return the counts and latencies by the names of `riskwire demo --json`."""
        spent_s = max(self.last_us - self.first_us, 1) / 1e6
        return {
            "in": sent,
            "scored": self.scored,
            "provisional": self.provisional,
            "alerts": self.alerts,
            "frauds": len(self._frauds),
            "frauds_alerted": self.frauds_alerted,
            "dead_letters": self.dead,
            "dead_letters_by_code": dict(sorted(self.codes.items())),
            "tx_per_s": round(self.scored / spent_s, 1),
            "latency_ms": {
                name: {f"p{percent}": _ms(spent, percent) for percent in (50, 99)}
                for name, spent in self.latency.items()
            },
        }


def _ms(spent: LatencyHistogram, percent: int) -> float | None:
    """Return a percentile in ms; None where nothing was measured, since JSON has no nan."""
    return round(spent.percentile(percent) / 1000, 3) if spent.count else None

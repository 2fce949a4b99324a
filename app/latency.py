"""The latency record: seven instants of a transaction's way, and its parts.

Instants are taken once a stage and micro-batch; the parts of a transaction are differences of
neighbours, so they add up exactly. A part may be negative where clocks differ and is never clamped.
"""

from dataclasses import dataclass

from app.records import Int64s, Transactions

PARTS = ("wait", "decode", "features", "model", "emit")
"""event time → polled → decoded → enriched → scored → emitted."""


@dataclass(frozen=True, slots=True)
class Instants:
    """When a micro-batch left each stage, in µs since 1970-01-01 UTC."""

    polled_us: int
    decoded_us: int
    enriched_us: int
    scored_us: int
    emitted_us: int

    def stage_us(self) -> dict[str, int]:
        """µs that the batch spent in each stage after it was polled."""
        at = (self.polled_us, self.decoded_us, self.enriched_us, self.scored_us, self.emitted_us)
        return {name: b - a for name, a, b in zip(PARTS[1:], at, at[1:], strict=False)}


def wait_us(transactions: Transactions, instants: Instants) -> Int64s:
    """µs from event time to polled, one a transaction (n,)."""
    return instants.polled_us - transactions.event_time_us


def total_us(transactions: Transactions, instants: Instants) -> Int64s:
    """µs from event time to emitted, one a transaction (n,)."""
    return instants.emitted_us - transactions.event_time_us

"""The batch policy: how long a micro-batch waits for more records, and what closed each one.

A batch of one record costs nearly as much as one of a hundred. So nothing waits while traffic is
quiet, and as soon as the linger would bring company it is paid. The clock comes in as an argument.
A batch has a bound in bytes too, or large records would fill the memory (`ByteBound`).
"""

from dataclasses import dataclass, field

_RECORDS_WORTH_A_WAIT = 2
_HALF_LIFE_US = 50_000


@dataclass(slots=True)
class BatchPolicy:
    """Adapts the linger to the arrival rate, within `records_max` and `linger_ms_max`."""

    records_max: int
    linger_ms_max: int
    rate_per_s: float = 0.0
    closed_by: dict[str, int] = field(default_factory=lambda: {"size": 0, "linger": 0, "quiet": 0})
    _at_us: int = 0

    def linger_ms(self) -> int:
        """How long the next batch may wait after its first record."""
        worth = self.rate_per_s * self.linger_ms_max / 1000 >= _RECORDS_WORTH_A_WAIT
        return self.linger_ms_max if worth else 0

    def closed(self, records: int, linger_ms: int, now_us: int) -> str:
        """Count a batch that `linger_ms` was given to; returns what closed it."""
        elapsed_us = max(1, now_us - self._at_us) if self._at_us else 1_000_000
        weight = 0.5 ** (elapsed_us / _HALF_LIFE_US)
        self.rate_per_s = weight * self.rate_per_s + (1 - weight) * records * 1e6 / elapsed_us
        self._at_us = now_us
        cause = "size" if records >= self.records_max else "linger" if linger_ms else "quiet"
        self.closed_by[cause] += 1
        return cause


@dataclass(slots=True)
class ByteBound:
    """How many records a batch may ask for at a time, so that it ends at about `bytes_max`.

    Sizes are known once records are there: what comes is taken to be no larger than the largest
    of late. A batch exceeds its bound where that is wrong, by what the client has fetched at most.
    """

    bytes_max: int
    _largest: int = 1
    _bytes: int = 0

    def begin(self) -> None:
        """A new batch."""
        self._largest, self._bytes = max(1, self._largest // 2), 0

    def more(self, total: int, largest: int, records: int) -> int:
        """How many of `records` more to ask for, where so many bytes came last; 0: it is full."""
        self._bytes += total
        self._largest = max(self._largest, largest)
        left = self.bytes_max - self._bytes
        return min(records, max(1, left // self._largest)) if left > 0 else 0

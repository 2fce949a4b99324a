"""The training set: the vectors of a whole log, by the kernel that the stream runs.

`vectors` replays transactions in log order and lets outcomes in as they become known, so a vector
holds nothing that was not known then. It is what the stream gives for every vector that is not
provisional, bit for bit. Pure: no clock, no I/O.
"""

from dataclasses import dataclass

import numpy as np

from features.contract import DAY_US, LABEL_DELAY_DAYS, REPLAY, WIDTH, Timing
from features.kernel import advance, learn
from features.state import Float32s, Int8s, Int32s, Int64s, State

ROWS_AT_ONCE = 16_384


@dataclass(frozen=True, slots=True, eq=False)
class Log:
    """n transactions in log order, and what became of them.

    `customer` and `terminal` int32 (n,) number the entities from 0; `event_time_us` and
    `amount_minor` int64; `partition` int32; `fraud` int8: 1 fraud, 0 none, -1 where no outcome is
    known; `known_at_us` int64: when it became known.
    """

    customer: Int32s
    terminal: Int32s
    event_time_us: Int64s
    amount_minor: Int64s
    partition: Int32s
    fraud: Int8s
    known_at_us: Int64s

    @classmethod
    def of(
        cls,
        customer: Int32s,
        terminal: Int32s,
        event_time_us: Int64s,
        amount_minor: Int64s,
        fraud: Int8s,
        partition: Int32s | None = None,
        timing: Timing = REPLAY,
    ) -> "Log":
        """A log whose outcomes become known as late as is still in time for the label delay."""
        late_us = LABEL_DELAY_DAYS * DAY_US - timing.skew_us
        if partition is None:
            partition = np.zeros(len(customer), np.int32)
        return cls(
            customer, terminal, event_time_us, amount_minor, partition, fraud,
            event_time_us + late_us,
        )  # fmt: skip

    def __post_init__(self) -> None:
        """Raise ValueError if the columns differ in length."""
        lengths = {name: len(getattr(self, name)) for name in self.__slots__}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"columns differ in length: {lengths}")

    def __len__(self) -> int:
        return len(self.customer)


def vectors(log: Log, timing: Timing = REPLAY) -> Float32s:
    """The feature matrix of a log, float32 (len(log), WIDTH), in its order."""
    return replay(log, timing)[0]


def replay(log: Log, timing: Timing) -> tuple[Float32s, State]:
    """The feature matrix, and the state after the log.

    Where a terminal has more records than a share keeps, days are counted as a whole, and what was
    visible of a day then depends on how far the logs were read; the stream calls such vectors
    provisional. Row of the state: a customer's number; a terminal's number times the partitions,
    plus partition.
    """
    n, partitions = len(log), int(log.partition.max(initial=0)) + 1
    state = State.empty(
        int(log.customer.max(initial=-1)) + 1,
        (int(log.terminal.max(initial=-1)) + 1) * partitions,
        partitions,
        timing,
    )
    state.owned[:] = True
    shares = np.add.outer(log.terminal * partitions, np.arange(partitions)).astype(np.int32)
    labelled = np.flatnonzero(log.fraud >= 0)
    order = labelled[np.argsort(log.known_at_us[labelled], kind="stable")]
    known_us = log.known_at_us[order]
    until_us: Int64s = np.maximum.accumulate(log.event_time_us)
    out, provisional = np.empty((n, WIDTH), np.float32), np.empty(n, np.bool_)
    told = first = 0
    while first < n:
        # A day at most: what is told early must not push out what is still read.
        day = int(np.searchsorted(until_us, until_us[first] + DAY_US, "right"))
        rows = slice(first, min(first + ROWS_AT_ONCE, day))
        first = rows.stop
        now = int(np.searchsorted(known_us, until_us[rows.stop - 1], "right"))
        _learn(state, log, shares, order[told:now])
        told = now
        advance(
            state, log.customer[rows], shares[rows], log.partition[rows], log.event_time_us[rows],
            log.amount_minor[rows], out[rows], provisional[rows],
        )  # fmt: skip
    _learn(state, log, shares, order[told:])
    return out, state


def _learn(state: State, log: Log, shares: Int32s, rows: Int64s) -> None:
    learn(
        state,
        shares[rows, log.partition[rows]],
        log.partition[rows],
        log.event_time_us[rows],
        log.known_at_us[rows],
        rows,
        log.fraud[rows],
    )

"""What the live state lacks because Redis was away when it was wanted (`degrade`).

An entity that could not be read counts as unknown from then on: its vectors get the defaults of its
features, and say so. What its records do to the state of their partition is wrong, so nothing of
that partition is written any more; once Redis is back it is claimed again, which makes its state
from what Redis has and from the log. Pure.
"""

from collections.abc import Collection

import numpy as np

from app.records import Float32s, Int32s
from features.contract import FEATURES, defaults
from features.state import Flags

DEFAULTS = defaults()
OF_CUSTOMER, OF_TERMINAL = (
    np.array([feature.entity == entity for feature in FEATURES])
    for entity in ("customer", "terminal")
)


class Lacking:
    """The partitions whose state is wrong, and the customers that were not read."""

    def __init__(self, customers_max: int) -> None:
        """Nothing is lacking."""
        self.partitions: set[int] = set()
        self._customers = np.zeros(customers_max, np.bool_)

    def add(self, partitions: Collection[int], customers: Int32s) -> None:
        """These rows of customers were not read, and of these partitions something was not."""
        self.partitions |= set(partitions)
        self._customers[customers] = True

    def read(self, customers: Int32s) -> None:
        """These rows of customers were read."""
        self._customers[customers] = False

    def replace(self, matrix: Float32s, customers: Int32s, no_terminal: Flags) -> Flags:
        """Put defaults into vectors (n, WIDTH) for what was not read; which rows have some."""
        no_customer = self._customers[customers]
        for rows, columns in ((no_customer, OF_CUSTOMER), (no_terminal, OF_TERMINAL)):
            matrix[np.ix_(rows, columns)] = DEFAULTS[columns]
        degraded: Flags = no_customer | no_terminal
        return degraded

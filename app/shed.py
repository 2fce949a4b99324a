"""Shedding load: how thoroughly a micro-batch is scored, by how long records have been waiting.

Nothing is dropped: every record is scored, makes the same state as ever, and its score says at
which level (`shed`). FULL is everything. WITHOUT_TERMINAL reads no terminal's history and explains
no alert: its features have their defaults. RULE runs no model either: amounts from a limit on are
for review. A level is left when records wait half as long as what it was entered at, one level a
batch, so that it does not flap. Pure.
"""

from dataclasses import dataclass

import numpy as np

from app.decide import REVIEW
from app.records import Float32s, Int64s

FULL, WITHOUT_TERMINAL, RULE = range(3)
RULE_PROVIDER = "rule"
"""What a score says computed it where no model did."""


@dataclass(slots=True)
class Shedding:
    """Level 1 from `after_us` on, level 2 from twice that; 0: never."""

    after_us: int = 0
    amount_minor: int = 0
    level: int = FULL

    def at(self, age_us: int) -> int:
        """The level for a batch, where the oldest record that waits is this old."""
        if self.after_us:
            reached = min(age_us // self.after_us, RULE)
            if reached >= self.level:
                self.level = int(reached)
            elif 2 * age_us < self.level * self.after_us:
                self.level -= 1
        return self.level

    def scores(self, amount_minor: Int64s, thresholds: Float32s) -> Float32s:
        """Scores by the rule, float32 (n,): the threshold of REVIEW from the limit on, else 0."""
        return np.where(amount_minor >= self.amount_minor, thresholds[REVIEW], np.float32(0))

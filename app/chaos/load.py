"""What a campaign sends: a past that makes features, then payments as they happen, and outcomes.

The first part of the transactions happened in the weeks before, in order; the rest happens when it
is sent. Outcomes of the past become known all along, so that labels count in the features of the
present. Some transactions are broken. The same seed gives the same records but for their times.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from random import Random

import numpy as np

import schemas
from app.chaos.schedule import Tier
from app.demo.traffic import BROKEN, Due, divided, encoded
from app.encode import encode_long, encode_string
from features.contract import DAY_US, LABEL_DELAY_DAYS
from models.handbook import Payments, World

PAST_SHARE, PAST_DAYS = 0.2, 20
PAYMENTS_A_DAY = 1.8
LABELLED_SHARE = 0.3
BROKEN_SHARE = 0.01
BLOCK_RECORDS = 100
CHARGEBACK = 1


class Load:
    """Transactions and outcomes for one campaign."""

    def __init__(self, tier: Tier, seed: int) -> None:
        count = tier.transactions
        people = max(20, round(count * PAST_SHARE / (PAYMENTS_A_DAY * PAST_DAYS)))
        world = World(seed, customers=people, terminals=2 * people)
        self._now_us = time.time_ns() // 1000
        past, coming = divided(world, count, self._now_us, PAST_DAYS)
        self._past = past.take(slice(round(count * PAST_SHARE)))
        self._coming = coming.take(slice(count - len(self._past)))
        self._seed = seed
        self._rng = Random(f"riskwire load {seed}")  # noqa: S311 -- repeatable, no secret
        self._tier = tier
        self.sent = 0
        self.count = count

    def transactions(self, may_go: Callable[[], bool], more: Callable[[], bool]) -> Iterator[Due]:
        """Each at its time: all there are, and as long as `more` says so the same payments again.

        Waits before a block while `may_go` says no.
        """
        header = schemas.load("transaction").single_object_header
        next_us, past = 0, len(self._past)
        while self.sent < self.count or more():
            while not may_go():
                time.sleep(0.02)
            if self.sent < past:
                payments, prefix, first = self._past, "past-", self.sent
            else:
                payments, prefix, first = self._coming, "now-", self.sent - past
            at = first % len(payments)
            block = payments.take(slice(at, at + BLOCK_RECORDS))
            next_us = max(next_us, time.time_ns() // 1000)
            due_us = next_us + self._offsets_us(len(block))
            next_us = int(due_us[-1])
            if self.sent >= past:
                block = replace(block, event_time_us=due_us)
            records = encoded(block, prefix, first, header)
            for at_us, (key, value) in zip(due_us.tolist(), records, strict=True):
                yield self._broken(Due(at_us, key, value), header)
                self.sent += 1

    def _offsets_us(self, count: int) -> np.typing.NDArray[np.int64]:
        return (np.arange(1, count + 1) * (1e6 / self._tier.rate_per_s)).astype(np.int64)

    def _broken(self, good: Due, header: bytes) -> Due:
        if self._rng.random() >= BROKEN_SHARE:
            return good
        return self._rng.choice(BROKEN).breaks(good, header)

    def outcomes(self, may_go: Callable[[], bool]) -> Iterator[Due]:
        """Outcomes of the older past, at the pace of the transactions."""
        header = schemas.load("fraud_label").single_object_header
        old = self._past.event_time_us < self._now_us - (LABEL_DELAY_DAYS + 1) * DAY_US
        rng = np.random.default_rng(self._seed)
        rows = np.flatnonzero(old & (rng.random(len(old)) < LABELLED_SHARE))
        for number, row in enumerate(rng.permutation(rows).tolist()):
            while self.sent < self.count * number // len(rows) or not may_go():
                time.sleep(0.02)
            now_us = time.time_ns() // 1000
            yield Due(now_us, *_outcome(self._past, row, now_us, header))


def _outcome(past: Payments, row: int, now_us: int, header: bytes) -> tuple[bytes, bytes]:
    key = str(past.customer[row])
    ids = b"".join(map(encode_string, (f"past-{row}", key, str(past.terminal[row]))))
    times = encode_long(int(past.event_time_us[row])) + encode_long(now_us)
    fraud = bytes([bool(past.fraud[row])])
    return key.encode(), header + ids + times + fraud + encode_long(CHARGEBACK)

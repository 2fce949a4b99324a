"""The delayed-label oracle: what a scorer could know who knows how the frauds are made.

In: a world of `models.handbook` and its payments. Out: for every payment the probability that it
is a fraud, by Bayes' rule, given
- the three mechanisms and their rates, and each customer's true mean amount (the simulator's own
  parameters, which no model sees);
- this payment: its amount, customer, terminal and time;
- the labels (and amounts) of all payments that are at least the label delay old.
What happened in the last week is hidden from it, as all fresh labels are from a model. So it is a
mark to measure models by, and close to the best possible, but no bound: a model may read recent
amounts, whose labels are open. `recent_amounts=True` lets the oracle read those too, and that is
the ceiling of everything that can be known.

The state of a terminal (a customer) is how many days ago it was last drawn by the fraudsters: a
chain that ages by a day and starts again with the mechanism's rate, filtered by the labels. Taken
apart from each other the mechanisms join as p = 1 - (1 - p1) (1 - p2) (1 - p3). Two things the
oracle leaves aside: that a payment drawn again is multiplied again, and that a multiplied amount is
a whole multiple of five cents, which is no mechanism but a trace of how the simulator rounds.
"""

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

from models.handbook import (
    CUSTOMER_DAYS,
    CUSTOMERS_A_DAY,
    FRAUD_FACTOR,
    LARGE_MINOR,
    TERMINAL_DAYS,
    TERMINALS_A_DAY,
    Payments,
    World,
    profiles_of,
)
from models.protocol import DAY_US, DELAY_DAYS, days_of

Bools = NDArray[np.bool_]
Float64s = NDArray[np.float64]
Int32s = NDArray[np.int32]
Int64s = NDArray[np.int64]

FRAUD_SHARE = 1 / 3
"""Of a stolen card's payments."""
REDRAWN_SHARE = 0.5 * math.erfc(math.sqrt(2))
"""Amounts that come out negative, two deviations below the mean, and are drawn again."""
OTHER_MIN, OTHER_MAX = 1e-6, 1 - 1e-6
RATIO_MAX = 1e12
DENSITY_MIN = 1e-280


def scores(world: World, payments: Payments, *, recent_amounts: bool = False) -> Float64s:
    """Each payment's probability of fraud, float64 (n,)."""
    day = days_of(payments.event_time_us, world.start_us)
    large = payments.amount_minor > LARGE_MINOR
    plain, quintupled = _densities(world, payments)

    # How likely a label is a fraud where the mechanism that is asked for is not at work.
    rate = 1 - (1 - CUSTOMERS_A_DAY / world.customers) ** CUSTOMER_DAYS
    other = _or_large(large, _stolen(rate, plain, quintupled))
    bad = _at_work(
        payments.terminal, payments.event_time_us, day,
        np.where(payments.fraud == 1, 1 / other, 0.0), None,
        TERMINALS_A_DAY / world.terminals, TERMINAL_DAYS,
    )  # fmt: skip

    other = _or_large(large, bad)
    drawn = FRAUD_SHARE * quintupled
    if_fraud = (drawn + (1 - FRAUD_SHARE) * plain * other) / (plain * other)
    hidden = (drawn + (1 - FRAUD_SHARE) * plain) / plain
    card = _at_work(
        payments.customer, payments.event_time_us, day,
        np.where(payments.fraud == 1, if_fraud, 1 - FRAUD_SHARE),
        hidden if recent_amounts else None,
        CUSTOMERS_A_DAY / world.customers, CUSTOMER_DAYS,
    )  # fmt: skip
    result: Float64s = 1 - (1 - large) * (1 - bad) * (1 - _stolen(card, plain, quintupled))
    return result


def _densities(world: World, payments: Payments) -> tuple[Float64s, Float64s]:
    """How likely the amount is for its customer as it is, and if it was multiplied."""
    customers, _ = profiles_of(world)
    mean = customers[payments.customer, 2]
    amount = payments.amount_minor / 100
    plain = _amount_density(amount, mean)
    return plain, _amount_density(amount / FRAUD_FACTOR, mean) / FRAUD_FACTOR


def _amount_density(amount: Float64s, mean: Float64s) -> Float64s:
    """Normal with half the mean as deviation; the negative part is spread over 0 to two means."""
    deviation = mean / 2
    z = (amount - mean) / deviation
    normal = np.exp(-z * z / 2) / (deviation * math.sqrt(2 * math.pi))
    spread = np.where(amount <= 2 * mean, REDRAWN_SHARE / (2 * mean), 0)
    density: Float64s = np.maximum(normal + spread, DENSITY_MIN)
    return density


def _stolen(at_work: float | Float64s, plain: Float64s, quintupled: Float64s) -> Float64s:
    """That the amount was multiplied, given how likely the customer's card is stolen."""
    drawn = at_work * FRAUD_SHARE
    yes, no = drawn * quintupled, (1 - drawn) * plain
    share: Float64s = yes / (yes + no)
    return share


def _or_large(large: Bools, probability: Float64s) -> Float64s:
    """One where the amount alone is fraud, else the probability, kept off 0 and 1."""
    return np.where(large, 1.0, np.clip(probability, OTHER_MIN, OTHER_MAX))


def _at_work(
    entity: Int32s,
    time_us: Int64s,
    day: Int64s,
    labelled: Float64s,
    hidden: Float64s | None,
    rate: float,
    window: int,
) -> Float64s:
    """That the entity is in the fraudsters' hands at each payment, float64 (n,).

    `labelled` is how many times likelier the payment with its label is then than otherwise,
    `hidden` the same without the label; None has payments without a visible label say nothing.
    """
    order = np.lexsort((np.arange(len(entity)), entity))
    result = np.empty(len(entity))
    ratio = np.minimum(labelled, RATIO_MAX)
    unseen = np.empty(0) if hidden is None else np.minimum(hidden, RATIO_MAX)
    _filter(order, entity, time_us, day, ratio, unseen, rate, window, result)
    return result


@njit(nogil=True, cache=True)
def _filter(
    order: Int64s,
    entity: Int32s,
    time_us: Int64s,
    day: Int64s,
    labelled: Float64s,
    hidden: Float64s,
    rate: float,
    window: int,
    result: Float64s,
) -> None:
    """Fill `result`. state[k]: last drawn k days ago; state[window]: before the window, or never.

    `order` has the rows by entity, then in time; each entity's labels are taken in once, as they
    become visible.
    """
    state, ahead = np.zeros(window + 1), np.zeros(window + 1)
    first = 0
    while first < len(order):
        end = first
        while end < len(order) and entity[order[end]] == entity[order[first]]:
            end += 1
        state[:] = 0
        state[window] = 1
        today, seen = -1, first
        for place in range(first, end):
            row = order[place]
            while time_us[order[seen]] <= time_us[row] - DELAY_DAYS * DAY_US:
                past = order[seen]
                _pass(state, day[past] - today, rate)
                _learn(state, labelled[past])
                today = day[past]
                seen += 1
            ahead[:] = state
            now = today
            for k in range(seen, place if len(hidden) else seen):
                _pass(ahead, day[order[k]] - now, rate)
                _learn(ahead, hidden[order[k]])
                now = day[order[k]]
            _pass(ahead, day[row] - now, rate)
            result[row] = 1 - ahead[window]
        first = end


@njit(nogil=True, cache=True)
def _pass(state: Float64s, days: int, rate: float) -> None:
    """Let days pass: everyone ages, and some are drawn."""
    window = len(state) - 1
    for _ in range(min(days, 2 * window)):
        state[window] += state[window - 1]
        for k in range(window - 1, 0, -1):
            state[k] = state[k - 1] * (1 - rate)
        state[window] *= 1 - rate
        state[0] = rate


@njit(nogil=True, cache=True)
def _learn(state: Float64s, ratio: float) -> None:
    """Bayes' rule, with how many times likelier a payment is in the fraudsters' hands."""
    window = len(state) - 1
    total = state[window]
    for k in range(window):
        state[k] *= ratio
        total += state[k]
    if total > 0:
        state /= total
    else:  # a run of frauds that no window explains was broken by an honest payment
        state[:] = 0
        state[window] = 1

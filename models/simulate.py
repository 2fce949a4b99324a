"""Simulated payments: a seeded population of customers and terminals, and what they do at a time.

`Population.history` gives the natural traffic between two instants, `Population.stream` a given
number of payments at a given rate from an instant on; both in event-time order, in columns, with
the truth about fraud. What happens depends on the seed and on event time only, so a live stream
continues the history that its profiles were built from. Pure: no clock, no I/O; ValueError on
impossible sizes.

Customers have a usual amount, a rhythm of the day, a home country, terminals near them and
favourite web shops; a few per cent of their payments are made abroad or at new places. Three kinds
of fraud: stolen cards (a few customers for some hours, high amounts, at strange terminals, more at
night), compromised terminals (for weeks), and frauds that look like any other payment.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from features.aggregate import DAY_US, History
from features.contract import CHANNELS
from features.vectorize import (
    BY_ATM,
    BY_CHIP,
    BY_CONTACTLESS,
    BY_ECOMMERCE,
    BY_MAGSTRIPE,
    BY_TRANSFER,
    HOUR_US,
    HOURS,
    NIGHT_HOURS,
    Float64s,
    Int8s,
    Int32s,
    Int64s,
    country_code,
)

Generator = np.random.Generator

CURRENCY = "EUR"
COUNTRIES = ("DE", "FR", "IT", "ES", "NL", "GB", "US", "IE")
COUNTRY_SHARE = (0.40, 0.20, 0.16, 0.14, 0.10, 0.0, 0.0, 0.0)
SHOP_COUNTRY_SHARE = (0.34, 0.14, 0.09, 0.08, 0.10, 0.10, 0.09, 0.06)
CATEGORIES = ("5411", "5812", "5541", "5732", "5651", "7011", "5912", "4111", "6011", "5999")
CASH_CATEGORY, SHOP_CATEGORY = CATEGORIES.index("6011"), CATEGORIES.index("5999")

POS, SHOP, CASH = range(3)
KIND_SHARE = (0.74, 0.20, 0.06)
NEAR, FAVOURITES = 12, 6

# Relative activity by hour for people of the day, of the evening and of the night.
_CLOCK = np.arange(HOURS)
RHYTHMS = np.stack(
    [0.04 + np.exp(-((((_CLOCK - peak + 12) % 24 - 12) / width) ** 2)) for peak, width in
     ((13, 4.5), (18, 4.0), (23, 5.0))]
)  # fmt: skip
RHYTHMS /= RHYTHMS.sum(axis=1, keepdims=True)
RHYTHM_SHARE = (0.60, 0.32, 0.08)

LEGIT, STOLEN, COMPROMISED, LOOKALIKE = range(4)
STOLEN_SHARE, STOLEN_NIGHT_FACTOR = 0.003, 2.0
STOLEN_WINDOW_US, STOLEN_PER_1000 = 6 * HOUR_US, 1
COMPROMISED_PER_DAY, COMPROMISED_DAYS = 1e-4, (20, 45)
COMPROMISED_FRAUD_SHARE = 0.6
LOOKALIKE_SHARE = 0.0003
AMOUNT_MINOR_MIN = 50

# Names of the independent random streams under one seed.
_PEOPLE, _PLACES, _HISTORY, _STREAM, _STOLEN, _COMPROMISED = range(6)


@dataclass(frozen=True, slots=True, eq=False)
class Payments:
    """n simulated payments in event-time order.

    `customer` and `terminal` int32 number the population's tokens; `event_time_us` int64;
    `amount_minor` int64, cents of CURRENCY; `channel` int8 into CHANNELS; `country` int8 into
    COUNTRIES; `merchant_category` int8 into CATEGORIES; `scenario` int8, LEGIT or the fraud's kind.
    """

    customer: Int32s
    terminal: Int32s
    event_time_us: Int64s
    amount_minor: Int64s
    channel: Int8s
    country: Int8s
    merchant_category: Int8s
    scenario: Int8s

    def __len__(self) -> int:
        return len(self.customer)

    @property
    def fraud(self) -> Int8s:
        """1 for a fraud, 0 for none, int8 (n,)."""
        flags: Int8s = (self.scenario != LEGIT).astype(np.int8)
        return flags


class Population:
    """Customers and terminals that stay the same for a seed."""

    def __init__(self, seed: int = 0, customers: int = 5000, terminals: int = 10_000) -> None:
        """Draw them; raises ValueError for fewer than 10 customers or 200 terminals."""
        if customers < 10 or terminals < 200:
            msg = "a population needs at least 10 customers and 200 terminals"
            raise ValueError(msg)
        self.seed = seed
        self.customer_tokens = [b"c%07d" % i for i in range(customers)]
        self.terminal_tokens = [b"t%07d" % i for i in range(terminals)]
        self._draw_terminals(self._rng(_PLACES), terminals)
        self._draw_customers(self._rng(_PEOPLE), customers)

    def history(self, start_us: int, stop_us: int) -> Payments:
        """All payments of the population from `start_us` up to, not including, `stop_us`."""
        rng = self._rng(_HISTORY, start_us, stop_us)
        days = -(-(stop_us - start_us) // DAY_US)
        customer = _choose(rng, self._tx_per_day, rng.poisson(self._tx_per_day.sum() * days))
        n = len(customer)
        passed = np.cumsum(RHYTHMS, axis=1)[self._rhythm[customer]] < rng.random((n, 1))
        hour = np.minimum(passed.sum(axis=1), HOURS - 1)
        clock_us = (hour * HOUR_US + rng.integers(0, HOUR_US, n) - start_us) % DAY_US
        time_us = start_us + rng.integers(0, days, n) * DAY_US + clock_us
        inside = time_us < stop_us
        time_us, customer = time_us[inside], customer[inside]
        order = np.argsort(time_us, kind="stable")
        return self._pay(rng, time_us[order], customer[order])

    def stream(self, start_us: int, count: int, rate_per_s: float) -> Payments:
        """`count` payments, evenly spaced from `start_us` on, by whoever is active at that hour."""
        rng = self._rng(_STREAM, start_us, count)
        time_us = start_us + (np.arange(count) * (1e6 / rate_per_s)).astype(np.int64)
        hour = time_us // HOUR_US % HOURS
        customer = np.empty(count, np.int64)
        for h in np.unique(hour):
            rows = np.flatnonzero(hour == h)
            active = self._tx_per_day * RHYTHMS[self._rhythm, h]
            customer[rows] = _choose(rng, active, len(rows))
        return self._pay(rng, time_us, customer)

    def as_history(self, payments: Payments) -> History:
        """The payments as `features.aggregate` takes them, every label known."""
        codes = np.array([country_code(name) for name in COUNTRIES], np.int32)
        return History(
            self.customer_tokens,
            self.terminal_tokens,
            payments.customer,
            payments.terminal,
            payments.event_time_us,
            payments.amount_minor,
            payments.channel,
            codes[payments.country],
            payments.fraud,
        )

    def records(self, payments: Payments, prefix: str) -> Iterator[dict[str, object]]:
        """Each payment as a record of the Transaction schema, its id `prefix` and a number."""
        for i in range(len(payments)):
            yield {
                "transaction_id": f"{prefix}{i:09d}",
                "customer_id": self.customer_tokens[payments.customer[i]].decode(),
                "terminal_id": self.terminal_tokens[payments.terminal[i]].decode(),
                "event_time": int(payments.event_time_us[i]),
                "amount_minor": int(payments.amount_minor[i]),
                "currency": CURRENCY,
                "channel": CHANNELS[payments.channel[i]],
                "merchant_category": CATEGORIES[payments.merchant_category[i]],
                "country": COUNTRIES[payments.country[i]],
                "device_id": None,
            }

    def _rng(self, stream: int, *parts: int) -> Generator:
        return np.random.default_rng([self.seed, stream, *(part % 2**63 for part in parts)])

    def _draw_terminals(self, rng: Generator, n: int) -> None:
        self._kind = _choose(rng, np.array(KIND_SHARE), n).astype(np.int8)
        self._kind[:60] = np.tile((POS, SHOP, CASH), 20)
        at_home = _choose(rng, np.array(COUNTRY_SHARE), n)
        anywhere = _choose(rng, np.array(SHOP_COUNTRY_SHARE), n)
        self._country = np.where(self._kind == SHOP, anywhere, at_home).astype(np.int8)
        category = rng.integers(0, CASH_CATEGORY, n)
        category[self._kind == SHOP] = SHOP_CATEGORY
        category[self._kind == CASH] = CASH_CATEGORY
        self._category = category.astype(np.int8)
        self._price = rng.lognormal(0.0, 0.35, n) * np.where(self._kind == CASH, 2.5, 1.0)
        self._popularity = rng.pareto(1.5, n) + 0.2

    def _draw_customers(self, rng: Generator, n: int) -> None:
        self._home = _choose(rng, np.array(COUNTRY_SHARE), n).astype(np.int8)
        self._amount_minor = np.clip(rng.lognormal(np.log(3000.0), 0.6, n), 500.0, 30_000.0)
        self._spread = rng.uniform(0.35, 0.7, n)
        self._tx_per_day = np.clip(rng.lognormal(np.log(1.8), 0.6, n), 0.1, 10.0)
        self._rhythm = _choose(rng, np.array(RHYTHM_SHARE), n)
        self._shop_share = rng.beta(2.0, 6.0, n)
        self._near = np.empty((n, NEAR), np.int32)
        for country in range(len(COUNTRIES)):
            people = np.flatnonzero(self._home == country)
            places = np.flatnonzero((self._country == country) & (self._kind != SHOP))
            if len(people):
                # Terminals of a country lie along one street; people shop around their own place.
                lives = rng.integers(0, len(places), (len(people), 1))
                steps = rng.normal(0.0, 15.0, (len(people), NEAR)).astype(np.int64)
                self._near[people] = places[(lives + steps) % len(places)]
        shops = np.flatnonzero(self._kind == SHOP)
        drawn = _choose(rng, self._popularity[shops], n * FAVOURITES)
        self._favourite = shops[drawn].reshape(n, FAVOURITES).astype(np.int32)

    def _pay(self, rng: Generator, time_us: Int64s, customer: Int64s) -> Payments:
        """Decide where, how and how much each customer pays, then let fraud happen to some."""
        n = len(time_us)
        customer = customer.copy()
        scenario = np.zeros(n, np.int8)
        night = time_us // HOUR_US % HOURS < NIGHT_HOURS
        stolen = rng.random(n) < STOLEN_SHARE * np.where(night, STOLEN_NIGHT_FACTOR, 1.0)
        self._steal(rng, time_us, customer, stolen)
        terminal = np.where(stolen, self._strange(rng, n), self._usual(rng, customer))
        skimmed = self._compromised(time_us, terminal) & (rng.random(n) < COMPROMISED_FRAUD_SHARE)
        scenario[rng.random(n) < LOOKALIKE_SHARE] = LOOKALIKE
        scenario[skimmed] = COMPROMISED
        scenario[stolen] = STOLEN
        # A thief takes several times the usual amount; one in seven first tries a small one.
        factor = np.where(stolen, rng.lognormal(1.3, 0.6, n), self._price[terminal])
        factor = np.where(stolen & (rng.random(n) < 1 / 7), 0.05, factor)
        factor *= np.where(skimmed, 1.5, 1.0)
        spread = self._spread[customer]
        amount = self._amount_minor[customer] * factor * rng.lognormal(-(spread**2) / 2, spread)
        cash = self._kind[terminal] == CASH
        amount = np.where(cash, np.maximum(np.round(amount, -3), 1000.0), np.round(amount))
        return Payments(
            customer.astype(np.int32),
            terminal.astype(np.int32),
            time_us,
            np.maximum(amount, AMOUNT_MINOR_MIN).astype(np.int64),
            self._channel(rng, terminal, stolen | skimmed),
            self._country[terminal],
            self._category[terminal],
            scenario,
        )

    def _usual(self, rng: Generator, customer: Int64s) -> Int64s:
        """Where a customer pays: near home or at favourite shops, at times somewhere else."""
        n = len(customer)
        near = self._near[customer, (NEAR * rng.random(n) ** 2).astype(np.int64)]
        favourite = self._favourite[customer, (FAVOURITES * rng.random(n) ** 2).astype(np.int64)]
        usual = np.where(rng.random(n) < self._shop_share[customer], favourite, near)
        new = rng.random(n) < 0.06
        return np.where(new, _choose(rng, self._popularity, n), usual).astype(np.int64)

    def _strange(self, rng: Generator, n: int) -> Int64s:
        """Where a thief pays: mostly web shops and cash machines, anywhere."""
        weight = np.choose(self._kind, (0.35, 3.0, 2.0)) * np.sqrt(self._popularity)
        return _choose(rng, weight, n)

    def _channel(self, rng: Generator, terminal: Int64s, fraud: NDArray[np.bool_]) -> Int8s:
        kind, u = self._kind[terminal], rng.random(len(terminal))
        stripe = np.where(fraud, 0.35, 0.03)
        card = np.where(u < stripe, BY_MAGSTRIPE, np.where(u < 0.4, BY_CHIP, BY_CONTACTLESS))
        web = np.where(u < 0.03, BY_TRANSFER, BY_ECOMMERCE)
        return np.where(kind == SHOP, web, np.where(kind == CASH, BY_ATM, card)).astype(np.int8)

    def _steal(
        self, rng: Generator, time_us: Int64s, customer: Int64s, stolen: NDArray[np.bool_]
    ) -> None:
        """Give the stolen payments to the few customers whose cards are stolen in that window."""
        window = time_us // STOLEN_WINDOW_US
        people = len(self.customer_tokens)
        for w in np.unique(window[stolen]):
            rows = np.flatnonzero(stolen & (window == w))
            robbed = self._rng(_STOLEN, int(w)).integers(
                0, people, max(1, people * STOLEN_PER_1000 // 1000)
            )
            customer[rows] = rng.choice(robbed, len(rows))

    def _compromised(self, time_us: Int64s, terminal: Int64s) -> NDArray[np.bool_]:
        """Whether each terminal is compromised at that time."""
        day = time_us // DAY_US
        found = np.zeros(len(day), np.bool_)
        if not len(day):
            return found
        places = len(self.terminal_tokens)
        until = np.full(places, -(2**62))
        for d in range(int(day[0]) - COMPROMISED_DAYS[1], int(day[-1]) + 1):
            rng = self._rng(_COMPROMISED, d)
            new = _choose(rng, np.sqrt(self._popularity), rng.poisson(places * COMPROMISED_PER_DAY))
            until[new] = d + rng.integers(*COMPROMISED_DAYS, len(new))
            first, last = np.searchsorted(day, (d, d + 1))
            found[first:last] = until[terminal[first:last]] > d
        return found


def _choose(rng: Generator, weight: Float64s, n: int) -> Int64s:
    """`n` indices, each as likely as its weight."""
    total = np.cumsum(weight)
    found: Int64s = np.searchsorted(total, rng.random(n) * total[-1], side="right")
    return found

"""`riskwire bench sustainable`: the highest rate that a worker holds, and latency up to there.

A rate is held where the backlog does not grow for certain (`lanes.readable.growth`) and the 99th
percentile from due to readable stays under a bound, open loop, with everything on this machine. It
is bracketed by doubling and then bisected. `curve` measures latency at shares of it, beside the
echo, and a burst. Raises ConfigError or Unavailable.
"""

from collections.abc import Callable, Mapping
from typing import Any

from rich.console import Console

from app.bench import latency
from app.bench.latency import SHARES, Found, Guarantee, Say, Trial
from app.bench.throughput import Servers, environment_of

FIRST_RATE, RATE_MAX = 10_000.0, 1_000_000.0
BOUND_MS, PRECISION = 1000.0, 0.05
BURST_SHARE, BURST_SECONDS = 0.5, 10.0


def highest(
    holds: Callable[[float], bool], first: float = FIRST_RATE, precision: float = PRECISION
) -> float:
    """The highest rate that holds, found by doubling or halving and then by bisection.

    0 where not even a hundredth of `first` holds.
    """
    low, high = first, first
    if holds(first):
        while high < RATE_MAX and holds(high := 2 * high):
            low = high
    else:
        while not holds(low := low / 2):
            high = low
            if low <= first / 100:
                return 0.0
    while high - low > precision * high:
        middle = (low + high) / 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


def find(
    here: Servers, say: Say, guarantee: Guarantee, seconds: float, bound_ms: float
) -> tuple[float, list[Found]]:
    """The highest rate that is held for `seconds`, and each rate that was tried."""
    tried: list[Found] = []

    def holds(rate: float) -> bool:
        trial = Trial(rate, seconds, "poisson", guarantee)
        found = latency.judged(trial, latency.riskwire(here, trial))
        held = bool(found["growth"] <= 0 and found["p99_ms"] <= bound_ms)
        tried.append({**latency.described(trial), **found, "held": held})
        say(
            f"{rate:,.0f}/s {'held' if held else 'not held'}: p99 {found['p99_ms']:.0f} ms, "
            f"backlog {found['growth']:+.1%} of the rate"
        )
        return held

    return highest(holds), tried


def run(
    *,
    guarantee: Guarantee = "exactly_once",
    seconds: float = 20.0,
    bound_ms: float = BOUND_MS,
    bootstrap: str | None = None,
    say: Say = lambda _line: None,
) -> Found:
    """Find it; the report: `sustainable` tx/s, what was `tried`, and `environment`."""
    with latency.opened(bootstrap, None, say) as here:
        rate, tried = find(here, say, guarantee, seconds, bound_ms)
        records = sum(int(each["rate"] * each["seconds"]) for each in tried)
        return {
            "sustainable": rate,
            "bound_ms": bound_ms,
            "tried": tried,
            "environment": environment_of(here, records, 1),
        }


def curve(
    *,
    guarantee: Guarantee = "exactly_once",
    seconds: float = 20.0,
    sustainable: float | None = None,
    bootstrap: str | None = None,
    say: Say = lambda _line: None,
) -> Found:
    """Latency of Riskwire and of the echo at SHARES of the sustainable rate, and a burst.

    The report is `latency.run`'s, with `sustainable`, and `share` with each of `runs`.
    """
    with latency.opened(bootstrap, None, say) as here:
        rate, tried = (
            (sustainable, []) if sustainable else find(here, say, guarantee, seconds, BOUND_MS)
        )
        loads = [Trial(share * rate, seconds, "poisson", guarantee) for share in SHARES]
        loads.append(Trial(BURST_SHARE * rate, BURST_SECONDS, "burst", guarantee))
        runs = []
        for share, trial in zip((*SHARES, BURST_SHARE), loads, strict=True):
            found = latency.measured([trial], here, say, echo=True)
            runs += [each | {"share": share} for each in found]
        records = sum(trial.n for trial in loads)
        return {
            "sustainable": rate,
            "tried": tried,
            "runs": runs,
            "environment": environment_of(here, records, 1),
        }


def show(report: Mapping[str, Any], console: Console) -> None:
    """Print the report."""
    if "runs" in report:
        latency.show(report, console)
        for share, ratio in ratios(report).items():
            console.print(f"p99 at {share:.0%} of the sustainable rate: {ratio:.2f} x the echo's")
    console.print(f"sustainable: {report['sustainable']:,.0f} tx/s")


def ratios(report: Mapping[str, Any]) -> dict[float, float]:
    """By share of the sustainable rate, Riskwire's p99 over the echo's, where both count."""
    p99 = {
        (each["system"], each["share"]): each["p99_ms"]
        for each in report["runs"]
        if not each["void"] and each["arrivals"] != "burst"
    }
    shares = [share for system, share in p99 if system == "riskwire" and ("echo", share) in p99]
    return {share: round(p99["riskwire", share] / p99["echo", share], 3) for share in shares}

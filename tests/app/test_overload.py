"""The overload benchmark's sums, and the cap on memory that it holds a worker to."""

import io
import os

from rich.console import Console

from app.adapters.transport import BYTES_MAX
from app.bench.overload import Sample, show, summary
from app.bounds import memory_cap, process_memory
from app.config import Settings, load_settings
from app.delivery import Output
from app.pipeline import Decided, decided
from app.records import Columns, Header, Letter, Outbound, Ragged
from app.wiring import _shedding
from tests.app.test_pipeline import batch, parts, value

MIB = 1 << 20


def sample(at_s: float, scored: float, age_s: float, **more: float) -> Sample:
    """A look at a worker of 500 MiB."""
    rss = int(more.get("rss", 500) * MIB)
    shed = {"1": scored / 4, "2": 0.0}
    return Sample(at_s, scored, age_s, rss, rss, more.get("rebalances", 1), at_s / 2, shed)


def calm(**more: float) -> list[Sample]:
    """A burst of 10 s at 100/s, and ten seconds until nothing waits."""
    ages = {0: 0.0, 5: 3.0, 10: 6.0, 15: 4.0, 20: 0.2}
    return [sample(at, 100.0 * at, age, **(more if at > 5 else {})) for at, age in ages.items()]


def test_a_run_that_meets_its_goals() -> None:
    """Goodput is of the burst alone; ages and shed scores are told."""
    report = summary(calm(), peak=105, sent=3000, burst_s=10, cap=600 * MIB)
    assert report["missed"] == []
    assert (report["goodput_per_s"], report["sent_per_s"], report["goodput_share"]) == (
        100, 300, 0.952,
    )  # fmt: skip
    assert (report["calm_after_s"], report["rebalances"]) == (10, 0)
    assert report["shed"] == {"1": 500, "2": 0}
    out = io.StringIO()
    show(report | {"peak_cores": 1.0, "load_1min": 2.5}, Console(file=out, width=120))
    for part in (
        "500 MiB at most",
        "95%",
        "100/s on 0.5 cores",
        "level 1: 500",
        "10 s after the burst",
    ):
        assert part in out.getvalue()


def test_each_missed_goal_is_named() -> None:
    """Memory, goodput, rebalances, and the end of the waiting."""
    report = summary(calm(rss=700), 105, 3000, 10, 600 * MIB)
    assert report["missed"] == ["memory under its cap"]
    assert summary(calm(), 120, 3000, 10, 600 * MIB)["missed"] == ["goodput of 90% of the peak"]
    assert summary(calm(rebalances=2), 105, 3000, 10, 600 * MIB)["missed"] == ["no rebalance"]
    assert summary(calm()[:4], 105, 3000, 10, 600 * MIB)["missed"] == ["calm again"]


def test_the_cap_is_made_of_the_bounds() -> None:
    """Each setting that bounds something moves the cap by as much at least."""
    plain = memory_cap(load_settings()).total
    for name in ("queue_bytes_max", "inflight_bytes_max"):
        more = Settings.model_fields[name].default + 100 * MIB
        assert memory_cap(load_settings(**{name: more})).total >= plain + 100 * MIB
    few = memory_cap(load_settings(state_customers_max=8192, state_shares_max=65_536))
    assert few.total < 2048 * MIB < plain


def test_memory_of_a_process() -> None:
    """What the system says of this one."""
    now, most = process_memory(os.getpid())
    assert 10 * MIB < now <= most


def test_what_goes_out_is_counted_in_bytes() -> None:
    """Keys, values and headers, of scores as of dead letters."""
    columns = Columns("t", batch([value(0)]).partition, Ragged.of([b"key"]), Ragged.of([b"value"]))
    letter = Letter("d", 0, None, b"12345", (Header("name", b"123"), Header("x", None)))
    outbound = Outbound((columns,), (letter,), "in")
    assert outbound.nbytes == Output.of(outbound).nbytes == 8 + 13


async def test_what_waits_is_counted_with_what_it_came_of() -> None:
    """A batch of large broken records weighs what it will send as dead letters."""
    large: Decided = await decided(batch([(bytes(100_000), b"c0")] * 5), parts())
    assert large.nbytes > 500_000
    assert (await decided(batch([value(1)]), parts())).nbytes < 2000


def test_a_replay_never_sheds() -> None:
    """Its vectors are compared bit for bit, however long records wait."""
    shed = {"shed_after_ms": 1000}
    assert _shedding(load_settings(**shed)).at(10**9) == 2
    assert _shedding(load_settings(**shed, alignment="wait")).at(10**9) == 0
    assert load_settings().inflight_bytes_max == BYTES_MAX

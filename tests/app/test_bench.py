"""The benchmark's own parts, without a cluster: its load, its meter, its sums."""

import io
import json
import time
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple, get_args

import fastavro
import numpy as np
import pytest
from rich.console import Console

import schemas
from app import decode
from app.bench import arrivals, latency, luxuries, page, scaling, stages, sustainable, throughput
from app.bench.lanes import hand_loop, readable
from app.bench.lanes.lane import Meter, task
from app.bench.latency import Trial
from app.bench.load import SPAN_US, load
from app.bench.ratios import GOALS, judged, missed
from app.bench.rig import STAGES
from app.bench.throughput import Result, run
from app.demo import traffic
from app.demo.traffic import HISTORY_DAYS, encoded
from app.errors import ConfigError, Unavailable
from app.writers import Writers
from features.contract import DAY_US
from tests.app.builders import T0, record_batch
from tests.app.test_follow import LATENCY, SCORE
from tests.app.test_follow import encoded as encoded_score
from tests.strategies import LIMITS

ENVIRONMENT: dict[str, Any] = {}
SAID = {"0": "d"}


class FakeMessage(NamedTuple):
    """A consumed message, as far as its place matters."""

    at: int

    def partition(self) -> int:
        """See `confluent_kafka.Message.partition`."""
        return self.at


def test_load_lies_in_the_past_and_continues_it() -> None:
    """Nothing is later than now, which the pipeline would refuse, nor before the past's end."""
    past, coming, now_us = load(2_000)
    times = coming.event_time_us
    assert np.all(np.diff(times) >= 0)
    assert past.event_time_us[-1] < times[0]
    assert times[-1] <= now_us <= time.time_ns() // 1000
    assert now_us - times[-1] < 1_000
    # 2,000 payments take a fifth of a day of this world, and are as far apart as they happened.
    assert 0.1 * DAY_US < times[-1] - times[0] < 0.5 * DAY_US
    assert past.event_time_us[0] > now_us - (HISTORY_DAYS + 1) * DAY_US


def test_a_large_load_comes_again_within_six_days(monkeypatch: pytest.MonkeyPatch) -> None:
    """However much there is: nothing of it counts at a terminal before the end of the run."""
    monkeypatch.setattr(traffic, "ROUND_RECORDS", 30_000)
    _, coming, now_us = load(100_000)
    times = coming.event_time_us
    assert len(coming) == 100_000
    assert np.all(np.diff(times) >= 0)
    assert now_us - SPAN_US <= times[0] < times[-1] <= now_us
    assert np.array_equal(coming.customer[:10_000], coming.customer[90_000:])


def test_the_hand_loops_columns_are_the_decoders() -> None:
    """What it decodes with fastavro gives the features the same input."""
    header = schemas.load("transaction").single_object_header
    paid = replace(load(100).coming, event_time_us=T0 + np.arange(100))
    records = list(encoded(paid, "tx", 0, header))
    batch = record_batch([(i % 4, i, key, value) for i, (key, value) in enumerate(records)])
    ours = decode.decode(batch, Writers(), LIMITS).transactions
    messages: Any = [FakeMessage(i % 4) for i in range(100)]
    reader = hand_loop.parsed("transaction")
    decoded: Any = [
        fastavro.schemaless_reader(io.BytesIO(value[10:]), reader, None) for _, value in records
    ]
    theirs = hand_loop.columns_of(messages, decoded)
    for name in ("customer_id", "terminal_id"):
        a, b = ours.strings(name), theirs.strings(name)
        assert [a[i] for i in range(100)] == [b[i] for i in range(100)]
    for name in ("partition", "event_time_us", "amount_minor"):
        a, b = getattr(ours, name), getattr(theirs, name)
        assert a.dtype == b.dtype
        assert np.array_equal(a, b)


def test_meter_leaves_the_warm_up_out(capsys: pytest.CaptureFixture[str]) -> None:
    """Only records after the warm-up's last batch count; the batch that reaches n ends it."""
    meter = Meter(n=100, warm=15)
    assert [meter.count(10) for _ in range(10)] == [False] * 9 + [True]
    meter.report()
    found = json.loads(capsys.readouterr().out)
    assert (found["tx"], found["read"]) == (80, 100)
    assert found["seconds"] > 0


def test_meter_says_where_nothing_was_left_after_the_warm_up(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """All records at once are metered from the start, and the result says so."""
    meter = Meter(n=100, warm=10)
    assert meter.count(100)
    meter.report()
    found = json.loads(capsys.readouterr().out)
    assert (found["tx"], found["warmed"]) == (100, False)


def test_a_lane_reads_its_task() -> None:
    """The command line that the orchestrator writes is the one that lanes read."""
    wanted = task(["--bootstrap", "h:1", "--topic", "t", "--group", "g", "--n", "7"])
    assert (wanted.bootstrap, wanted.topic, wanted.group, wanted.n) == ("h:1", "t", "g", 7)


def test_report_takes_medians_and_ratios() -> None:
    """Rates and CPU are medians of the rounds, ratios are of medians, absent lanes are left out."""
    ours = [
        Result(300.0, 1.0, 10, SAID),
        Result(100.0, 3.0, 10, SAID),
        Result(200.0, 2.0, 10, SAID),
    ]
    peer = [Result(50.0, 8.0, 10, SAID)]
    report = throughput.summary({"riskwire": ours, "hand_loop": peer}, ENVIRONMENT)
    assert report["riskwire"]["tx_per_s"] == 200
    assert report["riskwire"]["cpu_us_per_tx"] == 2
    assert report["ratios"] == {
        "riskwire_vs_hand_loop": 4.0,
        "hand_loop_cpu_vs_riskwire": 4.0,
    }


def test_the_table_names_lanes_ratios_and_cold_figures() -> None:
    """What was measured is shown; a figure with start-up in it is not shown as a clean one."""
    runs = {
        "riskwire": [Result(300.0, 1.0, 10, SAID)],
        "hand_loop": [Result(100.0, 3.0, 10, SAID, warmed=False)],
    }
    where = {"cpu": "a CPU", "cores": 2, "kafka": "a Kafka", "redis": "a Redis", "state": "days"}
    out = io.StringIO()
    throughput.show(throughput.summary(runs, where), Console(file=out, width=120))
    text = out.getvalue()
    for part in (
        "hand_loop",
        "3.00 x",
        "a Kafka",
        "in Redis: days",
        "start-up is part of the figures of hand_loop",
    ):
        assert part in text


def test_what_a_luxury_costs_is_the_median_of_rounds() -> None:
    """Each round compared with its own, so that a slow minute counts on both sides."""
    on = [Result(1.0, us, 10) for us in (8.0, 16.0, 8.0)]
    off = [Result(1.0, us, 10) for us in (6.0, 14.0, 4.0)]
    report = throughput.summary({luxuries.ON: on, "once_no_reasons": off}, ENVIRONMENT)
    assert luxuries.cost(report, "once_no_reasons") == 0.25


def test_lanes_must_agree() -> None:
    """Two lanes that scored the same transactions differently give no figures."""
    few, others = {"0": "x"}, {"0": "x", "1": "z"}
    runs = {"a": [Result(1.0, 1.0, 10, few)], "b": [Result(1.0, 1.0, 10, others)]}
    throughput.agree(runs)
    runs["c"] = [Result(1.0, 1.0, 10, {"1": "y"})]
    with pytest.raises(Unavailable, match="differently"):
        throughput.agree(runs)


def test_an_unknown_lane_is_refused() -> None:
    """Its name and the known ones are in the message, and nothing is started."""
    with pytest.raises(ConfigError, match=r"rocket.*consume_only"):
        run(lanes=("rocket",))


def test_stages_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every stage shows in every size of batch, beside its floor; small ones get fewer records."""
    monkeypatch.setattr(stages, "BATCHES_MAX", 300)
    report = stages.run(10_000, (1, 512))
    sizes = report["sizes"]
    assert {size: its["records"] for size, its in sizes.items()} == {"1": 300, "512": 10_000}
    for its in (report["first pass"], *sizes.values()):
        assert all(its[stage] > 0 for stage in STAGES)
        assert its["images"] > 0
    assert sizes["512"]["alerts"] > 0
    for its in sizes.values():
        assert its["floors"].keys() == stages.FLOORS.keys()
        assert all(us > 0 for us in its["floors"].values())
        # A floor that is no floor would measure something else; the model's may be beaten.
        assert all(its["floors"][stage] < its[stage] for stage in ("decode", "emit"))
    assert sizes["1"]["decode"] > 5 * sizes["512"]["decode"]
    assert report["second pass"] == sizes["512"]
    assert report["ratios"].keys() == GOALS.keys()
    out = io.StringIO()
    stages.show(report, Console(file=out, width=120))
    text = out.getvalue()
    assert all(part in text for part in (*STAGES, *stages.FLOORS.values(), "sum", "fastavro"))


def test_a_ratio_is_judged_by_its_goals() -> None:
    """What it should be is a wish, what it must be is not."""
    found = {"decode_vs_fastavro": 14.9, "encode_vs_fastavro": 15.1, "model_vs_session": 5.0}
    assert missed(found) == ["decode_vs_fastavro"]
    said = [judged(name, ratio) for name, ratio in found.items()]
    assert ["not met, 15 missed" in said[0], "not met, 15 met" in said[1]] == [True, True]
    assert "goal 0.8 met" in said[2]


def test_growth_is_measured_and_what_does_not_fit_extrapolated(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Costs and bytes show for each thing that grows; nothing is a figure that it is not."""
    monkeypatch.setattr(scaling, "MEDIUM", 600)
    monkeypatch.setattr(scaling, "MODELS", ((4, 2), (400, 3), (4, 7)))
    monkeypatch.setattr(scaling, "MESSAGES", ((8, 0), (64, 1_000)))
    report = scaling.run(2_000, (10**12, 300, 30_000), lambda _: None)
    few, many, beyond = report["state"]
    assert [its["extrapolated"] for its in report["state"]] == [False, False, True]
    assert many["records"] == 2_000
    assert all(many[stage] > 0 for stage in STAGES)
    assert 3_000 < many["bytes_per_entity"] < scaling.ENTITY_BYTES
    assert beyond["us"] >= many["us"]
    assert beyond["rss_bytes"] > 10**12 * many["bytes_per_entity"]
    assert few["images"] == 300  # all of them, each once
    one, *_, most = report["partitions"]
    assert (one["partitions"], most["partitions"]) == (1, 16)
    assert one["features"] < most["features"]
    small, large, deep = report["models"]
    assert [its["compiled"] for its in report["models"]] == [True, True, False]
    assert small["model_bytes"] < deep["model_bytes"] < large["model_bytes"]
    for cost in ("model", "session.run", "reasons_per_alert"):
        assert small[cost] < large[cost]
    short, long = report["messages"]
    assert (short["bytes"] < 100, 1_200 < long["bytes"] < 1_500) == (True, True)
    assert short["floors"]["decode"] < long["floors"]["decode"]
    fastest = report["workers"]["rates"][-1]
    assert fastest == {
        "workers": 16, "partitions": 16, "tx_per_s": round(16e6 / most["us"]),
    }  # fmt: skip
    out = io.StringIO()
    scaling.show(report, Console(file=out, width=80))
    assert all(f"{part}" in out.getvalue() for part in ("30,000", "extrapolated", "RSS", "unread"))


def test_a_step_beyond_the_memory_needs_two_before_it() -> None:
    """Where nothing was measured there is nothing to extrapolate from."""
    with pytest.raises(ConfigError, match="two smaller"):
        scaling.run(2_000, (10**12,), lambda _: None)


def test_sizes_are_numbers() -> None:
    """What is no size is refused before anything is measured."""
    assert stages.numbers_of("1,4096") == [1, 4096]
    for text in ("many", "", "0", "1,"):
        with pytest.raises(ConfigError, match="1,256"):
            stages.numbers_of(text)


def test_lateness_counts_from_due_and_what_is_missing_shows() -> None:
    """Percentiles without the warm-up; a score that is missing or doubled makes it incomplete."""
    pytest.importorskip("hdrh")
    header = schemas.load("risk_score").single_object_header

    def score(number: int) -> bytes:
        latency_of = {**LATENCY, "event_time": T0 + number}
        fields = {**SCORE, "transaction_id": f"p{T0}-{number}", "latency": latency_of}
        return encoded_score(header, fields)

    came = [(T0 + n + 1000 * (n + 1), score(n)) for n in range(4)]
    judged = partial(readable.judged, schema="risk_score")
    found = judged(came, 4, 2)
    assert found["complete"]
    assert [found[name] for name in ("p50_ms", "p99_ms", "max_ms")] == [3.001, 4.001, 4.0]
    assert not judged(came[:3], 4, 0)["complete"]
    assert not judged([*came, came[0]], 4, 0)["complete"]
    assert not judged([*came[:3], came[0]], 4, 0)["complete"]


def test_a_backlog_that_grows_is_told_from_one_that_does_not() -> None:
    """Over ten seconds at 1,000/s: served in time, with noise, and served at 90 % of the rate."""
    rng = np.random.default_rng(5)
    due = np.arange(10_000) * 1000
    assert readable.growth(due, due + rng.integers(1000, 90_000, len(due))) <= 0
    assert 0.08 < readable.growth(due, due + 5000 + due // 10) < 0.12


def test_the_course_shows_a_stall() -> None:
    """What was due in the window of a stop waited for its end."""
    due = np.arange(0, 1_000_000, 1000)
    read = np.where((due >= 300_000) & (due < 500_000), 500_000, due) + 1000
    course = readable.course(due, read)
    assert len(course) == 10
    assert course[2:6] == [1.0, 201.0, 101.0, 1.0]


@pytest.mark.parametrize("name", get_args(arrivals.Arrivals))
def test_arrivals_keep_their_rate(name: arrivals.Arrivals) -> None:
    """As many in the time as were asked for, in order, the same again."""
    n = arrivals.count(name, 500.0, 20.0)
    due = arrivals.due_us(name, n, 500.0, 7)
    assert np.array_equal(due, arrivals.due_us(name, n, 500.0, 7))
    assert due[0] == 0
    assert (np.diff(due) >= 0).all()
    assert 19.0e6 < due[-1] < 21.0e6
    assert n == (12_000 if name == "burst" else 10_000)


def test_a_burst_is_three_times_as_fast_while_it_lasts() -> None:
    """And the bench says when that is."""
    n = arrivals.count("burst", 500.0, 20.0)
    begin, end = arrivals.burst_s(n, 500.0)
    due_s = arrivals.due_us("burst", n, 500.0) / 1e6
    assert end - begin == pytest.approx(2.0)
    assert np.count_nonzero((due_s >= begin) & (due_s < end)) == pytest.approx(3000, abs=2)
    trial = Trial(500.0, 20.0, "burst", warm=0)
    windows = [5.0] * int(begin * 10) + [80.0] * 20 + [40.0, 20.0, 9.0] + [5.0] * 100
    assert latency.recovered_s(trial, windows) == pytest.approx(0.2)
    assert latency.recovered_s(trial, windows[:82]) is None


def test_gaps_of_chance_are_exponential() -> None:
    """Their standard deviation is their mean."""
    gaps = np.diff(arrivals.due_us("poisson", 50_000, 1000.0, 3))
    assert gaps.mean() == pytest.approx(1000, rel=0.03)
    assert gaps.std() == pytest.approx(1000, rel=0.05)


@pytest.mark.parametrize("limit", [150.0, 9_000.0, 10_000.0, 47_000.0, 333_000.0])
def test_the_highest_rate_is_bisected(limit: float) -> None:
    """Within the precision below what holds, wherever the search begins."""
    tried: list[float] = []

    def holds(rate: float) -> bool:
        tried.append(rate)
        return rate <= limit

    found = sustainable.highest(holds)
    assert 0.94 * limit <= found <= limit
    assert len(tried) < 16
    assert sustainable.highest(lambda _rate: False) == 0


def test_a_sender_that_was_late_voids_a_run() -> None:
    """Its own lateness would be taken for the worker's."""
    trial = Trial(100.0, 1.0)
    assert not latency.judged(trial, {"slip_p99_ms": 0.9, "p99_ms": 10.0})["void"]
    assert latency.judged(trial, {"slip_p99_ms": 1.1, "p99_ms": 10.0})["void"]


def test_the_page_has_the_curves_and_needs_nothing_else() -> None:
    """Percentiles of both systems, what is void greyed, nothing fetched from anywhere."""
    pytest.importorskip("matplotlib")
    figures = dict.fromkeys(("p50_ms", "p90_ms", "p99_ms", "p999_ms", "p9999_ms", "max_ms"), 5.0)
    run_ = {"delivery": "exactly_once", "arrivals": "poisson", "slip_p99_ms": 0.1, **figures}
    runs = [
        {**run_, "system": name, "rate": 1000.0 * k, "share": k / 4, "void": k == 3}
        for name in ("riskwire", "echo")
        for k in (1, 2, 3)
    ]
    report = {"runs": runs, "environment": {"cpu": "<a & b>"}, "sustainable": 4000.0}
    text = page.page(report)
    assert "riskwire p99.9" in text
    assert text.count('class="void"') == 2
    assert "&lt;a &amp; b&gt;" in text
    assert "<script" not in text
    assert sustainable.ratios(report) == {0.25: 1.0, 0.5: 1.0}


def test_rates_are_numbers() -> None:
    """What is no rate is refused before anything is started."""
    assert latency.rates_of("2000,20000") == [2000.0, 20000.0]
    for text in ("fast", "", "0", "100,"):
        with pytest.raises(ConfigError, match="2000,20000"):
            latency.rates_of(text)

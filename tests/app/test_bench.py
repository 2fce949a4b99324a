"""The benchmark's own parts, without a cluster: its load, its meter, its sums."""

import io
import json
import time
from typing import Any

import fastavro
import pytest
from rich.console import Console

import schemas
from app.bench import throughput
from app.bench.lanes.lane import Meter, task
from app.bench.load import encoded, payments, population
from app.bench.throughput import Result, run
from app.errors import ConfigError, Unavailable

ENVIRONMENT: dict[str, Any] = {}


def test_load_is_what_the_schema_says() -> None:
    """The hand-made encoding is byte for byte fastavro's, and the key is the customer."""
    people = population()
    paid = payments(people, 500)
    schema = schemas.load("transaction")
    for (key, value), record in zip(encoded(people, paid), people.records(paid, "tx"), strict=True):
        out = io.BytesIO()
        fastavro.schemaless_writer(out, schema.parsed, record)
        assert value == schema.single_object_header + out.getvalue()
        assert key.decode() == record["customer_id"]


def test_load_lies_in_the_past() -> None:
    """No payment is later than now, which the pipeline would refuse."""
    assert payments(population(), 2000).event_time_us.max() <= time.time_ns() // 1000


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
    ours = [Result(300.0, 1.0, 10, "d"), Result(100.0, 3.0, 10, "d"), Result(200.0, 2.0, 10, "d")]
    peer = [Result(50.0, 8.0, 10, "d")]
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
        "riskwire": [Result(300.0, 1.0, 10, "d")],
        "hand_loop": [Result(100.0, 3.0, 10, "d", warmed=False)],
    }
    where = {"cpu": "a CPU", "cores": 2, "kafka": "a Kafka", "redis": "a Redis"}
    out = io.StringIO()
    throughput.show(throughput.summary(runs, where), Console(file=out, width=120))
    text = out.getvalue()
    for part in ("hand_loop", "3.00 x", "a Kafka", "start-up is part of the figures of hand_loop"):
        assert part in text


def test_lanes_must_agree() -> None:
    """Two lanes that scored the same transactions differently give no figures."""
    runs = {"a": [Result(1.0, 1.0, 10, "x")], "b": [Result(1.0, 1.0, 10, "y")]}
    with pytest.raises(Unavailable, match="differently"):
        throughput.agree(runs)


def test_an_unknown_lane_is_refused() -> None:
    """Its name and the known ones are in the message, and nothing is started."""
    with pytest.raises(ConfigError, match=r"rocket.*consume_only"):
        run(lanes=("rocket",))

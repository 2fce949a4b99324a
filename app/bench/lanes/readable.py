"""Not a lane but a reader downstream: notes when each committed record becomes readable.

Prints `{"ready": true}` when it reads, and at its end one line of JSON (`judged`). It looks into
the records when all are there, so that it takes little of the worker's cores. It gives up where
nothing comes for QUIET_S.
"""

import argparse
import hashlib
import time
from collections.abc import Sequence

import numpy as np
from confluent_kafka import Consumer, TopicPartition

from app.adapters.follow import Decoder
from app.bench.arrivals import WINDOW_S
from app.bench.lanes.paced import say
from app.demo.traffic import number_of
from app.records import Int64s

OPTIONS: dict[str, str | int | bool] = {
    "group.id": "readable",
    "enable.auto.commit": False,
    "isolation.level": "read_committed",
    "fetch.queue.backoff.ms": 5,
}
RECORDS_MAX = 10_000
QUIET_S = 30.0
LONGEST_US, DIGITS = 600_000_000, 3
PERCENTILES = {"p50": 50.0, "p90": 90.0, "p99": 99.0, "p999": 99.9, "p9999": 99.99}


def main(bootstrap: str, topic: str, n: int, warm: int, schema: str) -> None:
    """Read `n` records; the first `warm` payments do not count."""
    consumer = Consumer({**OPTIONS, "bootstrap.servers": bootstrap})
    partitions = consumer.list_topics(topic, timeout=10).topics[topic].partitions
    consumer.assign([TopicPartition(topic, p, 0) for p in partitions])
    consumer.poll(0.5)
    say(ready=True)
    came: list[tuple[int, bytes | None]] = []
    heard_s = time.monotonic()
    while len(came) < n and time.monotonic() - heard_s < QUIET_S:
        if (first := consumer.poll(0.1)) is None:
            continue
        messages = [first, *consumer.consume(RECORDS_MAX, 0)]
        now_us = time.time_ns() // 1000
        heard_s = time.monotonic()
        came += [(now_us, message.value()) for message in messages if message.error() is None]
    consumer.close()
    say(**judged(came, n, warm, schema))


def judged(
    came: Sequence[tuple[int, bytes | None]], n: int, warm: int, schema: str
) -> dict[str, object]:
    """What `came`, and when (µs), as the result.

    `records`, and `complete` where each payment came just once. Of those that were due after the
    warm-up: percentiles from due to readable in ms and their `histogram`; for scores also
    `in_process`, from polled to emitted, and `hash` of what they say; `growth`, by how much the
    backlog grows for certain, as a share of the rate; and `course`, the worst of each window in ms.
    """
    decode = Decoder(schema)
    due, read, inside = (np.zeros(n, np.int64) for _ in range(3))
    scores = np.zeros(n, np.float32)
    for now_us, value in came:
        fields = decode(value)
        if fields is None:
            raise SystemExit(f"a value is no {schema}")
        i = number_of(fields["transaction_id"])
        times = fields.get("latency", fields)
        due[i], read[i] = times["event_time"], now_us
        if schema == "risk_score":
            inside[i], scores[i] = times["emitted"] - times["polled"], fields["score"]
    due, read, inside = due[warm:], read[warm:], inside[warm:]
    found: dict[str, object] = {
        "records": len(came),
        "complete": len(came) == n and bool(read.all()),
    }
    if not found["complete"]:
        return found
    found |= percentiles(read - due) | {"growth": growth(due, read), "course": course(due, read)}
    if schema == "risk_score":
        found["in_process"] = percentiles(inside)
        found["hash"] = hashlib.sha256(scores.tobytes()).hexdigest()[:16]
    return found


def percentiles(us: Int64s) -> dict[str, object]:
    """Percentiles and the longest in ms by an HdrHistogram of 3 digits, which is there, too."""
    from hdrh.histogram import HdrHistogram  # noqa: PLC0415 -- not everywhere

    histogram = HdrHistogram(1, LONGEST_US, DIGITS)
    for value, count in zip(*np.unique(us, return_counts=True), strict=True):
        histogram.record_value(int(value), int(count))
    found: dict[str, object] = {
        f"{name}_ms": round(histogram.get_value_at_percentile(share) / 1000, 3)
        for name, share in PERCENTILES.items()
    }
    return found | {
        "max_ms": round(int(us.max()) / 1000, 3),
        "histogram": histogram.encode().decode(),
    }


def growth(due_us: Int64s, read_us: Int64s) -> float:
    """By how much the backlog grows in a second for certain, as a share of the rate.

    A line through the backlog (due and not readable yet) in every window; its slope, less twice its
    standard error, over the rate.
    """
    seconds = (due_us[-1] - due_us[0]) / 1e6
    at_us = due_us[0] + np.arange(WINDOW_S, seconds, WINDOW_S) * 1e6
    if len(at_us) < 3:
        return 0.0
    backlog = np.searchsorted(due_us, at_us) - np.searchsorted(np.sort(read_us), at_us)
    t = (at_us - at_us.mean()) / 1e6
    slope = float(t @ backlog / (t @ t))
    rest = backlog - backlog.mean() - slope * t
    error = float(np.sqrt(rest @ rest / (len(t) - 2) / (t @ t)))
    return round(float((slope - 2 * error) * seconds / len(due_us)), 5)


def course(due_us: Int64s, read_us: Int64s) -> list[float]:
    """The longest from due to readable in each window of due times, ms; 0 where none was due."""
    window = ((due_us - due_us[0]) / (WINDOW_S * 1e6)).astype(np.int64)
    worst = np.zeros(int(window[-1]) + 1)
    np.maximum.at(worst, window, (read_us - due_us) / 1000)
    return [round(each, 1) for each in worst.tolist()]


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--bootstrap", required=True)
    parser.add_argument("--topic", required=True)
    parser.add_argument("--n", type=int, required=True)
    parser.add_argument("--warm", type=int, required=True)
    parser.add_argument("--schema", default="risk_score")
    main(**vars(parser.parse_args()))

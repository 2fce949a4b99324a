"""Not a lane but a reader downstream: notes when each committed score becomes readable.

Prints `{"ready": true}` when it reads, and at its end one line of JSON: how many scores there were,
`complete` where each payment has just one, and for those that were due after the warm-up the time
from due to readable in ms (p50, p99, max). It looks into the scores when all are there, so that it
takes little of the worker's cores. It gives up where nothing comes for QUIET_S.
"""

import argparse
import time
from collections.abc import Sequence

import numpy as np
from confluent_kafka import Consumer, TopicPartition

from app.adapters.follow import Decoder
from app.bench.lanes.paced import say
from app.demo.traffic import number_of

OPTIONS: dict[str, str | int | bool] = {
    "group.id": "readable",
    "enable.auto.commit": False,
    "isolation.level": "read_committed",
    "fetch.queue.backoff.ms": 5,
}
RECORDS_MAX = 10_000
QUIET_S = 30.0


def main(bootstrap: str, topic: str, n: int, warm: int) -> None:
    """Read `n` scores; the first `warm` payments do not count."""
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
    say(**judged(came, n, warm))


def judged(came: Sequence[tuple[int, bytes | None]], n: int, warm: int) -> dict[str, object]:
    """What `came` by when, as the result."""
    decode = Decoder("risk_score")
    ms = np.full(n, np.nan)
    for now_us, value in came:
        fields = decode(value)
        if fields is None:
            raise SystemExit("a value is no RiskScore")
        number = number_of(fields["transaction_id"])
        ms[number] = (now_us - fields["latency"]["event_time"]) / 1000
    counted = ms[warm:][~np.isnan(ms[warm:])]
    p50, p99, longest = np.percentile(counted, (50, 99, 100)) if len(counted) else [0.0] * 3
    return {
        "records": len(came),
        "complete": len(came) == n and not np.isnan(ms).any(),
        "p50_ms": round(float(p50), 2),
        "p99_ms": round(float(p99), 2),
        "max_ms": round(float(longest), 2),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--bootstrap", required=True)
    parser.add_argument("--topic", required=True)
    parser.add_argument("--n", type=int, required=True)
    parser.add_argument("--warm", type=int, required=True)
    main(**vars(parser.parse_args()))

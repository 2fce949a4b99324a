"""Not a lane but a load: sends payments open loop, each at its due time, however all do.

A payment's event time is its due time, so latency that counts from there hides no wait of the
sender's. All are encoded before the first is due. Before those that count it sends some fast, so
that the worker has met its customers and terminals. Prints two lines of JSON: `start_us`, the first
due time that counts, before it begins; and when all are acknowledged `sent`, and how late they left
(`slip_p99_ms`, `late_ms` the worst).
"""

import argparse
import json
import sys
import time
from dataclasses import replace
from typing import get_args

import numpy as np

import schemas
from app.adapters.transport import choose_transport, open_sink
from app.bench.arrivals import Arrivals, due_us
from app.bench.lanes.lane import PARTITIONS
from app.bench.load import WORLD
from app.config import load_settings
from app.demo.traffic import divided, encoded
from app.errors import Unavailable
from app.partitioner import partition_of
from app.ports import Sink
from app.records import Columns, Int64s, Outbound, Ragged
from models.handbook import Payments

LEAD_S, SETTLE_S = 1.5, 2.0
"""From the first line on, beside ENCODE_US a payment; and between warm-up and what counts."""
ENCODE_US = 12
WARM_RATE = 20_000.0
NAP_S = 0.0003
"""No shorter, or the sender burns a core: what comes due in one nap leaves together."""
CHUNK_RECORDS = 1000
OPTIONS = {"linger.ms": "1"}


def say(**fields: object) -> None:
    """Print a line for whoever started us."""
    sys.stdout.write(json.dumps(fields) + "\n")
    sys.stdout.flush()


def columns(topic: str, coming: Payments, at_us: Int64s, first: int) -> Columns:
    """Payments with numbers from `first` on, due at `at_us`; in their customers' partitions."""
    number = np.arange(first, first + len(at_us)) % len(coming)
    block = replace(coming.take(number), event_time_us=at_us)
    header = schemas.load("transaction").single_object_header
    rows = list(encoded(block, f"p{at_us[0]}-", first, header))
    customers = range(int(block.customer.max()) + 1)
    place = np.array([partition_of(b"%d" % each, PARTITIONS) for each in customers], np.int32)
    keys, values = (Ragged.of([row[k] for row in rows]) for k in (0, 1))
    return Columns(topic, place[block.customer], keys, values)


def send(sink: Sink, its: Columns, at_us: Int64s) -> Int64s:
    """Send each when it is due, and wait until all are acknowledged; how late each left, µs."""
    late_us, sent, ticket = np.zeros(len(at_us), np.int64), 0, 0
    while sent < len(at_us):
        sink.poll(0)
        now_us = time.time_ns() // 1000
        end = min(int(np.searchsorted(at_us, now_us, "right")), sent + CHUNK_RECORDS)
        if end <= sent or not sink.room(end - sent):
            time.sleep(NAP_S)
            continue
        ticket += 1
        sink.send(Outbound((its.take(np.arange(sent, end)),), (), its.topic), ticket)
        late_us[sent:end] = time.time_ns() // 1000 - at_us[sent:end]
        sent = end
    while ticket and ticket not in sink.poll(100):
        pass
    return late_us


def main(
    bootstrap: str, topic: str, rate: float, n: int, warm: int, arrivals: Arrivals, seed: int
) -> None:
    """Send `n` payments, the first `warm` of them for the warm-up."""
    _, coming = divided(WORLD, n, 0)
    settings = load_settings(bootstrap_servers=bootstrap, producer_options=OPTIONS)
    sink = open_sink(settings, choose_transport(settings))
    warm_us = time.time_ns() // 1000 + int(1e6 * LEAD_S) + n * ENCODE_US
    start_us = warm_us + int(1e6 * (warm / WARM_RATE + SETTLE_S))
    say(start_us=start_us)
    at_us = start_us + due_us(arrivals, n - warm, rate, seed)
    its = columns(topic, coming, at_us, warm)
    if warm:
        warm_at_us = warm_us + due_us("constant", warm, WARM_RATE)
        warming = columns(topic, coming, warm_at_us, 0)
        if time.time_ns() // 1000 > warm_us:
            raise Unavailable("the payments were not encoded in time: the machine is too busy")
        send(sink, warming, warm_at_us)
    slip_ms = send(sink, its, at_us) / 1000
    sink.close(1000)
    say(
        sent=n,
        slip_p99_ms=round(float(np.percentile(slip_ms, 99)), 3),
        late_ms=round(float(slip_ms.max()), 3),
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--bootstrap", required=True)
    parser.add_argument("--topic", required=True)
    parser.add_argument("--rate", type=float, required=True)
    parser.add_argument("--n", type=int, required=True)
    parser.add_argument("--warm", type=int, required=True)
    parser.add_argument("--arrivals", choices=get_args(Arrivals), default="constant")
    parser.add_argument("--seed", type=int, default=0)
    main(**vars(parser.parse_args()))

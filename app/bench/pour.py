"""The overload benchmark's sender, a program of its own: transactions at a rate, or flat out.

    python -m app.bench.pour --bootstrap HOST:PORT --topic NAME --rate N --seconds S

The same payments come again and again (their own times are of the last six days; what counts is
when the broker gets them). Prints one line of JSON: `sent`, and the `seconds` that it took.
"""

import argparse
import json
import sys
import time

import numpy as np

from app.adapters.transport import choose_transport, open_sink
from app.bench.lanes.paced import columns
from app.bench.load import load
from app.config import load_settings
from app.records import Columns, Outbound

POOL_RECORDS, CHUNK_RECORDS = 200_000, 1000
TOLD_S = 0.002


def chunks(topic: str) -> list[Columns]:
    """The payments, so many at a time, each to its customer's partition."""
    coming = load(POOL_RECORDS).coming
    pool = columns(topic, coming, coming.event_time_us, 0)
    return [pool.take(rows) for rows in np.arange(POOL_RECORDS).reshape(-1, CHUNK_RECORDS)]


def main(bootstrap: str, topic: str, rate: float, seconds: float, records: int) -> None:
    """Send until the time is over, or so many are sent, and all are with the broker."""
    settings = load_settings(
        bootstrap_servers=bootstrap,
        producer_options={"compression.type": "lz4", "linger.ms": "20"},
    )
    pool, sink = chunks(topic), open_sink(settings, choose_transport(settings))
    sent = ticket = 0
    began_s = time.monotonic()
    while sent < records and (elapsed_s := time.monotonic() - began_s) < seconds:
        sink.poll(0)
        if sent > rate * elapsed_s or not sink.room(CHUNK_RECORDS):
            time.sleep(TOLD_S)
            continue
        ticket += 1
        sink.send(Outbound((pool[ticket % len(pool)],), (), topic), ticket)
        sent += CHUNK_RECORDS
    took_s = time.monotonic() - began_s
    done = 0
    while done < ticket:
        done = max([done, *sink.poll(100)])
    sink.close(1000)
    sys.stdout.write(json.dumps({"sent": sent, "seconds": round(took_s, 3)}) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--bootstrap", required=True, help="host:port of Kafka")
    parser.add_argument("--topic", required=True, help="topic of transactions")
    parser.add_argument("--rate", type=float, default=float("inf"), help="records a second")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="end after these")
    parser.add_argument("--records", type=int, default=1 << 62, help="end after so many")
    wanted = parser.parse_args()
    main(wanted.bootstrap, wanted.topic, wanted.rate, wanted.seconds, wanted.records)

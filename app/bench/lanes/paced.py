"""Not a lane but a load: sends payments at a fixed rate, each at its due time, however all do.

A payment's event time is its due time, so latency that counts from there hides no wait of the
sender's. Before that it sends some fast, so that the worker has met its customers and terminals.
Prints two lines of JSON: `start_us`, the first due time that counts, before it begins, and `sent`
and `late_ms`, how late the worst one left, when all are acknowledged.
"""

import argparse
import json
import sys
import time

import schemas
from app.adapters.traffic import send
from app.bench.load import WORLD
from app.config import load_settings
from app.demo.traffic import divided, payments

LEAD_US, SETTLE_US = 1_500_000, 2_000_000
"""From the first line on, while the sender finds the topic; and between warm-up and what counts."""
WARM_RATE = 20_000.0


def say(**fields: object) -> None:
    """Print a line for whoever started us."""
    sys.stdout.write(json.dumps(fields) + "\n")
    sys.stdout.flush()


def main(bootstrap: str, topic: str, rate: float, n: int, warm: int) -> None:
    """Send `n` payments, the first `warm` of them for the warm-up."""
    _, coming = divided(WORLD, n, 0)
    warm_us = time.time_ns() // 1000 + LEAD_US
    start_us = warm_us + int(1e6 * warm / WARM_RATE) + SETTLE_US
    say(start_us=start_us)
    header = schemas.load("transaction").single_object_header
    settings = load_settings(bootstrap_servers=bootstrap, topic_prefix="", topic_transactions=topic)
    send(settings, payments(coming, warm_us, warm, WARM_RATE, header))
    sent = send(settings, payments(coming, start_us, n - warm, rate, header, warm))
    say(sent=sent.records, late_ms=sent.late_us_max / 1000)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--bootstrap", required=True)
    parser.add_argument("--topic", required=True)
    parser.add_argument("--rate", type=float, required=True)
    parser.add_argument("--n", type=int, required=True)
    parser.add_argument("--warm", type=int, required=True)
    main(**vars(parser.parse_args()))

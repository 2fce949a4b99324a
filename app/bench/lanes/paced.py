"""Not a lane but a load: sends payments at a fixed rate, each at its due time, however all do.

A payment's event time is its due time, so latency that counts from there hides no wait of the
sender's. Prints two lines of JSON: `start_us`, the first due time, before it begins, and `sent`
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

LEAD_US = 1_500_000
"""From the first line on: the sender finds the topic meanwhile."""


def say(**fields: object) -> None:
    """Print a line for whoever started us."""
    sys.stdout.write(json.dumps(fields) + "\n")
    sys.stdout.flush()


def main(bootstrap: str, topic: str, rate: float, n: int) -> None:
    """Send `n` payments."""
    _, coming = divided(WORLD, n, 0)
    start_us = time.time_ns() // 1000 + LEAD_US
    say(start_us=start_us)
    header = schemas.load("transaction").single_object_header
    settings = load_settings(bootstrap_servers=bootstrap, topic_prefix="", topic_transactions=topic)
    sent = send(settings, payments(coming, start_us, n, rate, header))
    say(sent=sent.records, late_ms=sent.late_us_max / 1000)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--bootstrap", required=True)
    parser.add_argument("--topic", required=True)
    parser.add_argument("--rate", type=float, required=True)
    parser.add_argument("--n", type=int, required=True)
    main(**vars(parser.parse_args()))

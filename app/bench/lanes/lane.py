"""What every lane of the throughput benchmark shares: its arguments, its meter and its result.

A lane is a program of its own (`python -m app.bench.lanes.NAME`), so that its CPU time is of its
process only. It reads the first `--n` records of a full topic in a new consumer group and prints
one line of JSON. Time counts from the end of the warm-up (`--warm` records) to the end of the last.
"""

import argparse
import json
import sys
import time
from dataclasses import dataclass

BATCH_RECORDS = 2048
PARTITIONS = 4
CONSUMER_OPTIONS: dict[str, str | int | bool] = {
    "auto.offset.reset": "earliest",
    "enable.auto.commit": False,
    "fetch.wait.max.ms": 10,
    # The default of 1 s stalls a reader that lets its queue fill once.
    "fetch.queue.backoff.ms": 5,
}


@dataclass(frozen=True, slots=True)
class Task:
    """What a lane is asked to do; `redis` and `scores` only matter to lanes that score.

    From `model` on it is about the peers' own work (`app.bench.peers`).
    """

    bootstrap: str
    topic: str
    group: str
    n: int
    warm: int
    redis: str
    scores: str
    transport: str
    delivery: str
    model: str
    variant: str
    batch: int
    linger_ms: int


def task(arguments: list[str] | None = None) -> Task:
    """Read the command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--bootstrap", required=True, help="host:port of Kafka")
    parser.add_argument("--topic", required=True, help="full topic of transactions")
    parser.add_argument("--group", required=True, help="consumer group, new")
    parser.add_argument("--n", type=int, required=True, help="records to read")
    parser.add_argument("--warm", type=int, default=0, help="records before the meter starts")
    parser.add_argument("--redis", default="", help="URL of the Redis that holds the state")
    parser.add_argument("--scores", default="", help="output topic")
    parser.add_argument("--transport", default="native", help="of Riskwire's own lane")
    parser.add_argument("--delivery", default="at_least_once", help="of Riskwire's own lane")
    parser.add_argument("--model", default="", help="ONNX file of the peers' own work")
    parser.add_argument("--variant", default="", help="which way, where a lane has several")
    parser.add_argument("--batch", type=int, default=256, help="records in a peer's batch")
    parser.add_argument("--linger-ms", type=int, default=10, help="longest wait for a batch")
    return Task(**vars(parser.parse_args(arguments)))


class Meter:
    """Counts records, and takes wall and CPU time from the end of the warm-up on.

    Where all records are done at once, nothing is left after the warm-up: then time counts from
    the meter's making, start-up included, and the result says `warmed: false`.
    """

    def __init__(self, n: int, warm: int) -> None:
        """`n` records in all, of which `warm` are not metered."""
        self.read = 0
        self._n, self._warm = n, warm
        self._first, self._warmed = 0, False
        self._began_s, self._began_cpu_s = time.perf_counter(), time.process_time()

    def count(self, records: int) -> bool:
        """Add records that are done with; True once all `n` are."""
        self.read += records
        if not self._warmed and self._warm <= self.read < self._n:
            self._first, self._warmed = self.read, True
            self._began_s, self._began_cpu_s = time.perf_counter(), time.process_time()
        return self.read >= self._n

    def report(self) -> None:
        """Print the result; call it when everything read has been delivered and committed."""
        seconds = time.perf_counter() - self._began_s
        cpu_s = time.process_time() - self._began_cpu_s
        line = {
            "tx": self.read - self._first,
            "seconds": round(seconds, 6),
            "cpu_s": round(cpu_s, 6),
            "read": self.read,
            "warmed": self._warmed,
        }
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()

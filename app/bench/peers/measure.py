"""One run of a lane: how fast it drains a full topic, how late its scores are at a light load.

Both are only believed if every score is right (`work.check`). Raises Unavailable where one is not,
or the lane's program fails or does not end.
"""

import json
import subprocess
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

import schemas
from app.adapters.follow import Follower
from app.adapters.traffic import send
from app.bench.load import WORLD
from app.bench.peers import work
from app.bench.peers.lanes import Lane
from app.bench.throughput import OUTPUTS, program, ran, spent, topic_of
from app.config import Settings, load_settings
from app.demo.traffic import divided, payments
from app.errors import Unavailable
from models.handbook import Payments

RATE, CUT_S = 2_000.0, 5.0
"""Of a latency run: transactions a second, and what is cut before it counts."""
PRIMER_RECORDS, PRIMER_RATE, PRIMER_RECORDS_MIN = 50_000, 20_000.0, 500
RECORDS_MIN = 10_000
PRIMED_TIMEOUT_S, END_TIMEOUT_S = 120.0, 120.0

Figures = dict[str, float]
Child: TypeAlias = "subprocess.Popen[str]"


@dataclass(frozen=True, slots=True)
class Stage:
    """Where the lanes run: `topics` of so many of the payments that are `coming`.

    `reset` lets Redis have the state that Riskwire begins with.
    """

    bootstrap: str
    redis_url: str
    model: Path
    coming: Payments
    topics: Mapping[int, str]
    reset: Callable[[], None]
    pids: Mapping[str, int]

    def arguments(self, topic: str, scores: str, n: int, warm: int) -> list[str]:
        """What a lane is told, in a new group."""
        return [
            *("--bootstrap", self.bootstrap, "--topic", topic, "--scores", scores),
            *("--group", f"bench-{uuid.uuid4().hex}", "--redis", self.redis_url),
            *("--model", str(self.model), "--n", str(n), "--warm", str(warm)),
        ]


def size_of(lane: Lane, records: int) -> int:
    """How many of the records a lane drains."""
    return min(records, max(RECORDS_MIN, int(records * lane.share)))


def drain(lane: Lane, stage: Stage) -> Figures:
    """One run through a full topic."""
    n = size_of(lane, len(stage.coming))
    if lane.everything:
        stage.reset()
    with topic_of(stage.bootstrap, "bench-scores", OUTPUTS) as scores:
        arguments = stage.arguments(stage.topics[n], scores, n, int(n * lane.warm_share))
        with spent(stage.pids, n) as theirs:
            line = ran(lane.start(arguments))
        found = work.read(stage.bootstrap, scores, risk_scores=lane.everything)
    wanted = work.expected(stage.coming.take(slice(n)), stage.model)
    work.check(found, wanted, scores=not lane.everything)
    return {
        "tx_per_s": round(line["tx"] / line["seconds"], 1),
        "cpu_us_per_tx": round(1e6 * line["cpu_s"] / line["tx"], 3),
        **{f"{name}_us_per_tx": us for name, us in theirs.items()},
    }


def latency(lane: Lane, stage: Stage, seconds: float) -> Figures:
    """One run at RATE on an empty topic: payments numbered from 0, and a primer's before them."""
    n, primer = int(RATE * (CUT_S + seconds)), int(PRIMER_RECORDS * lane.share)
    primer = max(PRIMER_RECORDS_MIN, primer)
    _, coming = divided(WORLD, n, 0)
    if lane.everything:
        stage.reset()
    with ExitStack() as stack:
        topic = stack.enter_context(topic_of(stage.bootstrap, "bench-light"))
        scores = stack.enter_context(topic_of(stage.bootstrap, "bench-scores", OUTPUTS))
        command = lane.start(stage.arguments(topic, scores, n + primer, primer))
        child = stack.enter_context(
            subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        )
        stack.callback(child.kill)
        settings = load_settings(
            bootstrap_servers=stage.bootstrap, topic_prefix="", topic_transactions=topic
        )
        header, now_us = schemas.load("transaction").single_object_header, time.time_ns() // 1000
        send(settings, payments(coming, now_us, primer, PRIMER_RATE, header, n))
        _wait_primed(settings, scores, primer, child)
        sent = program(
            "app.bench.lanes.paced", "--bootstrap", stage.bootstrap, "--topic", topic,
            *("--n", str(n), "--warm", "0", "--rate", str(RATE)),
        )  # fmt: skip
        line = _result(child, END_TIMEOUT_S)
        found = work.read(stage.bootstrap, scores, risk_scores=lane.everything)
    again = coming.take(np.arange(n + primer) % n)
    work.check(found, work.expected(again, stage.model), scores=not lane.everything)
    counted = (int(RATE * CUT_S) <= found.number) & (found.number < n)
    ms = (found.emitted_us - found.event_time_us)[counted] / 1000
    p50, p99, p999 = np.percentile(ms, (50, 99, 99.9)).round(2).tolist()
    return {
        "p50_ms": p50, "p99_ms": p99, "p999_ms": p999, "late_ms": sent["late_ms"],
        "cpu_us_per_tx_light": round(1e6 * line["cpu_s"] / line["tx"], 1),
    }  # fmt: skip


def _wait_primed(settings: Settings, scores: str, primer: int, child: Child) -> None:
    """Until every score of the primer can be read."""
    end_s, count = time.monotonic() + PRIMED_TIMEOUT_S, 0
    with Follower(settings, [scores], from_beginning=True) as its:
        while count < primer:
            if time.monotonic() > end_s or child.poll() is not None:
                _result(child, 0.0)
            count += len(its.poll(0.1))


def _result(child: Child, timeout_s: float) -> dict[str, Any]:
    """The lane's JSON line; raises Unavailable where it fails or takes too long."""
    try:
        out, errors = child.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        child.kill()
        out, errors = child.communicate()
    if child.returncode:
        raise Unavailable(f"a lane failed, or took too long:\n{errors[-2000:]}")
    line: dict[str, Any] = json.loads(out.splitlines()[-1])
    return line

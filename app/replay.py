"""`riskwire evaluate --through-kafka`: the benchmark's months through a real Kafka and worker.

A world's payments and their outcomes, known six days later, go into topics; the worker of
`riskwire worker` reads them with alignment `wait` and the timing of replays; an outsider reads the
scores. The four test weeks have a model each, so the worker is stopped at the start of each week
and started with the next one, as a deployment would be. Then every vector's hash, in all months,
and every score of the test weeks must be that of the offline run, bit for bit and none provisional:
else the first difference is shown and the exit status is 1. Scores are measured by the code that
measures offline ones. Needs Java 17 and Maven, or a Kafka named by RISKWIRE_TEST_BOOTSTRAP.
"""

import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import SecretStr
from rich.console import Console

import schemas
from app.adapters.admin import fill
from app.adapters.scores import Scores, ScoresReader
from app.adapters.topics import apply_topics, lag, watermarks
from app.adapters.watermarks import declare
from app.config import Settings, load_settings
from app.demo.cluster import pick_kafka, redis_server
from app.demo.process import free_ports
from app.demo.traffic import encoded
from app.demo.worker import WorkerProcess
from app.encode import encode_long, encode_string
from app.errors import RiskwireError, Unavailable
from app.evaluate_cli import publish
from app.watermarks import Watermark
from features.contract import DAY_US, REPLAY
from features.state import LABELS, TRANSACTIONS
from features.xxh64 import vector_hash
from models.evaluate import Data, judge, judged, prepare
from models.explain import to_npz
from models.explain_onnx import explainer_of
from models.fit import Family, fit
from models.fit import Scores as OfflineScores
from models.handbook import Payments, World
from models.manifest import Thresholds, described, write
from models.protocol import FOLDS, Fold, between
from models.threshold import ByAlerts, Costs, pick
from models.train import golden

QUIET_S_MAX, STOP_S_MAX = 60.0, 30.0
POLL_S = 0.2
KNOWN_AFTER_US = 6 * DAY_US
CHARGEBACK = 1
RULE = ByAlerts(100)
ECHO_EVERY_S = 5.0


class DifferenceError(RiskwireError):
    """The stream's result is not the offline one."""


@dataclass(slots=True, eq=False)
class Heard:
    """What the scores topic said of each payment so far.

    `times` counts how often (at least once is the guarantee), `others` how many times another
    vector was said than the first time; `less`, where one was degraded or shed.
    """

    score: NDArray[np.float32]
    vector_hash: NDArray[np.uint64]
    provisional: NDArray[np.bool_]
    times: NDArray[np.int64]
    less: NDArray[np.bool_]
    others: int = 0

    @classmethod
    def of(cls, n: int) -> "Heard":
        """Nothing heard of n payments."""
        return cls(
            np.full(n, np.nan, np.float32),
            np.zeros(n, np.uint64),
            np.zeros(n, np.bool_),
            np.zeros(n, np.int64),
            np.zeros(n, np.bool_),
        )

    def add(self, scores: Scores) -> None:
        """Take some in."""
        at = scores.transaction
        again = self.times[at] > 0
        same = self.vector_hash[at] == scores.vector_hash
        self.others += int(np.count_nonzero(again & ~same))
        self.score[at], self.vector_hash[at] = scores.score, scores.vector_hash
        self.provisional[at] |= scores.provisional
        self.less[at] |= scores.degraded | (scores.shed > 0)
        np.add.at(self.times, at, 1)


def run(
    seed: int,
    family: Family,
    *,
    partitions: int = 4,
    workers: int = 1,
    bootstrap: str | None = None,
    as_json: bool,
    scores: Path | None = None,
    report: Path | None = None,
) -> int:
    """Replay, compare, measure, print; the exit status."""
    console = Console(stderr=True, highlight=False)
    data = prepare(World(seed), lambda text: console.print(f"{text} …"))
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="riskwire-replay-") as place:
        heard, offline = replay(
            data, family, partitions, bootstrap, Path(place), console, workers=workers
        )
    console.print(f"replayed {len(data.payments):,} payments in {time.monotonic() - began:.0f} s")
    compare(data, heard, offline)
    console.print(
        f"all {len(data.payments):,} vectors and {sum(map(len, data.rows)):,} test scores are"
        f" those of the offline run, bit for bit; none is provisional;"
        f" {int((heard.times - 1).sum()):,} were scored again, with the same result"
    )
    evaluation = judge(data, {family: judged(data, heard.score)}, (family,))
    return publish(evaluation, Costs(), as_json=as_json, scores=scores, report=report)


def replay(
    data: Data,
    family: Family,
    partitions: int,
    bootstrap: str | None,
    place: Path,
    console: Console,
    *,
    workers: int = 1,
    batches: Sequence[int] = (),
    kills: Sequence[float] = (),
) -> tuple[Heard, dict[int, NDArray[np.float32]]]:
    """Send everything through the worker; what it said, and each fold's offline scores.

    For tests: `batches` are the workers' batch sizes in turn, `kills` the shares of each fold's
    payments after which the first of its workers is killed and started again.
    """
    heard, offline = Heard.of(len(data.payments)), {}
    with redis_server(directory=place) as redis, pick_kafka(bootstrap) as kafka:
        settings = settings_of(kafka.bootstrap, redis.url, partitions)
        apply_topics(settings)
        told = np.zeros(2, np.int64)
        with ScoresReader(settings) as reader:
            for fold in sorted(FOLDS, key=lambda one: one.start):
                settings = settings.model_copy(update={"model": place / f"model-{fold.number}"})
                offline[fold.number] = fold_model(data, family, fold, settings)
                stop = data.world.days if fold is FOLDS[0] else fold.test.stop
                told = send(settings, data, told, stop)
                if batches:
                    size = batches[fold.number % len(batches)]
                    settings = settings.model_copy(update={"batch_records_max": size})
                console.print(
                    f"fold {fold.number}: {told[0]:,} payments, {told[1]:,} outcomes sent"
                )
                declare_complete(settings, data.world.start_us + stop * DAY_US)
                group = [worker_of(settings, place, i) for i in range(workers)]
                through(settings, group, reader, heard, int(told[0]), console, kills)
    return heard, offline


def settings_of(bootstrap: str, redis_url: str, partitions: int) -> Settings:
    """Settings of a worker that replays; nothing of the environment enters but the transport."""
    fixed = {
        name: field.default for name, field in Settings.model_fields.items() if name != "transport"
    }
    own = {
        "bootstrap_servers": bootstrap,
        "redis_url": SecretStr(redis_url),
        "partitions": partitions,
        "alignment": "wait",
        "log_format": "console",
        "providers": "CPUExecutionProvider",
        "topic_prefix": f"replay-{time.time_ns() // 1_000_000}-",
        "group_id": f"replay-{time.time_ns() // 1_000_000}",
    }
    return load_settings(**{**fixed, **own})


def fold_model(data: Data, family: Family, fold: Fold, settings: Settings) -> NDArray[np.float32]:
    """Train a fold's model into the settings' directory; its scores of the test week's days."""
    rows = between(data.day, fold.train)
    matrix, fraud = data.matrix[rows], data.payments.fraud[rows]
    model = fit(family, matrix, fraud, 0).onnx
    score, reference = OfflineScores(model), np.median(matrix, axis=0)
    found = score(matrix)
    choice = pick(found, fraud, data.payments.amount_minor[rows], len(fold.train), RULE)
    artefact = described(
        model,
        to_npz(explainer_of(model, reference)),
        REPLAY,
        reference=reference,
        name=f"replay-{family}",
        version=f"fold-{fold.number}",
        family=family,
        thresholds=Thresholds(review=choice.review, decline=choice.decline),
        golden=golden(matrix, found),
        metrics={},
        training={},
    )
    assert settings.model is not None  # noqa: S101 -- set by the caller
    write(settings.model, artefact)
    return score(data.matrix[between(data.day, fold.test)])


def send(
    settings: Settings, data: Data, told: NDArray[np.int64], stop_day: int
) -> NDArray[np.int64]:
    """Produce the payments before a day, and the outcomes known by then; how many are sent now.

    Of a log that is out of order: those before its first payment of that day.
    """
    payments = data.payments
    stop_us = data.world.start_us + stop_day * DAY_US
    until_us = np.maximum.accumulate(payments.event_time_us)
    upto = np.searchsorted(until_us, (stop_us, stop_us - KNOWN_AFTER_US))
    rows = slice(int(told[0]), int(upto[0])), slice(int(told[1]), int(upto[1]))
    ordered = {"enable.idempotence": "true"}
    bootstrap = settings.bootstrap_servers
    fill(bootstrap, settings.topic("labels"), outcomes(payments, rows[1]), ordered)
    header = schemas.load("transaction").single_object_header
    paid = encoded(payments.take(rows[0]), "", rows[0].start, header)
    fill(bootstrap, settings.topic("transactions"), paid, ordered)
    return upto.astype(np.int64)


def declare_complete(settings: Settings, until_us: int) -> None:
    """Say of every log that nothing older comes, so that nobody waits for a quiet or empty one."""
    logs: tuple[tuple[int, Literal["transactions", "labels"]], ...] = (
        (TRANSACTIONS, "transactions"),
        (LABELS, "labels"),
    )
    declare(
        settings,
        [
            (partition, Watermark(log, end, until_us))
            for log, role in logs
            for partition, (_, end) in watermarks(settings, settings.topic(role)).items()
        ],
    )


def worker_of(settings: Settings, place: Path, number: int) -> WorkerProcess:
    """One worker of the group, with a directory of its own."""
    directory = place / f"worker-{number}"
    directory.mkdir(exist_ok=True)
    own = {"worker_id": f"worker-{number}", "http_port": free_ports(1)[0]}
    return WorkerProcess(settings.model_copy(update=own), directory)


def outcomes(payments: Payments, rows: slice) -> Iterator[tuple[bytes, bytes]]:
    """(key, value) of the payments' outcomes."""
    header = schemas.load("fraud_label").single_object_header
    columns = (payments.customer, payments.terminal, payments.event_time_us, payments.fraud)
    lists = (column[rows].tolist() for column in columns)
    for i, (customer, terminal, t, fraud) in enumerate(zip(*lists, strict=True), rows.start):
        key = str(customer)
        ids = b"".join(map(encode_string, (str(i), key, str(terminal))))
        times = encode_long(t) + encode_long(t + KNOWN_AFTER_US)
        yield key.encode(), header + ids + times + bytes([fraud]) + encode_long(CHARGEBACK)


def through(
    settings: Settings,
    group: Sequence[WorkerProcess],
    reader: ScoresReader,
    heard: Heard,
    count: int,
    console: Console,
    kills: Sequence[float],
) -> None:
    """Run workers until every payment so far has a score; raises Unavailable if they stall."""
    before = int(np.count_nonzero(heard.times))
    kill_at = [before + share * (count - before) for share in sorted(kills, reverse=True)]
    try:
        for worker in group:
            worker.start()
        moved_s = said_s = time.monotonic()
        while (done := int(np.count_nonzero(heard.times[:count]))) < count:
            found = reader.poll(POLL_S)
            now_s = time.monotonic()
            if found is not None:
                heard.add(found)
                moved_s = now_s
            elif now_s - moved_s > QUIET_S_MAX:
                raise Unavailable(
                    f"{done:,} of {count:,} payments have a score and nothing moves; {_ends(group)}"
                )
            if kill_at and done > kill_at[-1]:
                kill_at.pop()
                group[0].kill()
                group[0].start()
            if now_s - said_s > ECHO_EVERY_S:
                said_s = now_s
                console.print(f"  {done:,} scores")
        _await_commits(settings, group)
        if any([worker.finish(STOP_S_MAX) for worker in group]):  # noqa: C419 -- all must stop
            raise Unavailable(f"a worker failed at its end; {_ends(group)}")
    finally:
        for worker in group:
            worker.kill()


def _await_commits(settings: Settings, group: Sequence[WorkerProcess]) -> None:
    """Wait until nothing would be scored again by the next fold's model."""
    end_s = time.monotonic() + QUIET_S_MAX
    while behind := sum(lag(settings, settings.topic("transactions")).values()):
        if time.monotonic() > end_s:
            raise Unavailable(f"{behind:,} scored payments are not committed; {_ends(group)}")
        time.sleep(POLL_S)


def _ends(group: Sequence[WorkerProcess]) -> str:
    return "\n".join(f"the end of a worker's log:\n{worker.log_end()}" for worker in group)


def compare(data: Data, heard: Heard, offline: dict[int, NDArray[np.float32]]) -> None:
    """Raise DifferenceError, with the first difference, unless all is as the offline run has it."""
    if (heard.times == 0).any():
        raise DifferenceError(f"transaction {int(heard.times.argmin())} has no score")
    if heard.others:
        raise DifferenceError(f"{heard.others} payments were scored again with another result")
    if heard.less.any():
        raise DifferenceError(f"transaction {int(heard.less.argmax())} was degraded or shed")
    if heard.provisional.any():
        row = int(np.flatnonzero(heard.provisional)[0])
        count = int(heard.provisional.sum())
        raise DifferenceError(f"transaction {row} is provisional, and {count} in all")
    _first_difference("vector hash", heard.vector_hash, vector_hash(data.matrix), 0)
    for fold in FOLDS:
        rows = between(data.day, fold.test)
        _first_difference(
            f"score (fold {fold.number})",
            heard.score[rows].view(np.uint32),
            offline[fold.number].view(np.uint32),
            rows.start,
        )


def _first_difference(
    what: str, online: NDArray[np.unsignedinteger], offline: NDArray[np.unsignedinteger], first: int
) -> None:
    wrong = np.flatnonzero(online != offline)
    if len(wrong):
        row = int(wrong[0])
        raise DifferenceError(
            f"{what} of transaction {first + row}: {online[row]:x} through Kafka, {offline[row]:x}"
            f" offline; {len(wrong):,} of {len(online):,} differ"
        )

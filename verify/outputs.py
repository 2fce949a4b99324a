"""Scores, alerts and dead letters of a partition against its inputs: C1, C2, C3, C5, C9 and C11."""

import itertools
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from verify.avro import Fault, Writers
from verify.evidence import Record
from verify.inputs import Inputs
from verify.model import CPU, Model
from verify.report import Report
from verify.rules import MEANING, YEAR_2000_US
from verify.state import ROWS_AT_ONCE, Score, exempt
from verify.xxh64 import hash_rows

Fields = dict[str, Any]
ERROR = "riskwire.error."
ALERTS = uuid.uuid5(uuid.NAMESPACE_URL, "urn:riskwire:alert")
DECISIONS = ("APPROVE", "REVIEW", "DECLINE")
TYPES = ("NOT_AVAILABLE", "CREATE_TIME", "LOG_APPEND_TIME")
INSTANTS = ("event_time", "append_time", "polled", "decoded", "enriched", "scored", "emitted")
YEAR_2200_US = 7_258_118_400_000_000
CLOCK_STEP_US = 2_000_000
"""So far a worker's clock may be set back between two stages."""
SAME_IN_ALERT = (
    "score", "decision", "model_id", "feature_contract_id", "degraded", "provisional", "provider",
    "vector_hash", "latency",
)  # fmt: skip


@dataclass(slots=True)
class Order:
    """C2 and C3 of one topic's partition: sources rise, none comes twice."""

    report: Report
    topic: str
    partition: int
    seen: set[int] = field(default_factory=set)
    last: int = -1

    def add(self, source_partition: int, source: int, at: int) -> None:
        """The output at an offset is of this source."""
        self.report.checked["C2"] += 1
        self.report.checked["C3"] += 1
        if source_partition != self.partition:
            text = f"its source is in partition {source_partition}"
            self.report.add("C3", self.topic, self.partition, at, text)
            return
        if source in self.seen:
            self.report.add("C2", self.topic, self.partition, at, f"source {source} once more")
        elif source < self.last:
            text = f"source {source} after {self.last}"
            self.report.add("C3", self.topic, self.partition, at, text)
        self.seen.add(source)
        self.last = max(self.last, source)


@dataclass(slots=True)
class Outputs:
    """What a partition's records led to."""

    partition: int
    topics: Mapping[str, str]
    model: Model
    report: Report
    payments: Inputs
    labels: Inputs
    scores: dict[int, Score] = field(default_factory=dict)
    letters: dict[str, Order] = field(default_factory=dict)

    def read_letters(self, records: Iterable[Record]) -> None:
        """Dead letters: of which record, with its bytes, and for the right cause."""
        inputs = {self.topics["transactions"]: self.payments, self.topics["labels"]: self.labels}
        name = self.topics["dead_letters"]
        self.letters = {topic: Order(self.report, name, self.partition) for topic in inputs}
        for record in records:
            self.report.counts["dead letters"] += 1
            headers = dict(record.headers)
            topic = (headers.get(ERROR + "source.topic") or b"").decode()
            try:
                source = int(headers.get(ERROR + "source.offset") or b"")
                partition = int(headers.get(ERROR + "source.partition") or b"")
            except ValueError:
                topic = ""
            if topic not in inputs:
                self._wrong("C1", name, record.offset, "no source that can be read")
                continue
            self.letters[topic].add(partition, source, record.offset)
            if partition == self.partition:
                self._check_letter(inputs[topic], source, record)

    def _check_letter(self, inputs: Inputs, source: int, record: Record) -> None:
        name, headers = self.topics["dead_letters"], dict(record.headers)
        code = (headers.get(ERROR + "code") or b"").decode()
        if source in inputs.place:
            text = f"{code} for source {source}, which is a record to accept"
            self._wrong("C1", name, record.offset, text)
            return
        if source not in inputs.rejects:
            self._wrong("C1", name, record.offset, f"there is no source {source}")
            return
        wanted, original = inputs.rejects[source]
        stage = (headers.get(ERROR + "stage") or b"").decode()
        if code != wanted or stage != ("validate" if wanted in MEANING else "decode"):
            text = f"source {source}: {code} ({stage}), expected {wanted}"
            self._wrong("C1", name, record.offset, text)
        if ERROR + "omitted" in headers:
            return
        kept = [header for header in original.headers if header not in record.headers]
        lost = [name for name, _ in kept if not name.startswith(ERROR)]
        if (record.key, record.value) != (original.key, original.value) or lost:
            self._wrong("C1", name, record.offset, f"source {source}: other bytes than it had")

    def read_scores(self, records: Iterable[Record], writers: Writers, alerts: "Alerts") -> None:
        """Scores: of which record, in order, with their alert."""
        name = self.topics["scores"]
        order = Order(self.report, name, self.partition)
        for record in records:
            self.report.counts["scores"] += 1
            fields = _fields(record, writers)
            if fields is None:
                self._wrong("C1", name, record.offset, "no score that can be read")
                continue
            source = fields["source_offset"]
            order.add(fields["source_partition"], source, record.offset)
            if fields["source_partition"] != self.partition:
                continue
            self._check_source(fields, record)
            self._check_latency(fields, record.offset)
            self._check_decision(fields, record.offset)
            alerts.check(fields, source)
            why = exempt(fields)
            if why:
                self.report.counts[f"{why} scores"] += 1
            if fields["model_id"] != self.model.id:
                text = f"model {fields['model_id']}, expected {self.model.id}"
                self._wrong("C8", name, record.offset, text)
                why = why or "model"
            provider = fields["provider"]
            if provider != CPU:
                self.report.counts[f"scores by {provider}"] += 1
            hash_ = fields["vector_hash"]
            self.scores[source] = Score(fields["score"], hash_, bool(why), provider, record.offset)
        alerts.check_rest(self.scores)

    def _check_source(self, fields: Fields, record: Record) -> None:
        name, its = self.topics["scores"], self.payments
        source, at = fields["source_offset"], record.offset
        if source not in its.place:
            code = its.rejects[source][0] if source in its.rejects else ""
            what = f"is to be rejected: {code}" if code else "is not there"
            self._wrong("C1", name, at, f"a score for source {source}, which {what}")
            return
        i, latency = its.place[source], fields["latency"]
        found = (
            fields["transaction_id"], fields["customer_id"], (record.key or b"").decode(),
            latency["event_time"], latency["append_time"], latency["append_time_type"],
        )  # fmt: skip
        wanted = (
            its.transaction[i], its.customer[i], its.customer[i],
            its.event_us[i], its.append_us[i], TYPES[its.append_type[i]],
        )  # fmt: skip
        if found != wanted:
            self._wrong("C1", name, at, f"source {source}: {found}, expected {wanted}")

    def _check_latency(self, fields: Fields, at: int) -> None:
        self.report.checked["C11"] += 1
        times = [fields["latency"][name] for name in INSTANTS]
        ours = times[2:]
        sane = all(YEAR_2000_US <= t <= YEAR_2200_US for t in times)
        steps = itertools.pairwise(ours)
        if not sane or any(later < before - CLOCK_STEP_US for before, later in steps):
            text = f"instants {dict(zip(INSTANTS, times, strict=True))}"
            self._wrong("C11", self.topics["scores"], at, text)

    def _check_decision(self, fields: Fields, at: int) -> None:
        self.report.checked["C9"] += 1
        wanted = DECISIONS[self.model.decision(fields["score"])]
        if fields["decision"] != wanted:
            text = f"{fields['decision']} at a score of {fields['score']!r}, expected {wanted}"
            self._wrong("C9", self.topics["scores"], at, text)
        if not 0 <= fields["score"] <= 1:
            self._wrong("C8", self.topics["scores"], at, f"{fields['score']} is no probability")

    def check_complete(self, committed: Mapping[str, int], *, drained: bool) -> None:
        """C1 and C5: every committed offset led to one output, no other to any."""
        letters = {
            "transactions": self.letters[self.topics["transactions"]].seen,
            "labels": self.letters[self.topics["labels"]].seen,
        }
        for role, inputs in (("transactions", self.payments), ("labels", self.labels)):
            name, c = self.topics[role], max(committed[role], 0)
            self.report.counts[role] += len(inputs)
            self.report.checked["C1"] += len(inputs)
            self.report.checked["C5"] += 1
            for offset in inputs:
                has_letter = offset in letters[role]
                has_score = role == "transactions" and offset in self.scores
                answered = has_letter or has_score or (role == "labels" and offset in inputs.place)
                if has_letter and has_score:
                    self._wrong("C1", name, offset, "a score and a dead letter")
                if not answered and (drained or offset < c):
                    self._wrong("C1", name, offset, "neither a score nor a dead letter"
                                if role == "transactions" else "no dead letter")  # fmt: skip
                if (has_letter or has_score) and offset >= c:
                    text = f"it has its output, but committed is {c}"
                    self._wrong("C5", name, offset, text)
            if drained and c < inputs.next_offset:
                text = f"committed is {c}, the records end at {inputs.next_offset}"
                self._wrong("C5", name, c, text)

    def _wrong(self, law: str, topic: str, offset: int, text: str) -> None:
        self.report.add(law, topic, self.partition, offset, text)


class Alerts:
    """A partition's alerts, kept as bytes until the score comes that each belongs to."""

    def __init__(
        self, partition: int, topics: Mapping[str, str], model: Model, report: Report,
        writers: Writers,
    ) -> None:  # fmt: skip
        self._partition, self._topics, self._model = partition, topics, model
        self._report, self._writers = report, writers
        self.records: dict[int, Record] = {}
        self._rows: list[tuple[list[float], float, int]] = []
        self.kept: Mapping[int, Fields] = {}
        """The transactions of these sources."""

    def read(self, records: Iterable[Record]) -> None:
        """Read all; their sources are `records`' keys."""
        name = self._topics["alerts"]
        order = Order(self._report, name, self._partition)
        for record in records:
            self._report.counts["alerts"] += 1
            fields = _fields(record, self._writers)
            if fields is None or fields["source_topic"] != self._topics["transactions"]:
                self._wrong(record.offset, "no alert of ours that can be read")
                continue
            order.add(fields["source_partition"], fields["source_offset"], record.offset)
            self.records[fields["source_offset"]] = record

    def check(self, score: Fields, source: int) -> None:
        """The alert of a score, or that there is none."""
        record = self.records.get(source)
        level = DECISIONS.index(score["decision"])
        self._report.checked["C9"] += 1
        if record is None:
            if level:
                text = f"{score['decision']} of source {source} without an alert"
                self._report.add("C9", self._topics["transactions"], self._partition, source, text)
            return
        if not level:
            self._wrong(record.offset, f"an alert of source {source}, which is approved")
        its: Fields = _fields(record, self._writers) or {}
        differ = [name for name in SAME_IN_ALERT if its[name] != score[name]]
        topic = self._topics["transactions"]
        wanted = {
            "alert_id": str(uuid.uuid5(ALERTS, f"{topic}/{self._partition}/{source}")),
            "threshold": float(self._model.thresholds[level]),
            "transaction": self.kept.get(source),
        }
        differ += [name for name, value in wanted.items() if its[name] != value]
        row = np.array([its["features"]], np.float32)
        if hash_rows(row).astype(">u8").tobytes() != its["vector_hash"]:
            differ.append("features")
        elif its["provider"] == CPU and its["model_id"] == self._model.id:
            self._rows.append((its["features"], its["score"], record.offset))
        if differ:
            self._wrong(record.offset, f"source {source}: other than expected: {', '.join(differ)}")

    def check_rest(self, scores: Mapping[int, Score]) -> None:
        """Alerts without a score; and C8 of all alerts, whose vectors are in them."""
        for first in range(0, len(self._rows), ROWS_AT_ONCE):
            some = self._rows[first : first + ROWS_AT_ONCE]
            found = self._model.scores(np.array([row for row, _, _ in some], np.float32))
            for score, (_, said, at) in zip(found, some, strict=True):
                self._report.checked["C8"] += 1
                if np.float32(said) != score:
                    text = f"score {said!r}, the model gives {float(score)!r} for its features"
                    name = self._topics["alerts"]
                    self._report.add("C8", name, self._partition, at, text)
        for source, record in self.records.items():
            if source not in scores:
                self._wrong(record.offset, f"an alert of source {source}, which has no score")

    def _wrong(self, at: int, text: str) -> None:
        self._report.add("C9", self._topics["alerts"], self._partition, at, text)


def _fields(record: Record, writers: Writers) -> Fields | None:
    try:
        return writers.read(record.value) if record.value else None
    except Fault:
        return None

"""The eleven laws, stated of evidence: `judge` reads it partition by partition and reports."""

import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from verify.avro import Fault, Schema, Writers
from verify.evidence import CannotDecide, Evidence, Record
from verify.inputs import Inputs, Logs, Told
from verify.model import SHIPPED, Model
from verify.outputs import Alerts, Outputs
from verify.recompute import Log
from verify.report import Report
from verify.settings import ROLES, SCHEMAS, Settings
from verify.state import Meta, Replay, check_meta

OUTPUTS = ("scores", "alerts", "dead_letters", "watermarks")
INPUTS = ("transactions", "labels")
FOLDER = Path(__file__).parent.parent / "schemas"
Seen = Mapping[tuple[str, int], Mapping[int, int]]
"""What a reader beside has seen: by topic and partition, offsets with a checksum of each record."""


def judge(
    evidence: Evidence, settings: Settings, *, drained: bool = True, seen: Seen | None = None
) -> Report:
    """State the laws. `drained`: the workers were given time to answer everything.

    Raises CannotDecide where a topic lacks its beginning or the model is another's.
    """
    for role in ROLES:
        for p in range(settings.partitions):
            first = evidence.ends(role, p).first
            if first:
                raise CannotDecide(
                    f"{settings.topics[role]}/{p} begins at {first}: what came before is needed to"
                    " recompute; give the topics a longer retention"
                )
    return _Judge(evidence, settings, Model(Path(settings.model or SHIPPED)), seen).run(
        drained=drained
    )


def schema(name: str) -> Schema:
    """One of the contract's schemas."""
    return Schema((FOLDER / f"{name}.avsc").read_text("utf-8"))


def checksum(record: Record) -> int:
    """Of a record's key and value."""
    return zlib.crc32(record.value or b"", zlib.crc32(record.key or b""))


@dataclass(slots=True)
class _Part:
    """A partition between reading its inputs and its outputs."""

    payments: Inputs
    labels: Inputs
    told: Told
    alerts: Alerts


class _Judge:
    def __init__(
        self, evidence: Evidence, settings: Settings, model: Model, seen: Seen | None
    ) -> None:
        self.evidence, self.settings, self.model, self.seen = evidence, settings, model, seen
        self.report = Report()
        self.namespace = model.contract_id + (
            f".{settings.namespace}" if settings.namespace else ""
        )
        registry = getattr(evidence, "schema_text", None)
        self.writers: dict[str, Writers] = {}
        for role, name in zip(ROLES, SCHEMAS, strict=True):
            if name:
                bundled = schema(name)
                text = (FOLDER / f"{name}.avsc").read_text("utf-8")
                ours = role not in INPUTS and not settings.registry_url
                own = (lambda _, text=text: text) if ours else None
                self.writers[role] = Writers(bundled, own or registry or (lambda _: None))
        self.marks: dict[tuple[int, str], list[tuple[int, int, int]]] = {}

    def run(self, *, drained: bool) -> Report:
        """All partitions' inputs first: a terminal is at home in all of them."""
        settings, blobs = self.settings, {}
        for p in range(settings.partitions):
            blobs[p] = dict(self.evidence.blobs(b"rw:{p%d}:%b:" % (p, self.namespace.encode())))
        metas = {p: Meta.parse(its.pop(self._meta_key(p), None)) for p, its in blobs.items()}
        logs = Logs(settings, self.model.timing)
        self._read_marks()
        parts = {p: self._inputs(p, logs, metas[p]) for p in range(settings.partitions)}
        for p, part in parts.items():
            committed = {role: self.evidence.committed(role, p) for role in INPUTS}
            its = Outputs(p, settings.topics, self.model, self.report, part.payments, part.labels)
            its.read_letters(self._records("dead_letters", p))
            its.read_scores(self._records("scores", p), self.writers["scores"], part.alerts)
            its.check_complete(committed, drained=drained)
            ends = (part.payments.next_offset, part.labels.next_offset)
            pair = (committed["transactions"], committed["labels"])
            check_meta(p, metas[p], ends, pair, settings.partitions, self.marks, self.report,
                       drained=drained)  # fmt: skip
            Replay(
                p, settings.topics, self.namespace, self.model.timing, self.model, self.report
            ).run(part.payments, logs.places, self._log(p, "TRANSACTIONS"), metas[p], part.told,
                  blobs[p], its.scores)  # fmt: skip
            self._check_open(p)
        return self.report

    def _meta_key(self, partition: int) -> bytes:
        return b"rw:{p%d}:%b:meta" % (partition, self.namespace.encode())

    def _inputs(self, p: int, logs: Logs, meta: Meta) -> _Part:
        alerts = Alerts(p, self.settings.topics, self.model, self.report, self.writers["alerts"])
        alerts.read(self._records("alerts", p))
        labels, told = logs.labels(
            p, self._records("labels", p), self.writers["labels"], self._log(p, "LABELS"),
            meta.next_offset[1],
        )  # fmt: skip
        payments = logs.payments(
            p, self._records("transactions", p), self.writers["transactions"],
            self._log(p, "TRANSACTIONS"), alerts.records.keys(),
        )  # fmt: skip
        alerts.kept = payments.kept
        return _Part(payments, labels, told, alerts)

    def _read_marks(self) -> None:
        writers = self.writers["watermarks"]
        for p in range(self.settings.partitions):
            self.marks |= {(p, "TRANSACTIONS"): [], (p, "LABELS"): []}
            for record in self._records("watermarks", p):
                self.report.counts["watermarks"] += 1
                try:
                    mark = writers.read(record.value or b"\xff")
                except Fault as fault:
                    self.report.add("C1", self.settings.topics["watermarks"], p, record.offset,
                                    f"no watermark that can be read: {fault.code}")  # fmt: skip
                    continue
                if mark["group"] == self.settings.group:
                    its = (mark["position"], mark["until"], record.offset)
                    self.marks[p, mark["log"]].append(its)

    def _log(self, partition: int, name: str) -> Log:
        marks = [(position, until) for position, until, _ in self.marks[partition, name]]
        return Log(self.model.timing, marks)

    def _records(self, role: str, partition: int) -> Iterable[Record]:
        records = self.evidence.records(role, partition)
        if self.seen is None or role not in OUTPUTS:
            return records
        topic = self.settings.topics[role]
        return self._compared(records, topic, partition, self.seen.get((topic, partition), {}))

    def _compared(
        self, records: Iterable[Record], topic: str, partition: int, seen: Mapping[int, int]
    ) -> Iterator[Record]:
        """The same records; C4 on the way."""
        last, met = max(seen, default=-1), set()
        for record in records:
            yield record
            met.add(record.offset)
            if record.offset <= last:
                self.report.checked["C4"] += 1
                if seen.get(record.offset) != checksum(record):
                    what = "other bytes" if record.offset in seen else "nothing"
                    text = f"the reader beside has seen {what}"
                    self.report.add("C4", topic, partition, record.offset, text)
        for offset in sorted(seen.keys() - met):
            text = "the reader beside has seen it, now it is not there"
            self.report.add("C4", topic, partition, offset, text)

    def _check_open(self, partition: int) -> None:
        for role in OUTPUTS:
            ends = self.evidence.ends(role, partition)
            self.report.checked["C10"] += 1
            if ends.stable != ends.end:
                text = f"an open transaction: readable up to {ends.stable} of {ends.end}"
                topic = self.settings.topics[role]
                self.report.add("C10", topic, partition, ends.stable, text)

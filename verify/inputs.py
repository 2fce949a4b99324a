"""The two input logs in columns, each record with its verdict, and what terminals get of them."""

from array import array
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field

from features.contract import Timing
from verify import rules
from verify.avro import Fault, Writers
from verify.evidence import Record
from verify.recompute import Image, Log, Outcomes, Place, Visible
from verify.settings import Settings
from verify.xxh64 import hash_bytes

TAG_MASK = 0xFFFF_FFFF


@dataclass(slots=True)
class Inputs:
    """A log's partition: which offsets it has, and what must become of each.

    Of accepted transactions, in order: `offset`, times in us, amounts, and the three identifiers.
    `place` is where in these columns an offset lies (of labels, which have none, 0). `rejects` are
    all other offsets with their code; `kept` the fields of those that were asked for.
    """

    offset: "array[int]" = field(default_factory=lambda: array("q"))
    event_us: "array[int]" = field(default_factory=lambda: array("q"))
    append_us: "array[int]" = field(default_factory=lambda: array("q"))
    append_type: "array[int]" = field(default_factory=lambda: array("b"))
    amount: "array[int]" = field(default_factory=lambda: array("q"))
    transaction: list[str] = field(default_factory=list)
    customer: list[str] = field(default_factory=list)
    terminal: list[str] = field(default_factory=list)
    place: dict[int, int] = field(default_factory=dict)
    rejects: dict[int, tuple[str, Record]] = field(default_factory=dict)
    kept: dict[int, rules.Fields] = field(default_factory=dict)
    next_offset: int = 0

    def __len__(self) -> int:
        return len(self.place) + len(self.rejects)

    def __iter__(self) -> Iterator[int]:
        """Every offset."""
        yield from self.place
        yield from self.rejects


@dataclass(frozen=True, slots=True)
class Told:
    """What a partition's state must hold of its labels: rows by terminal, and the log's times."""

    rows: dict[str, Image]
    newest_us: int


class Logs:
    """What came in, as far as it was `add`ed; `places` is what it leaves at each terminal."""

    def __init__(self, settings: Settings, timing: Timing) -> None:
        self.settings, self.timing = settings, timing
        self.places: dict[str, Place] = {}
        self._names: dict[str, str] = {}

    def payments(
        self, partition: int, records: Iterable[Record], writers: Writers, log: Log,
        keep: Collection[int],
    ) -> Inputs:  # fmt: skip
        """Read a partition's transactions; `keep` are the offsets whose fields are wanted again."""
        its, name = Inputs(), self._names.setdefault
        for record in records:
            its.next_offset = record.offset + 1
            try:
                fields = rules.transaction(record, writers, self.settings)
            except Fault as fault:
                its.rejects[record.offset] = (fault.code, record)
                continue
            t, terminal = fields["event_time"], fields["terminal_id"]
            its.place[record.offset] = len(its.offset)
            its.offset.append(record.offset)
            its.event_us.append(t)
            its.append_us.append(rules.append_us(record))
            its.append_type.append(record.timestamp_type)
            its.amount.append(fields["amount_minor"])
            its.transaction.append(fields["transaction_id"])
            its.customer.append(name(fields["customer_id"], fields["customer_id"]))
            its.terminal.append(name(terminal, terminal))
            if record.offset in keep:
                its.kept[record.offset] = fields
            events = self._place(terminal).events
            if partition not in events:
                events[partition] = Visible()
            events[partition].add(t, log.seen_us(record.offset, t))
        return its

    def labels(
        self, partition: int, records: Iterable[Record], writers: Writers, log: Log, until: int
    ) -> tuple[Inputs, Told]:
        """Read a partition's labels, and what state must hold that has those before `until`."""
        its, told = Inputs(), None
        for record in records:
            if told is None and record.offset >= until:
                told = self._told(partition, log)
            its.next_offset = record.offset + 1
            try:
                fields = rules.label(record, writers, self.settings)
            except Fault as fault:
                its.rejects[record.offset] = (fault.code, record)
                continue
            its.place[record.offset] = 0
            outcomes = self._place(fields["terminal_id"]).outcomes
            if partition not in outcomes:
                outcomes[partition] = Outcomes(self.timing)
            outcomes[partition].remember(
                fields["event_time"],
                log.seen_us(record.offset, fields["known_at"]),
                hash_bytes(fields["transaction_id"].encode()) & TAG_MASK,
                fraud=fields["fraud"],
            )
        return its, told or self._told(partition, log)

    def _place(self, terminal: str) -> Place:
        if terminal not in self.places:
            self.places[terminal] = Place({}, {})
        return self.places[terminal]

    def _told(self, partition: int, log: Log) -> Told:
        rows = {
            terminal: place.outcomes[partition].image()
            for terminal, place in self.places.items()
            if partition in place.outcomes and place.outcomes[partition].row
        }
        return Told(rows, log.newest_us)

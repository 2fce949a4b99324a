"""Writer schemas compiled against the reader's: the plans that the decoder's loop interprets.

In: parsed schemas of a writer and of the reader. Out: flat integers for the loop, which
`app.writers` puts together for all writers. `SchemaError` refuses a schema that no record
can be read by safely: recursive, unbounded, too large, or not resolvable to the reader's by Avro's
rules. `PlanGap` is inner: a legal schema beyond the loop, whose records go to the twin.

A plan is a graph of instructions of four words: op, a, b, next. Each instruction either reads at
least one byte or writes a default, and the only way back is from one array item to the next: so the
time for a value is bounded by its length.
"""

import enum
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from app.errors import SchemaError
from app.records import STRING_FIELDS, Int64s
from app.schema_lint import DEPTH_MAX, kind_of, lint

ENUM_FIELD = "channel"
LONG_SLOTS = {"event_time": 0, "amount_minor": 1}
CHANNEL_SLOT = 2
STRING_SLOTS = {name: 3 + 2 * k for k, name in enumerate(STRING_FIELDS)}
LABEL_KINDS = {
    **dict.fromkeys(("transaction_id", "customer_id", "terminal_id"), "string"),
    "event_time": "long",
    "known_at": "long",
    "fraud": "boolean",
    "source": "enum",
}
"""The reader's fields of a label. Its plans only say which writers resolve, and which alike."""
NUMBER_SLOTS = LONG_SLOTS | {"known_at": 1, "fraud": STRING_SLOTS["device_id"]}
SKIP_SLOT = 17
LOOP_SLOT = 19
LOOPS_MAX = DEPTH_MAX
SLOTS = LOOP_SLOT + 2 * LOOPS_MAX
"""The loop reads each row into these numbers: long fields, channel, start and length of strings,
what is skipped, and for each nested array or map the items left of a block and its end."""


class Op(enum.IntEnum):
    """Instructions; a place counts words from the plan's begin, a slot is one of a row's."""

    LONG = 0  # 64-bit integer into slot a; the first ones all begin by reading a number
    INT = 1  # 32-bit integer into slot a
    STRING = 2  # UTF-8, its start and length into slots a and a + 1
    BYTES = 3  # skip bytes
    UNION = 4  # go on where the table at place a says for the branch read, of b
    ENUM = 5  # enum of b symbols into CHANNEL_SLOT, by the table at place a; -1: no such symbol
    INDEX = 6  # skip an enum of b symbols
    BLOCK = 7  # a block of the loop in slots a and a + 1: items begin at place b; empty: loop ends
    NEXT = 8  # an item of that loop was read: the next one is at place b, the next block at next
    NULL = 9  # null into slots a and a + 1
    CHANNEL = 10  # a into CHANNEL_SLOT
    FIXED = 11  # skip as many bytes as a says
    BOOLEAN = 12  # skip a boolean
    REJECT = 13  # the writer took a branch that the reader's type cannot hold
    END = 14  # the value ends here


class _MismatchError(SchemaError):
    """The types do not resolve; in a union only the records that take the branch suffer."""


class PlanGap(Exception):  # noqa: N818 -- no error: the signal that the twin must take over
    """The schema is legal but the loop does not cover it."""


def _unqualified(name: str) -> str:
    return name.rpartition(".")[2]


_SCALED = ("decimal", "date", "time-", "timestamp-", "local-timestamp-", "duration")


def _check_logical(writer: Any, reader: Any) -> None:
    """Avro ignores logical types here; milliseconds read as microseconds would pass unseen."""
    theirs = writer.get("logicalType", "") if isinstance(writer, dict) else ""
    ours = reader.get("logicalType", "") if isinstance(reader, dict) else ""
    if theirs != ours and str(theirs).startswith(_SCALED):
        raise SchemaError(f"the writer's {theirs} is not the reader's {ours or kind_of(reader)}")


_MEASURES = ("unit", "units", "scale", "exponent")


def _check_measure(writer: Any, reader: Any) -> None:
    """Properties of a field beside Avro's; cents read as euros would pass unseen."""
    for name in _MEASURES:
        if name in writer and writer[name] != reader.get(name):
            raise SchemaError(
                f"{reader['name']}: the writer's {name} is {writer[name]!r}, the reader's"
                f" {reader.get(name)!r}"
            )


END_AT, REJECT_AT = 1, 5
_NUMBERS_BYTES = {"float": 4, "double": 8}


@dataclass(slots=True)
class _Assembly:
    """Builds a plan from its end: each step takes the next instruction and returns its own.

    `names` are the writer's named types; the schema has passed `_Lint`. `words` begins with the
    place of the first instruction; tables lie wherever they came to lie.
    """

    names: dict[str, Any]
    words: list[int] = field(default_factory=lambda: [0, Op.END, 0, 0, 0, Op.REJECT, 0, 0, 0])

    def add(self, op: Op, then: int, a: int = 0, b: int = 0) -> int:
        """Append an instruction; its place."""
        self.words += [op, a, b, then]
        return len(self.words) - 4

    def skip(self, schema: Any, then: int, loop: int = 0) -> int:
        """Read a value strictly and keep nothing."""
        schema = self._named(schema)
        match kind := kind_of(schema):
            case "null":
                pass
            case "record":
                for each in reversed(schema["fields"]):
                    then = self.skip(each["type"], then, loop)
            case "union":
                then = self._jump([self.skip(branch, then, loop) for branch in schema], then)
            case "array" | "map":
                then = self._loop(schema, then, loop)
            case "enum":
                then = self.add(Op.INDEX, then, 0, len(schema["symbols"]))
            case "fixed":
                then = self.add(Op.FIXED, then, schema["size"]) if schema["size"] else then
            case "float" | "double":
                then = self.add(Op.FIXED, then, _NUMBERS_BYTES[kind])
            case _:
                then = self.add(Op[kind.upper()], then, SKIP_SLOT)
        return then

    def resolve(self, writer: Any, reader: Any, then: int, where: str) -> int:
        """Read a value of the writer's type into the column that `where` names."""
        writer = self._named(writer)
        if isinstance(writer, list):
            return self._resolve_union(writer, reader, then, where)
        if isinstance(reader, list):
            return self._resolve_nullable(writer, reader, then, where)
        _check_logical(writer, reader)
        match kind_of(writer), kind_of(reader):
            case "record", "record":
                return self._resolve_record(writer, reader, then)
            case (("int" | "long") as kind, "long") | ("boolean" as kind, "boolean"):
                return self.add(Op[kind.upper()], then, NUMBER_SLOTS[where])
            case (("string" | "bytes"), "string"):
                return self.add(Op.STRING, then, STRING_SLOTS[where])
            case "enum", "enum":
                return self._resolve_enum(writer, reader, then)
        raise _MismatchError(
            f"{where}: the writer's {kind_of(writer)} is not the reader's {kind_of(reader)}"
        )

    def _named(self, schema: Any) -> Any:
        return self.names.get(schema, schema) if isinstance(schema, str) else schema

    def _table(self, entries: list[int]) -> int:
        self.words += entries
        return len(self.words) - len(entries)

    def _jump(self, entries: list[int], then: int) -> int:
        return self.add(Op.UNION, then, self._table(entries), len(entries))

    def _loop(self, schema: Any, then: int, loop: int) -> int:
        if loop == LOOPS_MAX:
            raise PlanGap(f"arrays and maps nested deeper than {LOOPS_MAX}")
        block = self.add(Op.BLOCK, then, LOOP_SLOT + 2 * loop)
        after = self.add(Op.NEXT, block, LOOP_SLOT + 2 * loop)
        if kind_of(schema) == "array":
            body = self.skip(schema["items"], after, loop + 1)
        else:
            values = self.skip(schema["values"], after, loop + 1)
            body = self.add(Op.STRING, values, SKIP_SLOT)
        self.words[block + 2] = self.words[after + 2] = body
        return block

    def _resolve_union(self, writer: Any, reader: Any, then: int, where: str) -> int:
        entries, causes = [], []
        for branch in writer:
            try:
                entries.append(self.resolve(branch, reader, then, where))
            except _MismatchError as error:
                causes.append(error)
                entries.append(REJECT_AT)
        if len(causes) == len(writer):
            raise causes[-1]
        return self._jump(entries, then)

    def _resolve_nullable(self, writer: Any, reader: Any, then: int, where: str) -> int:
        if kind_of(writer) == "null":
            return self.add(Op.NULL, then, STRING_SLOTS[where])
        value = next(branch for branch in reader if branch != "null")
        return self.resolve(writer, value, then, where)

    def _resolve_enum(self, writer: Any, reader: Any, then: int) -> int:
        _check_names(writer, reader)
        known, theirs = reader["symbols"], writer["symbols"]
        other = known.index(reader["default"]) if "default" in reader else -1
        table = [known.index(symbol) if symbol in known else other for symbol in theirs]
        return self.add(Op.ENUM, then, self._table(table), len(theirs))

    def _resolve_record(self, writer: Any, reader: Any, then: int) -> int:
        _check_names(writer, reader)
        sources = _match_fields(writer, reader)
        for each in reversed(writer["fields"]):
            target = sources.get(each["name"])
            if target is None:
                then = self.skip(each["type"], then)
            else:
                then = self.resolve(each["type"], target["type"], then, target["name"])
        found = [target["name"] for target in sources.values()]
        for target in reader["fields"]:
            if target["name"] not in found:
                then = self._default(target, then)
        return then

    def _default(self, target: Any, then: int) -> int:
        name = target["name"]
        if "default" not in target:
            raise SchemaError(f"{name}: the writer lacks this field, and it has no default")
        if target["default"] is None:
            return self.add(Op.NULL, then, STRING_SLOTS[name])
        if kind_of(target["type"]) == "enum":
            symbols = target["type"]["symbols"]
            return self.add(Op.CHANNEL, then, symbols.index(target["default"]))
        raise PlanGap(f"{name}: a default that is a string or a number")


def _check_names(writer: Any, reader: Any) -> None:
    name, accepted = writer["name"], [*reader.get("aliases", ()), _unqualified(reader["name"])]
    if name not in accepted and _unqualified(name) not in accepted:
        raise _MismatchError(
            f"the writer's {name} is neither the reader's {reader['name']} nor an alias"
        )


def _match_fields(writer: Any, reader: Any) -> dict[str, Any]:
    """The reader's field by the name of the writer's field that feeds it."""
    theirs = {each["name"] for each in writer["fields"]}
    sources: dict[str, Any] = {}
    for target in reader["fields"]:
        names = [name for name in (target["name"], *target.get("aliases", ())) if name in theirs]
        if len(names) > 1:
            raise SchemaError(f"{target['name']}: the writer has it under several names: {names}")
        if names:
            sources[names[0]] = target
    found = {target["name"] for target in sources.values()}
    for each in writer["fields"]:
        source = sources.get(each["name"])
        if source is not None:
            _check_measure(each, source)
        elif lost := {target["name"] for target in reader["fields"]} - found & {
            *each.get("aliases", ())
        }:
            raise SchemaError(
                f"{each['name']}: renamed from {min(lost)}, and the reader knows the old name only"
            )
    return sources


def _check_reader(reader: Any) -> None:
    """The reader's fields must be the columns of `records.Transactions`, or those of a label."""
    found = {each["name"]: set(_kinds(each["type"])) for each in reader["fields"]}
    if found == {name: {kind} for name, kind in LABEL_KINDS.items()}:
        return
    strings = all(found.pop(name, set()) - {"null"} == {"string"} for name in STRING_FIELDS)
    if not strings or found != {**{name: {"long"} for name in LONG_SLOTS}, ENUM_FIELD: {"enum"}}:
        raise SchemaError("the reader's fields are not the columns of a transaction or label")


def _kinds(schema: Any) -> list[str]:
    return [kind_of(branch) for branch in (schema if isinstance(schema, list) else [schema])]


def compile_plan(writer: Any, reader: Any) -> Int64s:
    """Compile a writer schema, parsed by fastavro, against the reader's; places count from 0.

    Raises SchemaError where the writer cannot be used and PlanGap where only the twin can read it.
    """
    _check_reader(reader)
    assembly = _Assembly(lint(writer))
    assembly.words[0] = assembly.resolve(writer, reader, END_AT, "transaction")
    return np.array(assembly.words, np.int64)

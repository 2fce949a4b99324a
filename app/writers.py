"""The writer schemas that are known, and their plans together, as the decoder's loop wants them.

In: the JSON text of writer schemas, by registry id or by fingerprint. Out: `Program`, flat integers
for the loop, and for each writer what the twin needs. Raises SchemaError for a schema that no
record can be read by safely (see `avro_plan`). Pure.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

import schemas
from app.avro_plan import PlanGap, compile_plan
from app.errors import SchemaError
from app.records import Int64s
from app.schema_lint import lint

TEXT_BYTES_MAX = 262_144
UNKNOWN_IDS_MAX = 65_536
"""Not below the largest micro-batch: all unknown ids of one batch must be remembered together."""

CONFLUENT, SINGLE_OBJECT = range(2)
"""The two framings: keys of `Writers` are registry ids or fingerprints."""

REFUSED, SLOW, UNKNOWN = -4, -2, -1
"""Instead of a plan's place in `Program.code`: decode with the twin; or reject."""


class Program(NamedTuple):
    """All plans behind each other, and the sorted keys that lead to them, for the decoder's loop.

    A base is where a plan's words begin in `code` (its places count from there), SLOW,
    UNKNOWN or REFUSED.
    Fingerprints are int64 bit patterns.
    """

    code: Int64s
    ids: Int64s
    id_bases: Int64s
    fingerprints: Int64s
    fingerprint_bases: Int64s


@dataclass(frozen=True, slots=True, eq=False)
class WriterSchema:
    """A writer schema that can be decoded by: its plan, or None where only the twin covers it.

    `bare` is the parsed schema without logical types (fastavro would turn numbers into dates and
    fail on wild ones); `names` are its named types.
    """

    bare: Any
    names: dict[str, Any]
    plan: Int64s | None


class Writers:
    """The writer schemas known so far, by registry id and by fingerprint; the bundled one always.

    Not thread-safe: schemas are added by whoever calls `decode`, between two calls.
    """

    def __init__(self, reader: schemas.Schema | None = None, name: str = "transaction") -> None:
        """Know the bundled schema `name`, which is also the reader's if no other is given."""
        bundled = schemas.load(name)
        self.reader = reader or bundled
        self.reader_bare = schemas.without_logical_types(self.reader.text)
        self._known: tuple[dict[int, WriterSchema], dict[int, WriterSchema]] = {}, {}
        self._unknown: dict[int, None] = {}
        self._refused: dict[int, None] = {}
        self._program: Program | None = None
        self.add_fingerprint(bundled)

    def add_fingerprint(self, schema: schemas.Schema) -> None:
        """Know a writer of Avro's single-object encoding; raises SchemaError."""
        self._known[SINGLE_OBJECT][schema.fingerprint] = self._compile(schema.text)
        self._program = None

    def add_id(self, schema_id: int, text: str) -> None:
        """Know the writer that the registry gives for an id; raises SchemaError."""
        self._known[CONFLUENT][schema_id] = self._compile(text)
        self._unknown.pop(schema_id, None)
        self._refused.pop(schema_id, None)
        self._program = None

    def mark_unknown(self, schema_id: int) -> None:
        """Reject records of this id: the registry has no such schema."""
        self._mark(self._unknown, schema_id)

    def mark_refused(self, schema_id: int) -> None:
        """Reject records of this id: `add_id` refused its schema, which never changes."""
        self._mark(self._refused, schema_id)

    def _mark(self, marks: dict[int, None], schema_id: int) -> None:
        for each in (self._known[CONFLUENT], self._unknown, self._refused):
            each.pop(schema_id, None)
        marks[schema_id] = None
        if len(marks) > UNKNOWN_IDS_MAX:
            del marks[next(iter(marks))]
        self._program = None

    def forget_unknown(self) -> None:
        """Ask again for the ids that were marked unknown: a schema may be registered late."""
        self._unknown.clear()
        self._program = None

    def find(self, framing: int, key: int) -> WriterSchema | None:
        """The writer of a registry id or fingerprint, None if it is marked.

        Raises KeyError for an id that is neither known nor marked.
        """
        known = self._known[framing].get(key)
        marked = key in self._unknown or key in self._refused
        if known is None and framing == CONFLUENT and key >= 0 and not marked:
            raise KeyError(key)
        return known

    def is_refused(self, framing: int, key: int) -> bool:
        """Whether the registry has the schema of this id, but no record can be read by it."""
        return framing == CONFLUENT and key in self._refused

    @property
    def program(self) -> Program:
        """The tables for the loop, linked again after a change."""
        if self._program is None:
            self._program = self._link()
        return self._program

    def _compile(self, text: str) -> WriterSchema:
        if len(text) > TEXT_BYTES_MAX:
            raise SchemaError(f"the schema's text is longer than {TEXT_BYTES_MAX}")
        try:
            parsed = schemas.parse(text).parsed
            bare = schemas.without_logical_types(text)
            names = lint(bare)
            return WriterSchema(bare, names, compile_plan(parsed, self.reader.parsed))
        except PlanGap:
            return WriterSchema(bare, names, None)
        except SchemaError:
            raise
        except Exception as error:  # noqa: BLE001 -- foreign text: fastavro fails in many ways
            raise SchemaError(f"no Avro schema: {error!r:.200}") from None

    def _link(self) -> Program:
        plans: list[Int64s] = []

        def base(writer: WriterSchema) -> int:
            if writer.plan is None:
                return SLOW
            plans.append(writer.plan)
            return sum(map(len, plans[:-1]))

        ids = {key: base(writer) for key, writer in self._known[CONFLUENT].items()}
        ids |= dict.fromkeys(self._unknown, UNKNOWN) | dict.fromkeys(self._refused, REFUSED)
        fingerprints = {
            key - (key >> 63 << 64): base(writer)
            for key, writer in self._known[SINGLE_OBJECT].items()
        }
        code = np.concatenate([*plans, np.zeros(0, np.int64)])
        return Program(code, *_sorted(ids), *_sorted(fingerprints))


def _sorted(bases: dict[int, int]) -> tuple[Int64s, Int64s]:
    keys = sorted(bases)
    return np.array(keys, np.int64), np.array([bases[key] for key in keys], np.int64)

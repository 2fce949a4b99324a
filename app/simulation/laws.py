"""What must hold of a run, by the numbers of the independent checker's laws.

C1 and C2: each payment's offset has exactly one score or dead letter, each outcome's none or its
dead letter. C3: outputs are in the order of their inputs. C5: all is committed. C6: Redis holds
what a recomputation gives. C7: so does every vector that is not provisional. C9: an alert for each
score that asks for one. C10: no transaction is open. That Redis is never ahead, that committed
offsets never go back and that nothing stops unexpectedly is looked at all the time, by others.
"""

import io
from collections.abc import Iterator
from typing import Any

import fastavro

import schemas
from app.ledger import Position
from app.meta import Meta
from app.records import Letter
from app.simulation.clients import GROUP
from app.simulation.data import (
    ALERTS,
    LETTERS,
    PARTITIONS,
    SCORES,
    TOPICS,
    WATERMARKS,
    Data,
    Expected,
    Marks,
    blobs,
    expected,
)
from app.simulation.kafka import Cluster
from app.simulation.store import Server
from app.watermarks import parse
from features.blob import meta_key

_SCORE, _ALERT = schemas.load("risk_score"), schemas.load("risk_alert")


def broken(number: int, its: Data, cluster: Cluster, server: Server, space: str) -> Iterator[str]:
    """Every law that does not hold at the end, in words."""
    yield from _committed(its, cluster)
    marks = _marks(cluster)
    want = expected(number, marks)
    for p in range(PARTITIONS):
        yield from _outputs(p, its, cluster, want)
        yield from _state(number, marks, p, server, space)
    if left := cluster.open_transactions():
        yield f"C10: transactions are open: {left}"


def ends(its: Data) -> dict[Position, int]:
    """What must be committed of each log: the offset after its last record."""
    return {
        at: max((i + 1 for i, row in enumerate(rows) if row is not None), default=0)
        for at, rows in its.rows.items()
    }


def _committed(its: Data, cluster: Cluster) -> Iterator[str]:
    for at, end in ends(its).items():
        if cluster.offsets.get(at, 0) != end:
            yield f"C5: {at} is committed up to {cluster.offsets.get(at, 0)}, not {end}"


def _marks(cluster: Cluster) -> Marks:
    found = []
    for p in range(PARTITIONS):
        for _, value in cluster.log((WATERMARKS, p)).committed():
            mark = parse(value, GROUP)
            assert mark is not None  # noqa: S101 -- nobody else writes there
            found.append((p, mark))
    return tuple(found)


def _outputs(p: int, its: Data, cluster: Cluster, want: Expected) -> Iterator[str]:
    scores = [_decoded(_SCORE, v) for _, v in cluster.log((SCORES, p)).committed()]
    letters: dict[str, list[int]] = {topic: [] for topic in TOPICS}
    for _, letter in cluster.log((LETTERS, p)).committed():
        topic, offset = _source(letter)
        letters[topic].append(offset)
    scored = [int(score["source_offset"]) for score in scores]
    for what, found in (("scores", scored), *letters.items()):
        if found != sorted(found):
            yield f"C3: {what} of partition {p} are out of order: {found}"
    for topic in TOPICS:
        rejects = want.rejects[topic, p]
        records = {i for i, row in enumerate(its.rows[topic, p]) if row is not None}
        accepted = records - rejects if topic == TOPICS[0] else set()
        yield from _one_each(f"letters of {topic}-{p}", letters[topic], rejects)
        if topic == TOPICS[0]:
            yield from _one_each(f"scores of partition {p}", scored, accepted)
    for score in scores:
        offset, hashed = score["source_offset"], int.from_bytes(score["vector_hash"], "big")
        if not score["provisional"] and want.hashes.get((p, offset)) != hashed:
            yield f"C7: the vector of {p}/{offset} is not the recomputed one"
    alerted = [
        int(_decoded(_ALERT, v)["source_offset"]) for _, v in cluster.log((ALERTS, p)).committed()
    ]
    wanted = [int(s["source_offset"]) for s in scores if s["decision"] != "APPROVE"]
    if alerted != wanted:
        yield f"C9: alerts of partition {p} are {alerted}, not {wanted}"


def _one_each(what: str, found: list[int], wanted: set[int]) -> Iterator[str]:
    if missing := sorted(wanted - set(found)):
        yield f"C1: {what} lack offsets {missing}"
    if more := sorted(set(found) - wanted):
        yield f"C1: {what} have offsets {more} that should have none"
    if len(found) != len(set(found)):
        yield f"C2: {what} are doubled: {sorted(found)}"


def _state(number: int, marks: Marks, p: int, server: Server, space: str) -> Iterator[str]:
    guard = meta_key(space, p)
    meta = Meta.parse(server.blobs.get(guard))
    prefix = guard.removesuffix(b"meta")
    found = {k: v for k, v in server.blobs.items() if k.startswith(prefix) and k != guard}
    wanted = {} if meta is None else blobs(number, marks, p, meta.next_offset)
    for key in sorted(found.keys() | wanted.keys()):
        if found.get(key) != wanted.get(key):
            yield f"C6: {key!r} is not what a recomputation up to {meta and meta.next_offset} gives"


def _decoded(schema: schemas.Schema, value: bytes) -> dict[str, Any]:
    found: Any = fastavro.schemaless_reader(io.BytesIO(value[10:]), schema.parsed, None)
    return dict(found)


def _source(letter: Letter) -> tuple[str, int]:
    headers = {header.name: header.value or b"" for header in letter.headers}
    return (
        headers["riskwire.error.source.topic"].decode(),
        int(headers["riskwire.error.source.offset"]),
    )

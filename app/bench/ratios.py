"""How many times as fast as fastavro and a bare `session.run` our stages are, on the same records.

One thread each, least CPU time of several repeats. fastavro gets what is best for it: bodies and
dicts that are ready, no logical types, no validation, no columns to make.
"""

import io
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import fastavro
import numpy as np

import schemas
from app import decode
from app.bench.rig import LIMITS, ROUTE, Rig, Spent, least_s, source_of, through
from app.emit import Scored
from app.encode import encode_scores
from app.records import Ragged, RecordBatch
from app.score import score
from models.manifest import INPUT, OUTPUT


class Goal(NamedTuple):
    """What a ratio should be and must be, and in which batches."""

    what: str
    batch: int
    should: float
    must: float


BATCH, BATCHES = 256, 20
GOALS = {
    "decode_vs_fastavro": Goal("decode to columns ÷ fastavro", BATCH, 40, 15),
    "encode_vs_fastavro": Goal("encode scores ÷ fastavro", BATCH, 30, 15),
    "model_vs_session": Goal("model ÷ bare session.run", BATCH, 0.8, 0.8),
    "model_vs_session_one_row": Goal("model ÷ bare session.run", 1, 0.8, 0.8),
}
FRAMING_BYTES = len(ROUTE.score_header)


def ratios(parts: Sequence[RecordBatch], rig: Rig) -> dict[str, float]:
    """Ratios of speed by the names of GOALS; the batches go through the rig once."""
    spent = Spent()
    done = [through(records, rig, spent) for records in parts]
    paid, said = _bare("transaction"), _bare("risk_score")
    payments = [body for records in parts for body in _bodies(records.values)]
    bodies = [body for _, out in done for body in _bodies(out.columns[0].values)]
    scores = [_fields(body, said) for body in bodies]
    matrices = [scored.matrix for scored, _ in done]
    rows = [matrix[k : k + 1] for matrix in matrices for k in range(BATCHES)]
    source = source_of(rig.scorer)
    same = [source.encoded(provisional=p, degraded=d) for d in (False, True) for p in (False, True)]

    def encode(its: Scored) -> Any:
        return encode_scores(
            ROUTE.score_header, its.transactions, its.scores, its.decisions, its.vector_hash,
            its.provisional.astype(np.int8), same, its.instants,
        )  # fmt: skip

    def bare(matrix: Any) -> Any:
        return rig.session.run([OUTPUT], {INPUT: matrix})

    ours_and_theirs = {
        "decode_vs_fastavro": (
            partial(_each, lambda records: decode.decode(records, rig.writers, LIMITS), parts),
            partial(_each, lambda body: _fields(body, paid), payments),
        ),
        "encode_vs_fastavro": (
            partial(_each, encode, [scored for scored, _ in done]),
            partial(_each, lambda it: fastavro.schemaless_writer(io.BytesIO(), said, it), scores),
        ),
    }
    for name, inputs in (("model_vs_session", matrices), ("model_vs_session_one_row", rows)):
        model = partial(score, scorer=rig.scorer)
        ours_and_theirs[name] = partial(_each, model, inputs), partial(_each, bare, inputs)
    times_s = {name: least_s(*both) for name, both in ours_and_theirs.items()}
    return {name: round(theirs / ours, 2) for name, (ours, theirs) in times_s.items()}


def missed(found: dict[str, float]) -> list[str]:
    """The ratios below what they must be."""
    return [name for name, ratio in found.items() if ratio < GOALS[name].must]


def judged(name: str, ratio: float) -> str:
    """A ratio with its goal in words."""
    what, batch, should, must = GOALS[name]
    verdict = f"goal {should:g} met"
    if ratio < should:
        verdict = f"goal {should:g} not met, {must:g} {'missed' if ratio < must else 'met'}"
    return f"{what}, in batches of {batch}: {ratio:.1f} ({verdict})"


def _bare(name: str) -> Any:
    """A schema for fastavro, without the logical types that would take it longer."""
    return schemas.without_logical_types(schemas.load(name).text)


def _bodies(values: Ragged) -> list[bytes]:
    return [(values[i] or b"")[FRAMING_BYTES:] for i in range(len(values))]


def _fields(body: bytes, schema: Any) -> Any:
    return fastavro.schemaless_reader(io.BytesIO(body), schema, None)


def _each(work: Callable[[Any], Any], inputs: Sequence[Any]) -> None:
    for each in inputs:
        work(each)

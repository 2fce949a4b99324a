"""The peers' work: its model, its features, what the scores must be, and whether they are.

Every peer is given the same model file and the same vectors in Redis, by the ids of the
benchmark's payments. A lane's figures count only if its output topic holds each payment of its
input just once, with the same key in the same partition, and with the right score (`check`).
"""

import asyncio
import io
import itertools
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import fastavro
import numpy as np
from pydantic import SecretStr

from app.adapters.follow import Decoder, Fields, Follower
from app.adapters.onnx import CPU, open_session
from app.adapters.redis import RedisStore
from app.bench.lanes.lane import PARTITIONS
from app.bench.load import WORLD
from app.bench.peers.peer import SCORE
from app.config import load_settings
from app.demo.traffic import number_of
from app.errors import ConfigError, Unavailable
from app.partitioner import partition_of
from app.records import Float32s, Int32s, Int64s
from models.handbook import Payments

SIDE = 32
"""Features of a customer, and of a terminal."""
WITHOUT = 50
"""One in so many entities has no vector in Redis."""
TOLERANCE = 1e-6
QUIET_S = 2.0
"""A topic that gives nothing for so long is at its end."""
TIMEOUT_MS = 30_000


def vectors() -> tuple[Float32s, Float32s]:
    """Of customers and terminals, (n, SIDE); zeros where Redis has none."""
    rng = np.random.default_rng(0)
    customers, terminals = (
        rng.standard_normal((n, SIDE), np.float32) for n in (WORLD.customers, WORLD.terminals)
    )
    customers[::WITHOUT] = terminals[::WITHOUT] = 0
    return customers, terminals


def write_vectors(redis_url: str) -> None:
    """Let Redis have them; raises StoreUnavailable."""
    pairs = [
        (b"%c:%d" % (side, number), row.tobytes())
        for side, rows in zip(b"ct", vectors(), strict=True)
        for number, row in enumerate(rows)
        if number % WITHOUT
    ]

    async def write() -> None:
        store = RedisStore(SecretStr(redis_url), TIMEOUT_MS)
        try:
            await store.write(pairs)
        finally:
            await store.close()

    asyncio.run(write())


def model() -> bytes:
    """The network 64-64-32-1 as ONNX, its weights the same in every run; needs riskwire[train]."""
    try:
        from onnx import TensorProto, helper, numpy_helper  # noqa: PLC0415 -- of an extra
    except ModuleNotFoundError:
        raise ConfigError("onnx is not installed: pip install 'riskwire[train]'") from None
    rng, widths = np.random.default_rng(0), (2 * SIDE, 64, 32, 1)
    nodes, weights, at = [], [], "x"
    for i, (rows, columns) in enumerate(itertools.pairwise(widths)):
        drawn = {f"w{i}": rng.standard_normal((rows, columns)) / rows**0.5}
        drawn[f"b{i}"] = rng.standard_normal(columns)
        for name, values in drawn.items():
            weights.append(numpy_helper.from_array(values.astype(np.float32), name))
        last = i == len(widths) - 2
        then = "score" if last else f"y{i}"
        nodes += [
            helper.make_node("Gemm", [at, f"w{i}", f"b{i}"], [f"g{i}"]),
            helper.make_node("Sigmoid" if last else "Relu", [f"g{i}"], [then]),
        ]
        at = then
    graph = helper.make_graph(
        nodes,
        "peers",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", widths[0]])],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, ["n", 1])],
        weights,
    )
    opset = helper.make_opsetid("", 17)
    made: bytes = helper.make_model(graph, opset_imports=[opset], ir_version=8).SerializeToString()
    return made


@contextmanager
def model_file() -> Iterator[Path]:
    """The model, as long as the block runs."""
    with tempfile.TemporaryDirectory(prefix="riskwire-peers-") as place:
        path = Path(place) / "model.onnx"
        path.write_bytes(model())
        yield path


class Expected(NamedTuple):
    """Of n payments by number: whose, in which partition, and the score, float32 (n,)."""

    customer: Int32s
    partition: Int32s
    score: Float32s


def expected(coming: Payments, model_path: Path) -> Expected:
    """What the peers' work makes of these payments, in one go."""
    session, _ = open_session(model_path.read_bytes(), CPU)
    customers, terminals = vectors()
    x = np.concatenate([customers[coming.customer], terminals[coming.terminal]], axis=1)
    (scores,) = session.run(["score"], {"x": x})
    places = [partition_of(b"%d" % number, PARTITIONS) for number in range(WORLD.customers)]
    return Expected(coming.customer, np.array(places, np.int32)[coming.customer], scores.ravel())


class Found(NamedTuple):
    """Scores as they lie in an output topic, (k,) each; times in µs."""

    partition: Int64s
    key: Int64s
    number: Int64s
    score: Float32s
    event_time_us: Int64s
    emitted_us: Int64s


def read(bootstrap: str, topic: str, *, risk_scores: bool = False) -> Found:
    """All of a topic of PeerScores, or RiskScores; raises Unavailable for a value that is none."""
    decode = Decoder("risk_score") if risk_scores else peer_score
    rows = []
    with Follower(load_settings(bootstrap_servers=bootstrap), [topic], from_beginning=True) as its:
        while records := its.poll(QUIET_S):
            for seen in records:
                fields = decode(seen.value)
                if fields is None or seen.key is None:
                    raise Unavailable(f"{topic} holds what is no score: {seen}")
                times = fields.get("latency", fields)
                number = number_of(fields["transaction_id"].replace("tx", "-"))
                rows.append((seen.partition, int(seen.key), number, fields["score"],
                             times["event_time"], times["emitted"]))  # fmt: skip
    columns = zip(*rows, strict=True) if rows else [()] * len(Found._fields)
    return Found(*map(np.array, columns))


def peer_score(value: bytes | None) -> Fields | None:
    """The fields of a PeerScore."""
    found = fastavro.schemaless_reader(io.BytesIO(value or b""), SCORE, None)
    return found if isinstance(found, dict) else None


def check(found: Found, wanted: Expected, *, scores: bool = True) -> None:
    """Raise Unavailable unless all payments are scored, as the module says."""
    n, number = len(wanted.customer), np.sort(found.number)
    if not np.array_equal(number, np.arange(n)):
        there = np.unique(number)
        lost, twice = n - len(there), len(number) - len(there)
        raise Unavailable(f"of {n:,} scores {lost:,} are lost and {twice:,} doubled")
    if (found.partition != wanted.partition[found.number]).any():
        raise Unavailable("scores lie in other partitions than their payments")
    if (found.key != wanted.customer[found.number]).any():
        raise Unavailable("scores have other keys than their payments")
    off = np.abs(found.score - wanted.score[found.number])
    if scores and not off.max() <= TOLERANCE:
        raise Unavailable(f"scores are wrong, by {off.max():.2g} at most")

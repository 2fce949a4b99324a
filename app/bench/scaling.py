"""What a transaction costs, and memory, as state, partitions, model and messages grow.

The stages on their own in one process (`app.bench.rig`), without Kafka, in batches of BATCH. The
payments are synthetic and meet all entities equally often, which is the worst case for caches; an
entity is a customer or a terminal, one to two, all of them in memory. Models are random trees on
limits that real vectors have. Nothing here is more than one core and this machine's memory: more
entities than fit and more workers are extrapolated from the measured cost, and say so. Raises
ConfigError where `onnx` of the `train` extra is missing.
"""

import gc
import io
import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import fastavro
import numpy as np
from rich.console import Console
from rich.table import Table

import schemas
from app import decode
from app.adapters.onnx import CPU, OnnxScorer, compiled_trees, open_session
from app.bench.rig import (
    IMAGES,
    LIMITS,
    STAGES,
    Rig,
    Spent,
    batches,
    flush,
    found,
    least_s,
    live_of,
    measure,
    rig_of,
    through,
)
from app.bounds import process_memory
from app.decide import reasons
from app.demo.traffic import encoded
from app.errors import ConfigError
from app.meta import Meta
from app.records import Float32s, RecordBatch
from app.score import score
from features.blob import meta_key
from features.contract import DAY_US, WIDTH, contract_id
from models.handbook import Payments
from models.manifest import INPUT, OUTPUT, read

BATCH = 1024
SMALL, MEDIUM = 10_000, 100_000
PARTITIONS, WORKERS = (1, 4, 16), (1, 4, 16)
MODELS = ((50, 3), (150, 3), (500, 4), (500, 6), (100, 8))
"""Trees and their depth: the shipped model has 150 of 3; above 6 they are not compiled."""
MESSAGES = ((8, 0), (32, 0), (64, 0), (64, 1_000), (64, 10_000))
"""Bytes of each identifier, of which 64 is the most, and of a field that only the writer knows."""
MESSAGES_BYTES_MAX = 64 << 20
ALERTS = 16
ENTITY_BYTES = 8_192
"""More than an entity takes with its image, to tell whether a state fits."""
CHUNK = 20 * BATCH
ASSUMED = "a core for each worker, and Kafka and Redis that keep up and cost the workers nothing"


def run(records: int, entities: Sequence[int], say: Callable[[str], None]) -> dict[str, Any]:
    """The report: CPU µs a transaction by stage and in all (`us`), and bytes."""
    states: list[dict[str, Any]] = []
    _grown(BATCH, 1, BATCH)  # loads what is loaded once
    for n in sorted(set(entities)):
        say(f"{n:,} entities")
        fits = n * ENTITY_BYTES < _available_bytes()
        states.append(_grown(n, 1, records) if fits else _beyond(n, states))
    say("partitions")
    partitions = [_grown(MEDIUM, p, records) for p in PARTITIONS]
    say("models")
    models = list(_models())
    say("messages")
    messages = [_messages(ids, besides, records) for ids, besides in MESSAGES]
    workers = [
        {"workers": n, "partitions": its["partitions"], "tx_per_s": round(n * 1e6 / its["us"])}
        for its in partitions
        for n in WORKERS
        if n <= its["partitions"]
    ]
    return {
        "batch": BATCH,
        "state": states,
        "partitions": partitions,
        "models": models,
        "messages": messages,
        "workers": {"extrapolated": True, "assumed": ASSUMED, "rates": workers},
        "rss_bytes_max": process_memory(os.getpid())[1],
    }


def _grown(entities: int, partitions: int, records: int) -> dict[str, Any]:
    """The cost with so many entities in memory, and their own."""
    gc.collect()  # a state of before must not be given back in between
    before, _ = process_memory(os.getpid())
    rig, part = _world(entities, partitions, records)
    rss, _ = process_memory(os.getpid())
    images, image_bytes = flush(rig, Spent())
    return {
        "entities": entities,
        "partitions": partitions,
        "extrapolated": False,
        **_summed(measure(part, rig)),
        "bytes_per_entity": round((rss - before) / entities),
        "image_bytes": round(image_bytes / images),
        "rss_bytes": rss,
    }


def _beyond(entities: int, states: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What does not fit into memory: costs go on growing as in the last step, bytes evenly."""
    if len(states) < 2:
        raise ConfigError(f"{entities:,} entities do not fit: put two smaller numbers before them")
    a, b = states[-2:]
    steps = math.log(entities / b["entities"]) / math.log(b["entities"] / a["entities"])
    grown = {name: b[name] + steps * max(0.0, b[name] - a[name]) for name in STAGES}
    return {
        "entities": entities,
        "extrapolated": True,
        **_summed({name: round(us, 3) for name, us in grown.items()}),
        "bytes_per_entity": b["bytes_per_entity"],
        "image_bytes": b["image_bytes"],
        "rss_bytes": b["rss_bytes"] + (entities - b["entities"]) * b["bytes_per_entity"],
    }


def _world(entities: int, partitions: int, records: int) -> tuple[Rig, list[RecordBatch]]:
    """A state that has met each terminal, and customers twice; payments to measure it with."""
    customers, now_us = max(1, entities // 3), time.time_ns() // 1000
    terminals, random = max(1, entities - customers), np.random.default_rng(0)
    header = schemas.load("transaction").single_object_header

    def paid(n: int, begin_us: int, end_us: int) -> Payments:
        nothing = np.zeros(n, np.int8)
        return Payments(
            np.linspace(begin_us, end_us, n).astype(np.int64),
            np.resize(random.permutation(customers).astype(np.int32), n),
            np.resize(random.permutation(terminals).astype(np.int32), n),
            random.integers(100, 20_000, n), nothing, nothing,
        )  # fmt: skip

    def cut(payments: Payments) -> list[RecordBatch]:
        rows = list(encoded(payments, "s", 0, header))
        [part] = batches(rows, partitions, now_us, [(BATCH, len(rows))])
        return part

    rig = _rig(customers, terminals, partitions)
    past = paid(terminals, now_us - 30 * DAY_US, now_us - DAY_US)
    for first in range(0, len(past), CHUNK):
        for each in cut(past.take(slice(first, first + CHUNK))):
            transactions = decode.decode(each, rig.writers, LIMITS).transactions
            rig.live.advance(transactions, found(transactions, rig, now_us))
    return rig, cut(paid(records, now_us - DAY_US, now_us))


def _rig(customers: int, terminals: int, partitions: int) -> Rig:
    """An empty state with room for them, and for a batch that might bring others."""
    timing = read().manifest.timing
    keys = [meta_key(contract_id(timing), p) for p in range(partitions)]
    blobs = dict.fromkeys(keys, Meta(partitions).encode())
    room = customers + BATCH, (terminals + BATCH) * partitions
    return rig_of(live_of(timing, blobs, partitions, *room), blobs)


def _models() -> Iterator[dict[str, Any]]:
    """What scoring costs by size of model, and what explaining an alert does."""
    try:
        from models.explain_onnx import explainer_of  # noqa: PLC0415 -- of an extra
    except ModuleNotFoundError:
        raise ConfigError("onnx is not installed: pip install 'riskwire[train]'") from None
    rig, [records] = _world(SMALL, 1, BATCH)
    matrix, manifest = through(records, rig, Spent())[0].matrix, read().manifest
    for count, depth in MODELS:
        model = _trees(count, depth, matrix)
        explainer = explainer_of(model, manifest.reference_vector)
        session, provider = open_session(model, CPU)
        trees = compiled_trees(model, session, provider, manifest.reference_vector)
        scorer = OnnxScorer(session, provider, manifest, explainer, trees)
        work = {
            "model": partial(score, matrix, scorer),
            "session.run": partial(session.run, [OUTPUT], {INPUT: matrix}),
            "reasons": partial(reasons, matrix, np.arange(ALERTS), explainer),
        }
        times_s = dict(zip(work, least_s(*work.values()), strict=True))
        yield {
            "trees": count,
            "depth": depth,
            "compiled": trees is not None,
            "model": round(1e6 * times_s["model"] / BATCH, 3),
            "session.run": round(1e6 * times_s["session.run"] / BATCH, 3),
            "reasons_per_alert": round(1e6 * times_s["reasons"] / ALERTS, 3),
            "model_bytes": len(model),
        }


def _trees(count: int, depth: int, matrix: Float32s) -> bytes:
    """A model of perfect random trees whose limits are values of the matrix (n, WIDTH)."""
    from models.trees import LEAF, LIGHTGBM, Trees, to_onnx  # noqa: PLC0415 -- of an extra

    random, inner = np.random.default_rng(depth), 2**depth - 1
    nodes = count * (2 * inner + 1)
    place = np.arange(nodes) % (2 * inner + 1)  # in its tree, from the root level by level
    leaf, root = place >= inner, np.arange(nodes) - place
    feature = random.integers(0, WIDTH, nodes)
    limit = matrix[random.integers(0, len(matrix), nodes), feature]
    return to_onnx(
        Trees(
            width=WIDTH,
            mode=LIGHTGBM,
            base=-4.0,
            roots=np.flatnonzero(place == 0),
            feature=np.where(leaf, LEAF, feature),
            value=np.where(leaf, random.normal(0, 0.1, nodes), limit).astype(np.float32),
            cover=(2.0 ** (depth - np.floor(np.log2(place + 1)))).astype(np.float32),
            yes=np.where(leaf, LEAF, root + 2 * place + 1),
            no=np.where(leaf, LEAF, root + 2 * place + 2),
        ),
        "scaling",
    )


def _messages(id_bytes: int, unread_bytes: int, records: int) -> dict[str, Any]:
    """The cost of messages with ids of that length, and a field that the reader does not know."""
    schema = json.loads(schemas.load("transaction").text)
    schema["fields"].append({"name": "unread", "type": "bytes"})
    writer, now_us = schemas.parse(json.dumps(schema)), time.time_ns() // 1000
    same = {"amount_minor": 1250, "currency": "EUR", "unread": bytes(unread_bytes)}
    n = min(records, MESSAGES_BYTES_MAX // (4 * id_bytes + unread_bytes))
    rows = []
    for k in range(2 * n):
        token, out = f"{k % SMALL:0{id_bytes}}", io.BytesIO()
        ids = dict.fromkeys(("transaction_id", "customer_id", "terminal_id", "device_id"), token)
        out.write(writer.single_object_header)
        fields = {**same, **ids, "event_time": now_us - 2 * n + k}
        fastavro.schemaless_writer(out, writer.parsed, fields)
        rows.append((token.encode(), out.getvalue()))
    rig = _rig(SMALL, SMALL, 1)
    rig.writers.add_fingerprint(writer)
    first, second = batches(rows, 1, now_us, [(BATCH, n), (BATCH, n)])
    measure(first, rig)  # entities are new
    return {
        "id_bytes": id_bytes,
        "unread_bytes": unread_bytes,
        "bytes": round(sum(each.nbytes for each in second) / n),
        **_summed(measure(second, rig)),
        "rss_bytes": process_memory(os.getpid())[0],
    }


def _summed(found: dict[str, Any]) -> dict[str, Any]:
    return {**found, "us": round(sum(found[stage] for stage in STAGES), 3)}


def _available_bytes() -> int:
    """Memory that is free or could be (Linux)."""
    lines = Path("/proc/meminfo").read_text("ascii").splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable"))


def show(report: Mapping[str, Any], console: Console) -> None:
    """Print a table for each thing that grows; what is extrapolated says so."""
    columns = {"find rows": "find rows", "features": "features", IMAGES: "images", "us": "all"}
    table = _table("State", "entities", *columns.values(), "B each", "B image", "RSS MB")
    for its in report["state"]:
        table.add_row(
            f"{its['entities']:,}" + "\nextrapolated" * its["extrapolated"],
            *(f"{its[name]:.2f}" for name in columns),
            *(f"{its[name]:,}" for name in ("bytes_per_entity", "image_bytes")),
            f"{its['rss_bytes'] / 1e6:,.0f}",
        )
    console.print(table)
    table = _table(f"{MEDIUM:,} entities", "partitions", *columns.values(), "B each")
    for its in report["partitions"]:
        us = (f"{its[name]:.2f}" for name in columns)
        table.add_row(str(its["partitions"]), *us, f"{its['bytes_per_entity']:,}")
    console.print(table)
    columns = {"model": "model", "session.run": "session.run", "reasons_per_alert": "an alert"}
    table = _table("Model", "trees", "depth", "compiled", *columns.values(), "kB")
    for its in report["models"]:
        table.add_row(
            *(str(its[name]) for name in ("trees", "depth", "compiled")),
            *(f"{its[name]:,.2f}" for name in columns),
            f"{its['model_bytes'] / 1e3:,.0f}",
        )
    console.print(table)
    columns = {"decode": "decode", "find rows": "find rows", "emit": "emit", "us": "all"}
    table = _table("Messages", "bytes", "an id", "unread", *columns.values(), "copy")
    for its in report["messages"]:
        table.add_row(
            *(f"{its[name]:,}" for name in ("bytes", "id_bytes", "unread_bytes")),
            *(f"{its[name]:.2f}" for name in columns),
            f"{its['floors']['decode']:.2f}",
        )
    console.print(table)
    _show_workers(report["workers"], console)
    console.print(f"RSS at most {report['rss_bytes_max'] / 1e6:,.0f} MB")


def _show_workers(its: Mapping[str, Any], console: Console) -> None:
    table = Table("partitions", title="Extrapolated: transactions/s by workers")
    for n in WORKERS:
        table.add_column(str(n), justify="right")
    for partitions in PARTITIONS:
        rates = [each["tx_per_s"] for each in its["rates"] if each["partitions"] == partitions]
        table.add_row(str(partitions), *(f"{rate:,}" for rate in rates))
    console.print(table)
    console.print(f"extrapolated from CPU a transaction, with {its['assumed']}")


def _table(what: str, first: str, *headings: str) -> Table:
    table = Table(title=f"{what}: CPU µs a transaction")
    table.add_column(first, no_wrap=True)
    for heading in headings:
        table.add_column(heading, justify="right")
    return table

"""`riskwire features list` and `get`: what the features are, and what is known of an entity.

In: settings, an entity and its token. Out: tables, or one JSON object, on standard output. What is
read is what the worker reads: a customer's blob in the partition of its token, a terminal's shares
in all partitions, with what Redis says of these. Raises ConfigError for an entity that is none,
StoreUnavailable where Redis is away.
"""

import asyncio
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from app.backfill import with_store
from app.config import Settings
from app.errors import ConfigError
from app.meta import Meta, namespace
from app.partitioner import partition_of
from features.blob import customer_key, meta_key, share_key
from features.blob_plain import describe
from features.contract import FEATURES, Feature, Timing, contract_id
from features.state import LABELS, NEVER, TRANSACTIONS
from models import manifest

ENTITIES = ("customer", "terminal")
SHOWN_EVENTS = 10
VIEWS = {
    "customer": (("events", "transactions", TRANSACTIONS),),
    "terminal": (("events", "transactions", TRANSACTIONS), ("frauds", "labels", LABELS)),
}
"""Of an entity's views: the part of the blob, the log that it is made of, its place in `Meta`."""


@dataclass(frozen=True, slots=True)
class Part:
    """What lies in Redis of an entity in one partition; `said` is None where nothing readable is.

    `meta` says how far the partition's logs are in it.
    """

    partition: int
    key: str
    state: str
    fault: str
    said: dict[str, Any] | None
    meta: Meta | None


def show(settings: Settings, entity: str, token: str, *, as_json: bool) -> int:
    """Print what is known of an entity; 1 where that is nothing."""
    if entity not in ENTITIES:
        raise ConfigError(f"{entity!r} is no entity; there are {', '.join(ENTITIES)}")
    timing = manifest.read(settings.model).manifest.timing
    parts = asyncio.run(
        _read(
            settings,
            namespace(contract_id(timing), settings.state_namespace),
            entity,
            token.encode(),
        )
    )
    now_us = time.time_ns() // 1000
    if as_json:
        print(json.dumps(_report(entity, token, timing, parts, now_us)))  # noqa: T201
    else:
        _print(entity, token, timing, parts, now_us)
    return 0 if any(part.state == "found" for part in parts) else 1


async def _read(settings: Settings, contract: str, entity: str, token: bytes) -> list[Part]:
    if entity == "customer":
        places = [partition_of(token, settings.partitions)]
        keys = [customer_key(contract, p, token) for p in places]
    else:
        places = list(range(settings.partitions))
        keys = [share_key(contract, p, token) for p in places]
    wanted = keys + [meta_key(contract, p) for p in places]
    values = await with_store(settings, lambda store: store.fetch(wanted))
    n = len(places)
    return [
        _part(p, key, blob, Meta.parse(meta))
        for p, key, blob, meta in zip(places, keys, values[:n], values[n:], strict=True)
    ]


def _part(partition: int, key: bytes, blob: bytes | None, meta: Meta | None) -> Part:
    name = key.decode(errors="replace")
    if blob is None:
        return Part(partition, name, "missing", "", None, meta)
    try:
        return Part(partition, name, "found", "", describe(blob), meta)
    except ValueError as error:
        return Part(partition, name, "damaged", str(error), None, meta)


def _freshness(
    entity: str, timing: Timing, parts: Sequence[Part], now_us: int
) -> Iterator[dict[str, Any]]:
    """Of each view: how old its newest event is, and up to when its logs are read."""
    for name, log, place in VIEWS[entity]:
        times = [_us(each["time"]) for p in parts if p.said for each in p.said[name][-1:]]
        marks = [p.meta.watermarks(timing.lateness_us)[place] if p.meta else NEVER for p in parts]
        newest, read = max(times, default=NEVER), min(marks, default=NEVER)
        yield {
            "view": f"{entity} {name}",
            "log": log,
            "newest": _iso(newest),
            "age_s": _age_s(newest, now_us),
            "read_until": _iso(read),
            "read_age_s": _age_s(read, now_us),
        }


def _report(
    entity: str, token: str, timing: Timing, parts: Sequence[Part], now_us: int
) -> dict[str, Any]:
    states = {part.state for part in parts}
    whole = next(state for state in ("found", "damaged", "missing") if state in states)
    return {
        "entity": entity,
        "token": token,
        "feature_contract_id": contract_id(timing),
        "state": whole,
        "freshness": list(_freshness(entity, timing, parts, now_us)),
        "partitions": [
            {
                "partition": part.partition,
                "key": part.key,
                "state": part.state,
                "fault": part.fault,
                "blob": part.said,
                "meta": None if part.meta is None else asdict(part.meta),
            }
            for part in parts
        ],
    }


def _print(entity: str, token: str, timing: Timing, parts: Sequence[Part], now_us: int) -> None:
    console = Console(highlight=False)
    console.print(f"{entity} {token}, features {contract_id(timing)}", markup=False)
    for part in parts:
        owner = part.meta.owner if part.meta else "nobody"
        held = "" if part.meta is None or part.meta.released else ", which is at work"
        line = f"partition {part.partition} (last written by {owner}{held}): {part.state}"
        console.print(line + (part.fault and f", {part.fault}"), markup=False, soft_wrap=True)
        for name, items in (part.said or {}).items():
            if name != "kind" and items:
                console.print(_items(name, items))
    table = Table("view", "newest event", "age", "log read until", "age", title="freshness")
    for view in _freshness(entity, timing, parts, now_us):
        table.add_row(
            view["view"], view["newest"] or "none", _ago(view["age_s"]),
            view["read_until"] or "nothing yet", _ago(view["read_age_s"]),
        )  # fmt: skip
    console.print(table)


def _items(name: str, items: Sequence[dict[str, Any]]) -> Table:
    """The newest items, newest first."""
    more = f", the newest {SHOWN_EVENTS}" if len(items) > SHOWN_EVENTS else ""
    table = Table(*items[0], title=f"{len(items)} {name.replace('_', ' ')}{more}")
    for item in items[: -SHOWN_EVENTS - 1 : -1]:
        table.add_row(*(str(value) for value in item.values()))
    return table


def _us(iso: str) -> int:
    return int(np.datetime64(iso.removesuffix("Z"), "us").astype(np.int64))


def _iso(time_us: int) -> str | None:
    return f"{np.datetime64(time_us, 'us')}Z" if time_us > 0 else None


def _age_s(time_us: int, now_us: int) -> float | None:
    return (now_us - time_us) / 1e6 if time_us > 0 else None


def _ago(age_s: float | None) -> str:
    if age_s is None:
        return ""
    for unit, seconds in (("d", 86_400), ("h", 3600), ("min", 60)):
        if abs(age_s) >= seconds:
            return f"{age_s / seconds:,.1f} {unit}"
    return f"{age_s:.1f} s"


def show_list(*, as_json: bool) -> None:
    """Print what every feature is."""
    if as_json:
        print(json.dumps({"features": [asdict(feature) for feature in FEATURES]}))  # noqa: T201
        return
    table = Table(
        "#", "feature", "entity", "from", "aggregation", "window", "delay", "default", "unit",
        "what it says", title=f"{len(FEATURES)} features, in the order of the vector",
    )  # fmt: skip
    for place, feature in enumerate(FEATURES):
        table.add_row(str(place), *_cells(feature))
    Console().print(table)


def _cells(feature: Feature) -> Iterator[str]:
    yield feature.name
    yield feature.entity
    yield ", ".join(feature.logs) or "itself"
    yield feature.aggregation
    yield f"{feature.window_days} d" if feature.window_days else ""
    yield f"{feature.delay_days} d" if feature.delay_days else ""
    yield f"{feature.default:g}"
    yield feature.unit
    yield feature.doc

"""Backfill into a real Redis: the worker's profiles, the same every time."""

import json
import time
import uuid
from pathlib import Path

import numpy as np
import pytest
from pydantic import SecretStr

from app import backfill
from app.adapters.facts import redis_facts
from app.adapters.redis import RedisStore
from app.config import Settings, load_settings
from app.errors import ConfigError
from features import profile
from features.aggregate import History, aggregate
from features.profile import CUSTOMER_PROFILE
from models.simulate import Population


@pytest.fixture
def settings(redis_url: str) -> Settings:
    """Point at the real Redis."""
    return load_settings(redis_url=SecretStr(redis_url))


def history(tokens: list[bytes], as_of_us: int) -> History:
    """Return a week of a few customers' payments, under tokens that nobody else uses."""
    people = Population(5, customers=len(tokens), terminals=200)
    past = backfill.simulated(people, 7, as_of_us)
    return History(
        tokens,
        [b"%b-%d" % (tokens[0], i) for i in range(200)],
        *(getattr(past, name) for name in ("customer", "terminal", "event_time_us")),
        *(getattr(past, name) for name in ("amount_minor", "channel", "country", "fraud")),
    )


async def test_writes_what_the_worker_reads(settings: Settings) -> None:
    """Each entity with history has its profile under its key, bit for bit; others have none."""
    as_of_us = time.time_ns() // 1000
    own = uuid.uuid4().hex[:8].encode()
    past = history([b"%b%d" % (own, i) for i in range(20)], as_of_us)
    store = RedisStore(settings.redis_url, settings.redis_timeout_ms)
    seen: list[tuple[int, int]] = []
    written = await backfill.backfill(store, past, as_of_us, lambda *at: seen.append(at))
    keys = [profile.key("customer", token) for token in past.customer_tokens]
    blobs = await store.fetch(keys)
    rows, damaged = profile.decode(CUSTOMER_PROFILE, blobs)
    await store.close()
    expected = aggregate(past, as_of_us).customers
    assert damaged == 0
    assert np.array_equal(rows, expected)
    assert [blob is not None for blob in blobs] == (expected[:, 0] > 0).tolist()
    assert written.transactions == len(past)
    assert written.customers == sum(blob is not None for blob in blobs)
    assert seen[-1][0] == seen[-1][1] == written.customers + written.terminals
    assert redis_facts(settings).has_profile


def test_from_a_file_and_back(
    settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A CSV file becomes profiles that `features get` shows; an unknown one has status 1."""
    token = f"csv-{uuid.uuid4().hex[:8]}"
    rows = [f"{token},t1,{1_700_000_000_000_000 + i},{1000 + i}" for i in range(10)]
    path = tmp_path / "history.csv"
    path.write_text("\n".join(["customer_id,terminal_id,event_time,amount_minor", *rows]), "utf-8")
    backfill.run(settings, path, 0, 0)
    assert "10 transactions gave 1 customer and 1 terminal profiles" in capsys.readouterr().out
    assert backfill.show(settings, "customer", token, as_json=True) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["state"] == "found"
    assert shown["profile"]["known"] == 1
    assert shown["profile"]["amount_mean"] == 1004.5
    assert backfill.show(settings, "customer", token + "x", as_json=False) == 1
    assert "missing: the defaults are used" in capsys.readouterr().out


def test_an_unknown_entity_is_refused(settings: Settings) -> None:
    """Only customers and terminals have profiles."""
    with pytest.raises(ConfigError, match="there are customer, terminal"):
        backfill.show(settings, "merchant", "m1", as_json=True)

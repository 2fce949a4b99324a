"""A small campaign on real servers: every kind of fault once, and every law holds."""

from dataclasses import replace
from pathlib import Path

import pytest

from app.chaos.campaign import run
from app.chaos.schedule import KINDS, TIERS
from app.demo.kafka_jvm import jars, java_program
from app.errors import ConfigError
from tests.conftest import left_out


def test_a_small_campaign_holds_every_law(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """One fault of each kind, some overlapping; the independent checker finds nothing wrong."""
    try:
        java_program(), jars()
    except ConfigError as error:
        raise left_out(request.config, "a campaign's Apache Kafka", str(error)) from None
    lines: list[str] = []
    tier = replace(TIERS["ci"].scaled(0.04), rate_per_s=200.0)
    verdict = run(tier, 3, "native", lines.append, tmp_path)
    assert verdict.is_right, "\n".join([*lines, *verdict.lines()])
    assert dict(verdict.faults) == tier.counts == dict.fromkeys(KINDS, 1)
    assert sum(verdict.points.values()) == 1
    assert verdict.transactions >= tier.transactions
    assert verdict.takeovers
    assert len(verdict.leaves) >= tier.workers

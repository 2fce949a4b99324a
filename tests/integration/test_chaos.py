"""A campaign on real servers, small or (in CI) of the size of a tier: every law holds."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from app.chaos.campaign import run
from app.chaos.schedule import KINDS, TIERS
from app.demo.kafka_jvm import jars, java_program
from app.errors import ConfigError
from tests.conftest import left_out

SCALE = float(os.environ.get("RISKWIRE_CAMPAIGN_SCALE", "0.04"))
"""The share of the tier `ci`: at the least one fault of each kind."""


def test_a_campaign_holds_every_law(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """Faults of each kind, some overlapping; the independent checker finds nothing wrong."""
    try:
        java_program(), jars()
    except ConfigError as error:
        raise left_out(request.config, "a campaign's Apache Kafka", str(error)) from None
    lines: list[str] = []
    tier = TIERS["ci"].scaled(SCALE)
    tier = replace(tier, rate_per_s=tier.rate_per_s if SCALE >= 1 else 200.0)
    verdict = run(tier, 3, "native", lines.append, tmp_path)
    assert verdict.is_right, "\n".join([*lines, *verdict.lines()])
    assert dict(verdict.faults) == tier.counts
    assert set(tier.counts) == set(KINDS)
    assert sum(verdict.points.values()) == tier.counts["point"]
    assert verdict.transactions >= tier.transactions
    assert SCALE < 1 or not verdict.unchecked
    assert verdict.takeovers
    assert len(verdict.leaves) >= tier.workers

"""What `riskwire state status` says of a partition: what wants attention, and nothing else."""

from dataclasses import replace
from pathlib import Path

import pytest

from app.meta import Meta
from app.progress import REBUILD_US
from app.snapshots import Snapshot
from app.state_status import LogStatus, Status, judge
from tests.app.builders import T0

META = Meta(4, 3, "w1", next_offset=(100, 20), source="here")
LOG = LogStatus("transactions", 100, 110, 0, 120, T0, None)
LABELS = LogStatus("labels", 20, 20, 0, 20, T0, None)
CUT = replace(LOG, oldest=50, oldest_append_us=T0 - REBUILD_US // 2)


def said(
    meta: Meta | None, log: LogStatus = LOG, *kept: Meta, labels: LogStatus = LABELS
) -> list[str]:
    """What wants attention in a partition with these snapshots."""
    snapshots = [Snapshot(Path("x"), "abc", 0, T0, each) for each in kept]
    status = Status(0, meta, (log, labels), None, 5, is_all=True, bytes=500)
    return [what for what, advice in judge(status, snapshots, "here", T0) if advice]


def test_a_partition_at_work_is_fine() -> None:
    """It lags behind the commit, and the commit behind the end; so is one that never began."""
    assert said(META) == []
    assert (LOG.behind_commit, LOG.behind_end) == (10, 10)
    assert said(Meta(4), replace(LOG, next_offset=0, committed=-1)) == []


@pytest.mark.parametrize(
    ("meta", "log", "what"),
    [
        (None, LOG, "holds no state though"),
        (replace(META, source="there"), LOG, "is that of there"),
        (META, replace(LOG, committed=99), "ahead of what the group has committed"),
        (META, replace(LOG, committed=121), "beyond the end of transactions"),
        (replace(META, whole_since_us=T0 - 1), LOG, "lacks what was appended before 2023-11-14"),
        (META, CUT, "if Redis loses the state, it is lost"),
        (replace(META, base="ab"), LOG, "the backfilled past is lost with it"),
    ],
)
def test_what_wants_attention(meta: Meta | None, log: LogStatus, what: str) -> None:
    """Each by itself, with advice."""
    [found] = said(meta, log)
    assert what in found


def test_records_that_are_gone_before_they_were_read() -> None:
    """Not where a backfilled past is all there is, which ends before the first record."""
    gone = replace(LOG, oldest=200, committed=100, end=210, oldest_append_us=T0 - 1)
    assert "are gone from transactions" in said(META, gone)[0]
    begun = Meta(4, 1, "backfill", base="ab")
    new = replace(gone, next_offset=0, committed=-1)
    assert said(begun, new, begun, labels=replace(LABELS, committed=-1, next_offset=0)) == []
    assert "are gone" in said(begun, replace(new, committed=200), begun)[0]
    assert "are gone" in said(Meta(4), new)[0]


def test_a_snapshot_that_fits_is_enough() -> None:
    """It goes on from the same past, and the log still has what comes after it."""
    assert said(META, CUT, replace(META, next_offset=(60, 0))) == []
    assert len(said(META, CUT, replace(META, next_offset=(40, 0)))) == 1
    based = replace(META, base="ab")
    assert said(based, LOG, replace(based, next_offset=(0, 0))) == []
    assert len(said(based, LOG, META)) == 1
    long_ago = replace(CUT, oldest_append_us=T0 - 2 * REBUILD_US)
    assert said(META, long_ago) == []

"""The join kernel: the same bits as its readable twin, row by row."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.records import Ragged
from features.contract import CHANNELS, NAMES, WIDTH
from features.profile import CUSTOMER_PROFILE, TERMINAL_PROFILE, Layout
from features.vectorize import country_code, country_codes, log2_1p, plain, vectorize

SMALL = st.floats(0, 64, width=32)
AMOUNT = st.integers(0, 10**12)
COUNTRY = st.sampled_from([0, country_code("DE"), country_code("FR")])


def profiles(layout: Layout) -> st.SearchStrategy[dict[str, float]]:
    """Profiles by column name, of known and unknown entities."""
    columns: dict[str, st.SearchStrategy[float]] = {c.name: SMALL for c in layout.columns}
    columns["known"] = st.sampled_from([0.0, 1.0])
    if layout is CUSTOMER_PROFILE:
        columns["amount_mean"] = columns["amount_std"] = st.floats(0, 2**40, width=32)
        columns["hour_sin"] = columns["hour_cos"] = st.floats(-1, 1, width=32)
        columns["country"] = COUNTRY.map(float)
    return st.fixed_dictionaries(columns)


Row = tuple[int, int, str, int, dict[str, float], dict[str, float]]
ROW: st.SearchStrategy[Row] = st.tuples(
    st.integers(946_684_800_000_000, 4_102_444_800_000_000),
    AMOUNT,
    st.sampled_from(CHANNELS),
    COUNTRY,
    profiles(CUSTOMER_PROFILE),
    profiles(TERMINAL_PROFILE),
)


def matrix_of(rows: list[Row]) -> np.ndarray:
    """The kernel's matrix of some rows."""
    return vectorize(
        np.array([row[0] for row in rows], np.int64),
        np.array([row[1] for row in rows], np.int64),
        np.array([CHANNELS.index(row[2]) for row in rows], np.int8),
        np.array([row[3] for row in rows], np.int32),
        table(CUSTOMER_PROFILE, [row[4] for row in rows]),
        table(TERMINAL_PROFILE, [row[5] for row in rows]),
    )


def table(layout: Layout, rows: list[dict[str, float]]) -> np.ndarray:
    """Profiles by name as float32 rows."""
    values = [[row[column.name] for column in layout.columns] for row in rows]
    return np.array(values, np.float32).reshape(len(rows), layout.width)


@given(st.lists(ROW, max_size=12))
def test_the_kernel_and_its_twin_give_the_same_bits(rows: list[Row]) -> None:
    """For any payments and profiles, both give the same vectors, in the contract's order."""
    matrix = matrix_of(rows)
    assert matrix.shape == (len(rows), WIDTH)
    assert matrix.dtype == np.float32
    for row, vector in zip(rows, matrix, strict=True):
        expected = plain(*row)
        assert tuple(expected) == NAMES
        twin = np.array(list(expected.values())).astype(np.float32)
        different = [NAMES[k] for k in np.flatnonzero(twin.view("u4") != vector.view("u4"))]
        assert not different, different


@given(st.lists(ROW, min_size=1, max_size=12), st.randoms(use_true_random=False))
def test_a_row_depends_on_itself_only(rows: list[Row], random: object) -> None:
    """Order and company in the batch leave no trace in a vector."""
    shuffled = list(range(len(rows)))
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    together = matrix_of(rows)
    apart = matrix_of([rows[i] for i in shuffled])
    assert apart.tobytes() == together[shuffled].tobytes()
    assert matrix_of(rows[-1:]).tobytes() == together[-1:].tobytes()


@given(st.one_of(AMOUNT.map(float), st.floats(0, 1e13)))
def test_log2_is_one(value: float) -> None:
    """The logarithm made of exact operations is right, and compiled as written."""
    assert math.isclose(log2_1p(value), math.log2(1.0 + value), rel_tol=1e-9, abs_tol=1e-9)
    assert log2_1p(value) == log2_1p.py_func(value)


def test_the_calendar_is_utc() -> None:
    """Hours, nights and weekends follow UTC; 2025-01-04 was a Saturday."""
    saturday_us = 1_735_948_800_000_000
    nothing = ({c.name: c.default for c in layout.columns} for layout in
               (CUSTOMER_PROFILE, TERMINAL_PROFILE))  # fmt: skip
    customer, terminal = nothing
    hour_us = 3_600_000_000
    at = [saturday_us - 1, saturday_us, saturday_us + 6 * hour_us, saturday_us + 48 * hour_us]
    matrix = matrix_of([(t, 0, "CHIP", 0, customer, terminal) for t in at])
    assert matrix[:, NAMES.index("weekend")].tolist() == [0, 1, 1, 0]
    assert matrix[:, NAMES.index("night")].tolist() == [0, 1, 0, 1]
    assert matrix[2, NAMES.index("hour_sin")] == 1


def test_country_codes_come_from_two_bytes_only() -> None:
    """A null, empty or longer country is unknown; two bytes are one number."""
    column = Ragged.of([b"DE", None, b"", b"DEU", b"FR"])
    found = country_codes(column.data, column.start, column.length)
    assert found.tolist() == [country_code("DE"), 0, 0, 0, country_code("FR")]
    with pytest.raises(ValueError, match="DEU"):
        country_code("DEU")


def test_columns_that_do_not_fit_are_refused() -> None:
    """A column or profile table of another length never reaches the loop that checks nothing."""
    n = 3
    good: list[Any] = [
        np.zeros(n, np.int64),
        np.zeros(n, np.int64),
        np.zeros(n, np.int8),
        np.zeros(n, np.int32),
        np.zeros((n, CUSTOMER_PROFILE.width), np.float32),
        np.zeros((n, TERMINAL_PROFILE.width), np.float32),
    ]
    for k in range(1, len(good)):
        columns = [column[:-1] if at == k else column for at, column in enumerate(good)]
        with pytest.raises(ValueError, match="shapes"):
            vectorize(*columns)
    swapped = [*good[:4], good[5], good[4]]
    with pytest.raises(ValueError, match="shapes"):
        vectorize(*swapped)

"""The feature contract: names, order, defaults, and the id that stands for them."""

import numpy as np

import schemas
from features import vectorize as kernel
from features.contract import CHANNELS, CONTRACT_ID, FEATURES, NAMES, WIDTH, defaults
from features.profile import CUSTOMER_PROFILE, TERMINAL_PROFILE, Layout
from features.xxh64 import vector_hash
from models import manifest


def test_the_id_changes_on_purpose_only() -> None:
    """Whoever changes a feature, its default or a layout sees it here, and trains a new model."""
    assert CONTRACT_ID == "252583e16487ea7f"


def test_the_kernel_computes_what_it_did() -> None:
    """Other numbers for the same input need another KERNEL_VERSION, and so another contract."""
    n = 500
    i = np.arange(n)
    matrix = kernel.vectorize(
        i * 7_919_000_000_000 % 4_000_000_000_000_000,
        i**4 % 10_000_019,
        (i % len(CHANNELS)).astype(np.int8),
        (i % 5).astype(np.int32),
        _eighths(n, CUSTOMER_PROFILE.width),
        _eighths(n, TERMINAL_PROFILE.width),
    )
    assert int(np.bitwise_xor.reduce(vector_hash(matrix))) == 0x9A7B288AE2EB3688


def test_the_shipped_model_follows_the_contract() -> None:
    """The model in the package was trained on the features that the package computes."""
    shipped, _ = manifest.read()
    assert shipped.feature_contract_id == CONTRACT_ID
    assert shipped.features == NAMES


def test_features_are_told_apart() -> None:
    """Names are unique and no feature lacks its documentation, unit or reason code."""
    assert len(set(NAMES)) == WIDTH == len(FEATURES)
    assert all(f.doc and f.unit and f.reason == f.reason.upper() for f in FEATURES)


def test_channels_are_the_schemas() -> None:
    """The channel column's numbers mean the symbols of the Transaction schema, in its order."""
    fields = {field["name"]: field for field in schemas.load("transaction").parsed["fields"]}
    assert tuple(fields["channel"]["type"]["symbols"]) == CHANNELS
    by_number = [getattr(kernel, f"BY_{name}") for name in CHANNELS]
    assert by_number == list(range(len(CHANNELS)))


def test_the_kernels_columns_are_the_contracts() -> None:
    """The compiled loop's column numbers are the positions in the contract and the layouts."""
    assert [getattr(kernel, name.upper()) for name in NAMES] == list(range(WIDTH))
    assert _numbers(CUSTOMER_PROFILE, "C_") == list(range(CUSTOMER_PROFILE.width))
    assert _numbers(TERMINAL_PROFILE, "T_") == list(range(TERMINAL_PROFILE.width))


def test_without_profiles_features_take_their_defaults() -> None:
    """An unknown customer or terminal gives exactly the contract's defaults, bit for bit."""
    matrix = kernel.vectorize(
        np.array([1_700_000_000_000_000]),
        np.array([123_456]),
        np.array([CHANNELS.index("ECOMMERCE")], np.int8),
        np.array([kernel.country_code("DE")], np.int32),
        CUSTOMER_PROFILE.defaults[np.newaxis],
        TERMINAL_PROFILE.defaults[np.newaxis],
    )
    for k, feature in enumerate(FEATURES):
        if feature.source != "transaction":
            assert matrix[0, k].tobytes() == defaults()[k].tobytes(), feature.name


def _eighths(n: int, width: int) -> np.ndarray:
    """Some profiles whose values float32 holds exactly; some are of unknown entities."""
    return (np.arange(n * width) * 37 % 101 // 3 / 8).astype(np.float32).reshape(n, width)


def _numbers(layout: Layout, prefix: str) -> list[int]:
    return [getattr(kernel, prefix + column.name.upper()) for column in layout.columns]

"""The hash table of entities against a dict: rows, groups, eviction, and tokens that collide."""

from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app import entities
from app.entities import TOKEN_BYTES_MAX, Table, TableFull
from app.records import Int32s, Ragged

SIZE = 8
Name = tuple[bytes, int]

names = st.tuples(
    st.sampled_from([b"a", b"b", b"ab", b"c" * TOKEN_BYTES_MAX, b"\0", b"\0\0", b"d", b"e"]),
    st.integers(0, 2),
)
steps = st.one_of(
    st.tuples(st.just("rows"), st.lists(names, max_size=SIZE)),
    st.tuples(st.just("forget"), st.sets(st.integers(0, SIZE - 1))),
    st.tuples(st.just("evict"), st.sets(st.integers(0, SIZE - 1)), st.integers(1, SIZE)),
)


def asked(table: Table, wanted: list[Name]) -> tuple[list[int], list[int]]:
    """The rows of tokens and groups, and the new ones among them."""
    groups: Int32s = np.array([group for _, group in wanted], np.int32)
    found, new = table.rows(Ragged.of([token for token, _ in wanted]), groups)
    return found.tolist(), new.tolist()


@dataclass
class Model:
    """What the table should know: each row's name, and the call that used it last."""

    names: dict[int, Name] = field(default_factory=dict)
    used: dict[int, int] = field(default_factory=dict)
    calls: int = 0

    def rows(self, table: Table, wanted: list[Name]) -> None:
        """Look names up in both."""
        if SIZE - len(self.names) < len(wanted):
            with pytest.raises(TableFull):
                asked(table, wanted)
            return
        found, new = asked(table, wanted)
        known = {name: row for row, name in self.names.items()}
        unknown = list(dict.fromkeys(name for name in wanted if name not in known))
        assert names_of(table, new) == unknown
        assert not set(new) & self.names.keys()
        self.names |= dict(zip(new, unknown, strict=True))
        assert len(self.names) == len(known) + len(unknown)
        assert [self.names[row] for row in found] == wanted
        self.calls += 1
        self.used |= dict.fromkeys(found, self.calls)

    def forget(self, table: Table, rows: set[int]) -> None:
        """Free those of the rows that are in use."""
        gone = sorted(rows & self.names.keys())
        table.forget(np.array(gone, np.int32))
        for row in gone:
            del self.names[row], self.used[row]

    def evict(self, table: Table, may_go: set[int], wanted: int) -> None:
        """Free the longest unused of those that may go."""
        candidates = may_go & self.names.keys()
        mask = np.array([row in may_go for row in range(SIZE)])
        if len(candidates) < wanted:
            with pytest.raises(TableFull):
                table.evict(mask, wanted)
            return
        gone = set(table.evict(mask, wanted).tolist())
        assert gone <= candidates
        assert len(gone) >= wanted
        kept = [self.used[row] for row in candidates - gone]
        assert max(self.used[row] for row in gone) <= min(kept, default=self.calls)
        for row in gone:
            del self.names[row], self.used[row]


def names_of(table: Table, rows: list[int]) -> list[Name]:
    """Whose these rows are."""
    at = np.array(rows, np.int64)
    return [*zip(table.tokens(at), table.groups(at).tolist(), strict=True)]


@given(st.lists(steps, max_size=30))
def test_does_what_a_dict_does(done: list[tuple[object, ...]]) -> None:
    """Whatever is asked, forgotten and evicted in whatever order."""
    table, model = Table(SIZE), Model()
    for name, *arguments in done:
        getattr(model, str(name))(table, *arguments)
        rows = table.in_use().tolist()
        assert dict(zip(rows, names_of(table, rows), strict=True)) == model.names
        for group in range(3):
            rows = {row for row, (_, of) in model.names.items() if of == group}
            assert set(table.in_use(group).tolist()) == rows
        assert (len(table), table.free) == (len(model.names), SIZE - len(model.names))


def test_a_full_table_is_left_as_it_was() -> None:
    """A batch that does not fit changes nothing: none of its new rows would ever be filled."""
    table = Table(4)
    asked(table, [(b"a", 0), (b"b", 0)])
    with pytest.raises(TableFull):
        asked(table, [(b"c", 0), (b"d", 0), (b"e", 0)])
    assert len(table) == 2
    assert len(asked(table, [(b"c", 0), (b"d", 0)])[1]) == 2


def test_equal_hashes_are_told_apart_by_their_bytes() -> None:
    """Tokens whose hashes are the same have rows of their own, also after others went."""
    one = [(b"x%d" % i, 0) for i in range(5)]
    table = Table(8)
    rows, _ = asked(table, one)
    table._slots.tag[rows] = 7  # as if all hashes were 7
    entities._index_anew(table._slots)
    taken = sorted(np.flatnonzero(table._slots.places >= 0).tolist())
    assert taken == list(range(7, 12))
    places = [
        entities._place(
            table._slots, np.uint64(7), np.frombuffer(token, np.uint8), 0, len(token), 0
        )
        for token, _ in one
    ]
    assert [table._slots.places[place] for place in places] == rows
    table.forget(np.array(rows[1:3], np.int32))
    again = [
        entities._place(
            table._slots, np.uint64(7), np.frombuffer(token, np.uint8), 0, len(token), 0
        )
        for token, _ in (one[0], *one[3:])
    ]
    assert [table._slots.places[place] for place in again] == [rows[0], *rows[3:]]


def test_an_eviction_makes_room_for_more_than_is_asked() -> None:
    """One row in eight at least, so that the next batches find room; the oldest go first."""
    table = Table(64)
    for i in range(64):
        asked(table, [(b"%d" % i, 0)])
    gone = table.evict(np.ones(64, np.bool_), 1)
    assert len(gone) == 8
    assert sorted(table.in_use().tolist()) == sorted(set(range(64)) - set(gone.tolist()))
    found, new = asked(table, [(b"%d" % i, 0) for i in range(8)])
    assert sorted(found) == sorted(new) == sorted(gone.tolist())


def test_a_batch_as_large_as_the_table_can_follow_another() -> None:
    """What was used last may go too: no batch in hand needs it any more."""
    table = Table(4)
    for first in (0, 4, 8):
        if table.free < 4:
            table.evict(np.ones(4, np.bool_), 4 - table.free)
        _, new = asked(table, [(b"%d" % (first + i), 0) for i in range(4)])
        assert len(new) == 4

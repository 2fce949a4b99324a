"""The age of the oldest record that waits: in hand, at the broker, given up."""

from app.ages import Ages
from tests.app.builders import T0, record_batch

APPENDED_US = T0 + 1000  # as `record_batch` has it
AT, AT1 = ("transactions", 0), ("transactions", 1)


def waiting(*rows: tuple[int, int]) -> Ages:
    """Ages where records of (partition, offset) wait."""
    ages = Ages()
    ages.polled(record_batch([(p, o, None, None) for p, o in rows]), {})
    return ages


def test_each_partition_has_the_age_of_its_oldest() -> None:
    """From the timestamp on, until that record is scored."""
    ages = waiting((0, 5), (0, 6), (1, 9))
    ages.polled(record_batch([(0, 7, None, None)]), {})
    now_us = APPENDED_US + 70
    assert ages.ages_us(now_us) == {AT: 70, AT1: 70}
    ages.scored(record_batch([(0, 5, None, None), (0, 6, None, None), (1, 9, None, None)]))
    assert ages.ages_us(now_us) == {AT: 70, AT1: 0}
    ages.scored(record_batch([(0, 7, None, None)]))
    assert ages.oldest_us(now_us, "transactions") == 0


def test_what_is_still_at_the_broker_counts() -> None:
    """Where nothing is in hand and there is lag: the age of the last record that was read."""
    ages = waiting((0, 5))
    ages.scored(record_batch([(0, 5, None, None)]))
    ages.behind({AT: 3, AT1: 0})
    assert ages.ages_us(APPENDED_US + 9) == {AT: 9}
    ages.behind({AT: 0})
    assert ages.ages_us(APPENDED_US + 9) == {AT: 0}


def test_other_topics_and_answered_records_do_not_shed() -> None:
    """Only the topic that is asked for; records of before the commit make state, nobody waits."""
    ages = Ages()
    ages.polled(record_batch([(0, 5, None, None)], topic="labels"), {})
    ages.polled(record_batch([(0, 5, None, None)]), {AT: 6})
    assert ages.oldest_us(APPENDED_US + 9, "transactions") == 0
    assert ages.oldest_us(APPENDED_US + 9, "labels") == 9


def test_partitions_that_are_given_up_have_no_age() -> None:
    """Nor do any after a rewind."""
    ages = waiting((0, 5), (1, 5))
    ages.forget({AT})
    assert ages.ages_us(APPENDED_US).keys() == {AT1}
    ages.forget()
    assert ages.ages_us(APPENDED_US) == {}

"""A poster's id alone decides its split. So no run, order or new poster moves it to another split."""

import numpy as np
import pytest

from genretag.data.labels import LabelledSet
from genretag.data.splits import SplitRule, split, split_of

IDS = [f"tt{number:07}" for number in range(10_000)]


@pytest.mark.parametrize(
    ("poster", "part"),
    [
        ("tt0", "test"),
        ("tt1", "validation"),
        ("tt2", "train"),
        ("tt3", "test"),
        ("tt5", "validation"),
        ("007", "train"),
    ],
)
def test_a_poster_is_in_the_same_part_on_every_machine(poster, part):
    assert split_of(poster) == part


def test_a_seed_gives_another_split():
    assert (split_of("posters/é"), split_of("posters/é", seed=1)) == ("train", "validation")


def test_any_text_is_an_id():
    assert split_of("\udc80") in ("train", "validation", "test")


def test_the_parts_have_the_fractions_asked_for():
    parts = [split_of(poster, validation=0.2, test=0.05) for poster in IDS]
    assert 0.18 < parts.count("validation") / len(IDS) < 0.22
    assert 0.04 < parts.count("test") / len(IDS) < 0.06


def test_another_validation_fraction_leaves_the_test_part_as_it_was():
    tests = [{poster for poster in IDS if split_of(poster, validation=v) == "test"} for v in (0.05, 0.3)]
    assert tests[0] == tests[1]


def test_a_larger_fraction_only_adds_posters_to_the_test_part():
    small, large = ({poster for poster in IDS if split_of(poster, test=share) == "test"} for share in (0.1, 0.2))
    assert small < large


def test_fractions_of_zero_put_every_poster_into_training():
    assert {split_of(poster, validation=0, test=0) for poster in IDS} == {"train"}


@pytest.mark.parametrize("shares", [(-0.1, 0.1), (0.5, 0.5), (0.1, float("nan"))])
def test_fractions_that_leave_nothing_to_train_on_are_refused(shares):
    with pytest.raises(ValueError, match="under 1 together"):
        split_of("tt1", validation=shares[0], test=shares[1])


def test_a_labelled_set_is_split_into_three_disjoint_parts_in_order():
    labelled = LabelledSet(("tt0", "tt1", "tt2", "tt3"), ("War",), np.array([[0], [1], [2], [3]], np.uint8))
    parts = split(labelled, SplitRule())
    assert (parts.train.ids, parts.validation.ids, parts.test.ids) == (("tt2",), ("tt1",), ("tt0", "tt3"))
    assert parts.test.multi_hot.tolist() == [[0], [3]]
    assert parts.train.labels == ("War",)

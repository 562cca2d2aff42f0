"""A training run uses a folder for its checkpoints, resumes from it, and empties it when the bundle is written."""

from dataclasses import replace

import numpy as np
import pytest
from conftest import SMALL_MODEL

from genretag.data.labels import LabelledSet
from genretag.data.splits import Splits
from genretag.errors import UsageError
from genretag.scoring.labelled_posters import LabelledPosters
from genretag.storage import Storage, join
from genretag.training.checkpoints import NOTE, RUN, opened_run


@pytest.fixture(params=["folder", pytest.param("bucket", marks=pytest.mark.slow)])
def checkpoints(request, tmp_path):
    return str(tmp_path / "runs") if request.param == "folder" else join(request.getfixturevalue("bucket"), "runs")


@pytest.fixture
def splits():
    return Splits(posters("Drama"), posters("Drama"), posters("Drama"))


def posters(label):
    """Return one labelled poster with this label."""
    return LabelledPosters(LabelledSet(("film",), (label,), np.ones((1, 1), np.uint8)), ["film.jpg"], ["1"])


def opened(checkpoints, splits, settings=SMALL_MODEL, *, resume=False):
    """Return a context manager that opens the run in the checkpoints folder."""
    return opened_run(checkpoints, settings, splits, Storage(), resume=resume)


@pytest.fixture
def interrupted(checkpoints, splits):
    """Return the checkpoints folder of a run that died after one epoch."""
    with pytest.raises(KeyboardInterrupt), opened(checkpoints, splits):
        Storage().put(join(checkpoints, RUN, "checkpoint_1", "weights.npz"), b"weights")
        raise KeyboardInterrupt
    return checkpoints


def files(folder):
    return [info.uri.removeprefix(f"{folder}/") for page in Storage().list(folder) for info in page]


def test_an_interrupted_run_goes_on_with_the_same_settings(interrupted, splits):
    with opened(interrupted, splits, resume=True):
        assert f"{RUN}/checkpoint_1/weights.npz" in files(interrupted)


def test_a_run_can_be_resumed_with_more_workers_or_another_cache(interrupted, splits):
    with opened(interrupted, splits, replace(SMALL_MODEL, workers="1..4", cache="none", max_failures=9), resume=True):
        assert files(interrupted)


def test_a_run_cannot_be_resumed_with_other_teachers(interrupted, splits):
    with (
        pytest.raises(UsageError, match=r"began with teachers \[\], not \['5f0c'\]: resume it with the same settings"),
        opened_run(interrupted, SMALL_MODEL, splits, Storage(), teachers=["5f0c"], resume=True),
    ):
        pass


def test_a_run_cannot_be_resumed_with_other_settings_and_the_line_names_them(interrupted, splits):
    other = replace(SMALL_MODEL, learning_rate=0.1)

    with (
        pytest.raises(UsageError, match=r"began with learning_rate 0\.0002, not 0\.1: resume it with the same"),
        opened(interrupted, splits, other, resume=True),
    ):
        raise AssertionError


def test_a_run_cannot_be_resumed_with_other_labels(interrupted, splits):
    with (
        pytest.raises(UsageError, match="began with other posters or labels"),
        opened(interrupted, replace(splits, train=posters("War")), resume=True),
    ):
        raise AssertionError


def test_resume_without_an_earlier_run_is_refused(checkpoints, splits):
    with (
        pytest.raises(UsageError, match=r"there is nothing to resume in .*start one without --resume"),
        opened(checkpoints, splits, resume=True),
    ):
        raise AssertionError


def test_a_run_that_ends_well_leaves_nothing_to_resume(interrupted, splits):
    with opened(interrupted, splits, resume=True):
        pass

    assert files(interrupted) == []
    with pytest.raises(UsageError, match="there is nothing to resume"), opened(interrupted, splits, resume=True):
        raise AssertionError


def test_a_run_that_could_not_begin_leaves_nothing_to_resume(checkpoints, splits):
    with pytest.raises(UsageError, match="too few"), opened(checkpoints, splits):
        raise UsageError("too few posters")

    with opened(checkpoints, splits):
        assert files(checkpoints) == [NOTE]


def test_a_resumed_run_that_ends_with_a_usage_error_keeps_its_checkpoints(interrupted, splits):
    with pytest.raises(UsageError, match="no such disk"), opened(interrupted, splits, resume=True):
        raise UsageError("no such disk")

    assert len(files(interrupted)) == 2


def test_a_new_run_is_refused_in_the_folder_of_an_unfinished_one(interrupted, splits):
    with (
        pytest.raises(UsageError, match="a run that did not end: go on with --resume, or name another folder"),
        opened(interrupted, splits),
    ):
        raise AssertionError


def test_a_damaged_note_is_said_to_be_damaged(checkpoints, splits):
    Storage().put(join(checkpoints, NOTE), b"{")

    with pytest.raises(UsageError, match="is damaged: remove the folder"), opened(checkpoints, splits, resume=True):
        raise AssertionError


def test_a_setting_that_the_earlier_version_lacked_counts_as_different(checkpoints, splits):
    Storage().put(join(checkpoints, NOTE), b'{"settings": {}, "posters": {}}')

    with (
        pytest.raises(UsageError, match="began with backbone None, not lite0"),
        opened(checkpoints, splits, resume=True),
    ):
        raise AssertionError

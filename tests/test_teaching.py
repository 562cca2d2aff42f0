"""Distillation: a network learns from the probabilities that teachers give the training posters."""

from dataclasses import replace

import numpy as np
import pytest
from conftest import SMALL_MODEL

from genretag.commands.train import train
from genretag.errors import UsageError
from genretag.model.bundle import load_bundle
from genretag.model.metrics import macro_map, null_probabilities
from genretag.runtime.session import Session
from genretag.scoring.pipeline import score_labelled, score_posters
from genretag.scoring.training_ids import Candidate
from genretag.storage import Storage
from genretag.training.distillation import load_teachers, with_targets
from genretag.training.settings import TrainRunSettings
from genretag.training.splits import read_labelled_posters


@pytest.fixture(scope="module")
def labels(poster_folder):
    return poster_folder.parent / "labels.csv"


@pytest.fixture(scope="module")
def splits(labels, poster_folder):
    return read_labelled_posters(str(labels), str(poster_folder), SMALL_MODEL, Storage())


@pytest.fixture(scope="module")
def teacher(small_bundle):
    return Candidate(small_bundle, load_bundle(small_bundle, Storage()))


def test_targets_mix_the_labels_and_the_teachers_probabilities(teacher, splits, ray_cluster, tmp_path):
    some = np.arange(len(splits.train)) < 20
    posters = splits.train.where(some)
    missing = str(tmp_path / "missing.jpg")
    posters = replace(posters, uris=[missing, *posters.uris[1:]])

    targets = with_targets(posters, [teacher, teacher], 0.75, ray_cluster, Storage()).targets

    truth = posters.labelled.multi_hot
    _, said = score_posters(posters, teacher.bundle, ray_cluster, Storage())
    np.testing.assert_array_equal(targets[0], truth[0], err_msg="it cannot be read")
    np.testing.assert_allclose(targets[1:], 0.25 * truth[1:] + 0.75 * said[1:], atol=1e-5)


def test_a_network_learns_from_its_teacher_even_if_the_labels_are_wrong(
    teacher, splits, labels, poster_folder, ray_cluster, tmp_path
):
    header, *rows = labels.read_text().splitlines()
    ids, cells = zip(*(row.split(",", 1) for row in rows), strict=True)
    moved = [f"{id},{cell}" for id, cell in zip(ids, [*cells[7:], *cells[:7]], strict=True)]
    (tmp_path / "wrong.csv").write_text("\n".join([header, *moved]))

    bundle = train(
        str(tmp_path / "wrong.csv"), str(poster_folder), str(tmp_path / "model"),
        replace(SMALL_MODEL, teacher_share=0.99), Session(quiet=True), TrainRunSettings(teacher=(teacher.location,)),
    )  # fmt: skip

    assert bundle.facts["training"]["teachers"] == [teacher.bundle.model_version]
    assert bundle.labels == splits.test.labelled.labels
    truth, said = score_labelled(splits.train, bundle, ray_cluster, Storage())
    null = null_probabilities(truth.mean(axis=0), len(truth))
    assert macro_map(truth, said) > macro_map(truth, null) + 0.1


def test_a_teacher_that_was_trained_on_validation_posters_is_refused(small_bundle, labels, poster_folder):
    other_split = read_labelled_posters(str(labels), str(poster_folder), replace(SMALL_MODEL, seed=1), Storage())

    with pytest.raises(UsageError, match=r"was trained on \d+ of the \d+ validation posters.*with the same split"):
        load_teachers([small_bundle], other_split, Storage())


def test_a_teacher_without_one_of_the_labels_is_refused(small_bundle, splits):
    labelled = splits.train.labelled
    other = replace(splits.train, labelled=replace(labelled, labels=("Opera", *labelled.labels[1:])))

    with pytest.raises(UsageError, match="does not know Opera: choose one that has all the labels"):
        load_teachers([small_bundle], replace(splits, train=other), Storage())

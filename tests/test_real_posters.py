"""The default model on real labelled posters is as good as its bundle says, and can read all of them."""

import re

import pytest
from conftest import REPOSITORY

from genretag.evaluation.select_posters import choose_posters
from genretag.model.bundle import DEFAULT_BUNDLE, load_bundle
from genretag.model.metrics import macro_map, null_probabilities
from genretag.scoring.labelled_posters import find_posters, read_label_file
from genretag.scoring.pipeline import score_labelled
from genretag.scoring.training_ids import Candidate
from genretag.settings import EvaluateSettings
from genretag.storage import Storage
from genretag.training.settings import TrainSettings
from genretag.training.splits import read_labelled_posters


def test_the_default_model_is_as_good_as_its_bundle_says(real_posters, ray_cluster):
    bundle = load_bundle(str(DEFAULT_BUNDLE), Storage())
    labels, images = str(real_posters / "train.csv"), str(real_posters / "images")
    found = find_posters(read_label_file(labels, Storage()), labels, images, Storage(), min_positives=0)
    test, others = choose_posters(found, [Candidate(str(DEFAULT_BUNDLE), bundle)], EvaluateSettings(), Storage())
    assert bundle.labels == test.labelled.labels
    assert bundle.facts["data"]["test"]["fingerprint"] == test.fingerprint, "another split than it was trained on"

    truth, probabilities = score_labelled(test, bundle, ray_cluster, Storage())

    assert len(truth) == len(test), "every real poster can be read"
    measured = macro_map(truth, probabilities)
    assert measured >= 0.28
    assert measured == pytest.approx(bundle.facts["metrics"]["test"]["model"]["macro_map"], abs=0.005)
    assert macro_map(truth, null_probabilities(others.labelled.multi_hot.mean(axis=0), len(truth))) < 0.12


def test_one_film_has_the_picture_of_another_and_follows_it_into_the_test_split(real_posters):
    """Two ids have one picture. By its own id, the larger would be a training poster and the smaller a test poster."""
    splits = read_labelled_posters(
        str(real_posters / "train.csv"), str(real_posters / "images"), TrainSettings(), Storage()
    )

    assert {name: len(part) for name, part in splits.parts().items()} == {"train": 5747, "validation": 720, "test": 765}
    assert {"tt0402577", "tt0420286"} <= set(splits.test.labelled.ids)


def test_the_three_later_posters_get_the_genres_that_the_readme_shows(real_posters, command, monkeypatch):
    shown = re.findall(r"^(\w+\.jpg): (.+)$", (REPOSITORY / "README.md").read_text(), flags=re.MULTILINE)
    monkeypatch.chdir(real_posters / "unseen")

    code, out, _ = command("predict", *(name for name, _ in shown))

    assert (code, len(shown)) == (0, 3)
    for line, (name, genres) in zip(out.splitlines(), shown, strict=True):
        got = dict(genre.rsplit(" ", 1) for genre in line.removeprefix(f"{name}: ").split(", "))
        for genre in genres.split(", "):
            label, probability = genre.rsplit(" ", 1)
            assert float(got[label]) == pytest.approx(float(probability), abs=0.03), "bfloat16 or not"

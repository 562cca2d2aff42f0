"""`genretag evaluate` measures a bundle on posters it was not trained on, next to the null model and another bundle."""

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from genretag.data.labels import LabelledSet
from genretag.data.splits import StoredImage, split_of
from genretag.errors import UsageError
from genretag.evaluation.select_posters import choose_posters
from genretag.images import ImageRule
from genretag.model.bundle import Bundle, load_bundle, write_bundle
from genretag.scoring.labelled_posters import FoundPosters
from genretag.scoring.training_ids import TRAINING_IDS, Candidate, training_ids_facts, training_ids_file
from genretag.settings import EvaluateSettings
from genretag.storage import Storage

IDS = tuple(f"tt{number}" for number in range(200))
EARLIER = {"training": {"seed": 0, "validation_share": 0.1, "test_share": 0.1}}  # facts that the first bundles had


@pytest.fixture(scope="module")
def films(poster_folder):
    """Write a CSV of the drawn posters' labels with two more columns: the year and a maker."""
    with (poster_folder.parent / "labels.csv").open() as file:
        rows = list(csv.DictReader(file))
    years = {file.stem: file.parent.name for file in poster_folder.rglob("*.*")}
    table = poster_folder.parent / "films.csv"
    with table.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["id", "labels", "year", "maker"])
        writer.writeheader()
        for number, row in enumerate(rows):
            writer.writerow(row | {"year": years[row["id"]], "maker": "odd" if number % 2 else "even"})
    return table


@pytest.fixture
def other_bundle(small_bundle, tmp_path):
    """Return a copy of the small bundle with thresholds that let every label through."""
    bundle = load_bundle(small_bundle, Storage())
    everything = {name: (0.0,) * len(bundle.labels) for name in bundle.thresholds}
    write_bundle(replace(bundle, thresholds=everything), str(tmp_path / "other"), Storage())
    shutil.copy(Path(small_bundle) / TRAINING_IDS, tmp_path / "other")
    return tmp_path / "other"


def test_a_bundle_is_measured_on_its_test_posters(
    command, ray_cluster, small_bundle, other_bundle, films, poster_folder, tmp_path
):
    code, out, err = command(
        "evaluate", small_bundle, "--labels", films, "--images", poster_folder, "--against", other_bundle,
        "--slice", "maker", "--slice", "year", "--bootstrap", "50", "--json", tmp_path / "figures.json", "--quiet",
    )  # fmt: skip

    assert code == 0, err
    bundle = load_bundle(small_bundle, Storage())
    found = json.loads((tmp_path / "figures.json").read_text())
    assert (found["model_version"], found["split"]) == (bundle.model_version, "test")
    assert found["posters"] == bundle.facts["data"]["test"]["posters"]
    assert found["null_from"] == "the bundle's training posters"
    _require_figures_like_those_of_training(found, bundle)
    _require_the_other_differs_in_thresholds_only(found)
    for column in ("maker", "year"):
        assert sum(part["posters"] for part in found["slices"][column].values()) == found["posters"]
    assert set(found["slices"]["maker"]) == {"even", "odd"}
    for shown in ("macro mAP", "ECE, 15 equal bins", "micro F1, precise", "labels per poster, top-3", "even", "odd"):
        assert shown in out


def _require_figures_like_those_of_training(found, bundle):
    for name, value in bundle.facts["metrics"]["test"]["model"].items():
        if name != "posters":
            figure = found["figures"].get(name) or found["figures"][f"{name}:balanced"]
            assert figure["value"] == pytest.approx(value, abs=1e-3), name
            assert figure["low"] <= figure["high"], name
    assert [row["label"] for row in found["by_label"]] == list(bundle.labels)
    for row in found["by_label"]:
        assert row["prevalence"] == pytest.approx(row["support"] / found["posters"])
        assert (row["average_precision"] is None) == (row["support"] == 0), "JSON has no NaN"


def _require_the_other_differs_in_thresholds_only(found):
    differences = found["against"]["differences"]
    assert found["against"]["model_version"] != found["model_version"]
    assert (differences["macro_map"]["value"], differences["macro_map"]["better_in"]) == (0, 0)
    assert found["against"]["figures"]["labels:balanced"]["value"] == len(found["labels"]), "it says everything"
    assert differences["labels:balanced"]["better_in"] is None
    assert differences["micro_f1:top-3"]["value"] == 0


def test_training_posters_of_the_bundle_are_refused_with_their_number(command, small_bundle, films, poster_folder):
    code, out, err = command(
        "evaluate", small_bundle, "--labels", films, "--images", poster_folder, "--split", "all", "--quiet"
    )

    trained = load_bundle(small_bundle, Storage()).facts["data"]["train"]["posters"]
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert f"was trained on {trained} of these 160 posters" in err
    assert "choose --split test, or pass --include-training" in err


def test_a_missing_column_is_named_before_anything_is_scored(command, small_bundle, films, poster_folder):
    code, _, err = command(
        "evaluate", small_bundle, "--labels", films, "--images", poster_folder, "--slice", "decade", "--quiet"
    )

    assert (code, err.count("\n")) == (2, 1)
    assert "no column is called 'decade': there are 'id', 'labels', 'year', 'maker'" in err


def test_a_missing_profile_is_named(command, small_bundle, films, poster_folder):
    code, _, err = command(
        "evaluate", small_bundle, "--labels", films, "--images", poster_folder, "--profile", "sure", "--quiet"
    )

    assert (code, "no threshold profile 'sure': it has balanced, precise, generous, top-3" in err) == (2, True)


def found_posters(labels=("Action", "War")):
    """Return two hundred posters without image files. All have the first label, and every other poster the second."""
    multi_hot = np.array([[1, number % 2] for number in range(len(IDS))], dtype=np.uint8)
    return FoundPosters(LabelledSet(IDS, labels, multi_hot), {id: StoredImage(f"/{id}", "", 0) for id in IDS})


def candidate(place, *, trained=None, facts=None, labels=("Action", "War")):
    """Return a bundle with the given facts. If `facts` is None, use those of the first bundles.

    If `trained` is given, the bundle also lists these ids as its training posters.
    """
    facts = dict(EARLIER if facts is None else facts)
    if trained is not None:
        content = training_ids_file(trained)
        Path(place).mkdir(exist_ok=True)
        (Path(place) / TRAINING_IDS).write_bytes(content)
        facts["training_ids"] = training_ids_facts(content)
    bundle = Bundle(labels, {"balanced": (0.5,) * len(labels)}, ImageRule(96, 64), "lite0", {}, facts)
    return Candidate(str(place), bundle)


def choose(*candidates, found=None, **settings):
    """Choose the posters for an evaluation of these bundles, and the other posters."""
    return choose_posters(found or found_posters(), candidates, EvaluateSettings(**settings), Storage())


def in_part(name, **shares):
    """Return the ids in a split: `train`, `validation` or `test`."""
    return tuple(id for id in IDS if split_of(id, **shares) == name)


def test_the_split_uses_the_seed_and_shares_of_the_bundles_training(tmp_path):
    other_protocol = {"training": {"seed": 5, "validation_share": 0.2, "test_share": 0.3}}

    posters, others = choose(candidate(tmp_path, facts=other_protocol))

    assert posters.labelled.ids == in_part("test", seed=5, validation=0.2, test=0.3)
    assert len(posters) + len(others) == len(IDS)
    validation, _ = choose(candidate(tmp_path), split="validation")
    assert validation.labelled.ids == in_part("validation")


def test_two_bundles_are_measured_on_posters_that_neither_was_trained_on(tmp_path):
    other = candidate(tmp_path, facts={"training": {"seed": 0, "validation_share": 0.1, "test_share": 0.3}})

    posters, _ = choose(other, candidate(tmp_path))

    assert posters.labelled.ids == in_part("test")


def test_without_a_list_of_training_posters_the_split_is_recomputed_with_a_warning(tmp_path, caplog):
    posters, _ = choose(candidate(tmp_path))

    assert posters.labelled.ids == in_part("test")
    assert "has no list of its training posters" in caplog.text
    with pytest.raises(UsageError, match=rf"was trained on {len(in_part('train'))} of these 200 posters"):
        choose(candidate(tmp_path), split="all")


def test_the_list_of_training_posters_overrides_the_recomputed_split(tmp_path):
    with pytest.raises(UsageError, match="was trained on 1 of these"):
        choose(candidate(tmp_path, trained=[in_part("test")[0], "elsewhere"]))
    posters, _ = choose(candidate(tmp_path, trained=["elsewhere"]), split="all")
    assert len(posters) == 200


def test_training_posters_of_the_second_bundle_are_refused_too(tmp_path):
    opponent = candidate(tmp_path / "b", trained=in_part("test"))

    with pytest.raises(UsageError, match=r"/b was trained on"):
        choose(candidate(tmp_path / "a", trained=[]), opponent)


def test_training_posters_are_measured_on_request(tmp_path):
    posters, others = choose(candidate(tmp_path, trained=IDS), split="all", include_training=True)

    assert (len(posters), len(others)) == (200, 0)


@pytest.mark.parametrize("content", [None, b"other ids"])
def test_a_missing_or_changed_list_of_training_posters_is_refused(tmp_path, content):
    trained = candidate(tmp_path, trained=["tt1"])
    (tmp_path / TRAINING_IDS).unlink()
    if content:
        (tmp_path / TRAINING_IDS).write_bytes(content)

    with pytest.raises(UsageError, match=r"training_ids.bin"):
        choose(trained)


def test_a_bundle_without_training_facts_needs_explicit_options(tmp_path):
    with pytest.raises(UsageError, match="pass --split all"):
        choose(candidate(tmp_path, facts={}))
    with pytest.raises(UsageError, match="pass --include-training"):
        choose(candidate(tmp_path, facts={}), split="all")
    assert len(choose(candidate(tmp_path, facts={}), split="all", include_training=True)[0]) == 200


def test_only_the_bundles_labels_count_and_posters_without_them_are_left_out(tmp_path):
    posters, _ = choose(
        candidate(tmp_path, trained=[], labels=("War", "Western")), found=found_posters(("N/A", "War")), split="all"
    )

    assert posters.labelled.labels == ("War", "Western")
    assert (len(posters), posters.labelled.positives().tolist()) == (100, [100, 0])


def test_two_bundles_are_compared_on_the_labels_that_both_know(tmp_path):
    small = candidate(tmp_path, trained=[], labels=("War", "Action"))

    posters, _ = choose(candidate(tmp_path, trained=[], labels=("Action", "N/A", "War")), small, split="all")

    assert posters.labelled.labels == ("Action", "War")
    with pytest.raises(UsageError, match="no label in common"):
        choose(small, candidate(tmp_path, trained=[], labels=("Shoes",)), split="all")


def test_a_csv_of_other_labels_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"none of the bundle's labels \(Shoes\): its labels are Action, War"):
        choose(candidate(tmp_path, labels=("Shoes",)))

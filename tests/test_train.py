"""Training reads labelled posters and writes a bundle that records how it was made."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import SMALL_MODEL

from genretag.commands import train as job
from genretag.demo.posters import LOOKS
from genretag.errors import UsageError
from genretag.images import ImageRule
from genretag.model.bundle import KERAS_FILE, load_bundle
from genretag.scoring.training_ids import TRAINING_IDS, among, read_training_ids
from genretag.storage import Storage, StorageError, join
from genretag.training.settings import TrainSettings
from genretag.training.splits import read_labelled_posters


def test_a_bundle_records_its_metrics(small_bundle):
    bundle = load_bundle(small_bundle, Storage())

    assert set(bundle.labels) <= set(LOOKS)
    assert bundle.rule == ImageRule(96, 64)
    metrics = bundle.facts["metrics"]
    assert metrics["validation"]["model"]["macro_map"] > metrics["validation"]["null"]["macro_map"]
    assert sum(split["posters"] for split in bundle.facts["data"].values()) == 160


def test_a_bundle_has_profiles_from_few_labels_to_many_and_says_how_it_was_calibrated(small_bundle):
    bundle = load_bundle(small_bundle, Storage())

    assert list(bundle.thresholds) == ["balanced", "precise", "generous"]
    for balanced, precise, generous in zip(*bundle.thresholds.values(), strict=True):
        assert precise >= balanced >= generous
    calibration = bundle.facts["calibration"]
    losses = calibration["cross_validated_cross_entropy"]
    assert calibration["method"] == ("platt" if losses["platt"] < losses["temperature"] else "temperature")
    assert {name: list(errors) for name, errors in calibration["ece"].items()} == {
        "validation": ["before", "after"], "test": ["before", "after"]
    }  # fmt: skip


def test_the_list_of_training_posters_is_next_to_the_bundle_and_not_part_of_it(small_bundle, poster_folder):
    bundle = load_bundle(small_bundle, Storage())
    splits = read_labelled_posters(str(poster_folder.parent / "labels.csv"), str(poster_folder), SMALL_MODEL, Storage())

    hashes = read_training_ids(small_bundle, bundle.facts["training_ids"], Storage())

    assert TRAINING_IDS not in bundle.files
    assert {name: int(among(part.labelled.ids, hashes).sum()) for name, part in splits.parts().items()} == {
        "train": len(splits.train), "validation": 0, "test": 0
    }  # fmt: skip
    prevalence = splits.train.labelled.multi_hot.mean(axis=0)
    assert bundle.facts["null"]["prevalence"] == pytest.approx(prevalence.tolist(), abs=1e-6)


def test_training_json_next_to_the_bundle_has_every_epoch(small_bundle):
    epochs = json.loads((Path(small_bundle) / "training.json").read_text())["epochs"]

    assert [epoch["epoch"] for epoch in epochs] == [1, 2]
    assert all(0 < epoch["loss"] < 1 and 0 < epoch["macro_map"] <= 1 for epoch in epochs)
    assert all(epoch["posters_per_s"] > 0 and epoch["workers"] == 1 for epoch in epochs)


def test_the_saved_model_loads_in_keras_without_custom_objects(small_bundle):
    import keras

    model = keras.saving.load_model(Path(small_bundle) / KERAS_FILE, compile=False, safe_mode=True)

    assert model.input_shape == (None, 96, 64, 3)


def test_each_poster_is_in_exactly_one_split(poster_folder):
    splits = read_labelled_posters(str(poster_folder.parent / "labels.csv"), str(poster_folder), SMALL_MODEL, Storage())

    ids = [poster for split in splits.parts().values() for poster in split.labelled.ids]
    assert len(ids) == len(set(ids)) == 160
    assert all(
        Path(uri).stem == poster
        for split in splits.parts().values()
        for poster, uri in zip(split.labelled.ids, split.uris, strict=True)
    )
    assert splits.train.fingerprint != splits.test.fingerprint


def test_labels_and_posters_may_be_in_a_bucket(bucket, storage, drawn_posters, poster_folder):
    for poster in drawn_posters[:60]:
        storage.put(join(bucket, poster.key), poster.data)
    storage.put(join(bucket, "labels.csv"), (poster_folder.parent / "labels.csv").read_bytes())

    splits = read_labelled_posters(join(bucket, "labels.csv"), join(bucket, "posters"), SMALL_MODEL, storage)

    assert sum(map(len, splits.parts().values())) == 60, "labels without an image are left out"


def test_too_few_posters_are_refused_in_words(poster_folder):
    with pytest.raises(UsageError, match="less than one batch of 512"):
        read_labelled_posters(
            str(poster_folder.parent / "labels.csv"),
            str(poster_folder),
            TrainSettings(batch_size=512, min_positives=5),
            Storage(),
        )


def test_a_bundle_that_cannot_be_written_gives_one_line_that_says_how_to_continue(
    command, ray_cluster, small_bundle, poster_folder, tmp_path, monkeypatch
):
    def refuse(*_arguments):
        raise StorageError("disk_full", "no space left")

    trained = load_bundle(small_bundle, Storage())
    monkeypatch.setattr(job, "fit", lambda *_arguments: SimpleNamespace(weights=[], history=[]))
    monkeypatch.setattr(job, "make_bundle", lambda *_arguments, **_options: SimpleNamespace(bundle=trained))
    monkeypatch.setattr(job, "write_bundle", refuse)
    labels, places = (
        poster_folder.parent / "labels.csv",
        ("--output", tmp_path / "model", "--checkpoints", tmp_path / "c"),
    )

    code, _, err = command("train", "--labels", labels, "--images", poster_folder, *places, "--min-positives", "5")

    assert code == 1
    assert err.endswith(
        f"cannot write the bundle to {tmp_path}/model any more: no space left; finished epochs are kept, the same "
        "command with --resume goes on from there\n"
    )

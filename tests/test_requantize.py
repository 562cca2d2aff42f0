"""Bundles of earlier versions, whose int8 network saturates on CPUs without VNNI.

The user of one is warned, and `genretag requantize` makes the int8 network again.
"""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import openvino
import pytest
from openvino import opset13

from genretag.model.bundle import INT8_FILES, load_bundle, write_bundle
from genretag.model.engines.openvino_engine import LARGEST_WEIGHT, saturating_layers_of
from genretag.model.engines.processors import CAP, this_processor
from genretag.runtime.ray_session import Cluster
from genretag.scoring.actor_plan import plan_actors
from genretag.scoring.actors import Predict
from genretag.scoring.settings import TagSettings
from genretag.storage import Storage
from genretag.training import make_bundle

SAYS = "has no VNNI"


def of_full_range(files, folder):
    """Return the int8 network with integers twice as large, as NNCF makes them by default."""
    model = openvino.Core().read_model(*(files[name] for name in INT8_FILES))
    for constant in model.get_ordered_ops():
        if constant.get_type_name() == "Constant" and constant.get_element_type().to_string() == "i8":
            if np.abs(constant.data.astype(int)).max() > LARGEST_WEIGHT:
                continue  # depthwise layers have the full range anyway
            (reader,) = constant.output(0).get_target_inputs()
            converted = reader.get_node()
            readers = converted.output(0).get_target_inputs()
            doubled = opset13.convert(opset13.constant(constant.data * np.int8(2)), "f32")
            half = opset13.multiply(doubled, opset13.constant(np.float32(0.5)))
            kind = converted.output(0).get_element_type().to_string()
            for after in readers:
                after.replace_source_output(opset13.convert(half, kind).output(0))
    openvino.save_model(model, folder / INT8_FILES[0])
    return {name: (folder / name).read_bytes() for name in INT8_FILES}


@pytest.fixture
def older(small_bundle, tmp_path):
    """Make the small bundle as an earlier version would have made it, and return the bundle and its location."""
    bundle, place = load_bundle(small_bundle, Storage()), tmp_path / "older"
    (tmp_path / "made").mkdir()
    bundle = replace(bundle, files={**bundle.files, **of_full_range(bundle.files, tmp_path / "made")})
    write_bundle(bundle, str(place), Storage())
    assert saturating_layers_of(bundle.files)
    return bundle, str(place)


def posters_of(poster_folder):
    """Return the flags for the labels and the images."""
    return "--labels", poster_folder.parent / "labels.csv", "--images", poster_folder


@pytest.mark.parametrize(("cap", "warned"), [("AVX2", True), ("", this_processor(cap="").saturates_in_int8)])
def test_an_older_model_is_a_warning_on_cpus_where_it_saturates(
    older, command, few_posters, monkeypatch, caplog, cap, warned
):
    monkeypatch.setenv(CAP, cap)
    _, place = older

    code, out, _ = command("predict", *few_posters.iterdir(), "--model", place)

    assert (code, len(out.splitlines())) == (0, 12)
    assert caplog.text.count(SAYS) == warned


def test_a_night_with_an_older_model_is_warned_once(older, ray_cluster, monkeypatch):
    monkeypatch.setenv(CAP, "AVX2")
    bundle, _ = older
    told, facts = [], {}
    ledger = SimpleNamespace(say=SimpleNamespace(remote=told.append), set=SimpleNamespace(remote=facts.update))

    Predict(plan_actors(Cluster(1, 0), TagSettings(), bundle), bundle, ledger)

    (line,) = told
    assert SAYS in line
    assert "`genretag requantize`" in line
    (engine,) = facts.values()
    assert engine["cpu"] == this_processor().model
    assert engine["instruction_sets"][-1] == "AVX2"
    assert (engine["precision"], engine["on_gpu"]) == ("int8", False)


def test_requantize_makes_a_network_that_does_not_saturate(older, command, poster_folder, tmp_path, monkeypatch):
    # 7-bit weights cost the small model more than a real model.
    monkeypatch.setattr(make_bundle, "MAP_IT_MAY_COST", 0.1)
    bundle, place = older

    code, out, err = command("requantize", place, *posters_of(poster_folder), "--output", tmp_path / "anew")

    assert code == 0, err
    anew = load_bundle(str(tmp_path / "anew"), Storage())
    assert saturating_layers_of(anew.files) == []
    assert {name for name, data in anew.files.items() if data != bundle.files[name]} == set(INT8_FILES)
    assert anew.model_version in out
    assert anew.facts["training"] == bundle.facts["training"]
    assert anew.facts["calibration"]["temperature"] == bundle.facts["calibration"]["temperature"]
    assert all(change["largest_difference"] <= 0.02 for change in anew.facts["int8"]["instruction_sets"].values())
    assert (tmp_path / "anew" / "report.html").exists()


def test_an_int8_network_that_still_saturates_is_left_out_of_the_bundle(
    older, command, poster_folder, tmp_path, monkeypatch, caplog
):
    bundle, place = older
    full_range = {name: bundle.files[name] for name in INT8_FILES}
    monkeypatch.setattr(make_bundle, "int8_files", lambda *_: full_range)

    code, _, err = command("requantize", place, *posters_of(poster_folder), "--output", tmp_path / "anew")

    assert code == 0, err
    assert "layers of the int8 network saturate on CPUs without VNNI" in caplog.text
    without = load_bundle(str(tmp_path / "anew"), Storage())
    assert not set(INT8_FILES) & set(without.files)
    assert without.facts["int8"]["kept"] is False


def test_other_posters_than_it_was_trained_with_are_refused(older, command, poster_folder, tmp_path):
    _, place = older
    lines = (poster_folder.parent / "labels.csv").read_text().splitlines()
    (tmp_path / "some.csv").write_text("\n".join(lines[:-20]))

    code, _, err = command(
        "requantize",
        place,
        "--quiet",
        "--labels",
        tmp_path / "some.csv",
        "--images",
        poster_folder,
        "--output",
        tmp_path / "anew",
    )

    assert (code, err.count("\n")) == (2, 1), err
    assert f"these are not the labelled posters that {place} was trained with" in err
    assert not (tmp_path / "anew").exists()


def test_an_existing_bundle_is_not_overwritten(older, command, poster_folder):
    _, place = older

    code, _, err = command("requantize", place, *posters_of(poster_folder), "--output", place)

    assert (code, f"there is a bundle at {place}" in err) == (2, True)


def test_a_bundle_that_does_not_say_how_it_was_trained_is_refused(older, command, poster_folder, tmp_path):
    bundle, place = older
    write_bundle(replace(bundle, facts={}), place, Storage())

    code, _, err = command("requantize", place, *posters_of(poster_folder), "--output", tmp_path / "anew")

    assert (code, "train the model again" in err) == (2, True)

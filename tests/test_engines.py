"""All engines run the same network. The reference for each is Keras in float32."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import openvino
import pytest

from genretag.errors import UsageError
from genretag.model import engines
from genretag.model.bundle import DEFAULT_BUNDLE, INT8_FILES, load_bundle
from genretag.model.engines import open_engine
from genretag.model.metrics import macro_map
from genretag.output.label_lists import genre_lists
from genretag.runtime.ray_session import Cluster
from genretag.scoring.actor_plan import plan_actors
from genretag.scoring.actors import Predict
from genretag.scoring.reader import PosterReader
from genretag.scoring.settings import TagSettings
from genretag.storage import Storage
from genretag.training.settings import TrainSettings
from genretag.training.splits import read_labelled_posters

FLOAT32 = [("tensorflow", "float32"), ("openvino", "float32")]
FASTER = [("openvino", "bfloat16", 0.98), ("openvino", "int8", 0.94), ("tensorflow", "bfloat16", 0.98)]
"""Engine, precision, and least share of posters that keep their most probable genre.

int8 has 7-bit weights, so that all CPUs give the same answers: 94.7 % of 1,485 posters keep it.
"""
MAP_IT_MAY_COST = 0.003


def pixels(uris, rule):
    """Decode the images at these URIs by the rule, as one array."""
    return np.stack([poster.image.pixels for poster in PosterReader(Storage(), rule, 4).read_many(uris)])


@pytest.fixture(scope="module")
def drawn(small_bundle, poster_folder):
    """Return the small bundle and the pixels of 20 drawn posters, resized for it."""
    bundle = load_bundle(small_bundle, Storage())
    return bundle, pixels([str(file) for file in sorted(poster_folder.rglob("*.*"))[:20]], bundle.rule)


@pytest.fixture(scope="module")
def real(real_posters):
    """Return the default bundle, and pixels, labels and Keras probabilities of real posters.

    The bundle was not trained on these posters.
    """
    bundle = load_bundle(str(DEFAULT_BUNDLE), Storage())
    splits = read_labelled_posters(
        str(real_posters / "train.csv"), str(real_posters / "images"), TrainSettings(), Storage()
    )
    held_out = (splits.validation, splits.test)
    images = pixels([uri for part in held_out for uri in part.uris], bundle.rule)
    truth = np.concatenate([part.labelled.multi_hot for part in held_out])
    return bundle, images, truth, open_engine("keras", bundle, 32, 2, "float32").predict(images)


def openvino_can():
    """Return the precisions that OpenVINO can compute in on this CPU."""
    return openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def genres(bundle, probabilities):
    return genre_lists(bundle.labels, probabilities, bundle.profile().predicted(probabilities)).to_pylist()


@pytest.mark.parametrize(("engine", "precision"), FLOAT32)
def test_in_float32_an_engine_gives_the_same_probabilities(drawn, engine, precision):
    bundle, images = drawn
    reference = open_engine("keras", bundle, 8, 2, "float32").predict(images)

    assert reference.shape == (20, len(bundle.labels))
    np.testing.assert_allclose(open_engine(engine, bundle, 8, 2, precision).predict(images), reference, atol=1e-3)


@pytest.mark.parametrize(("engine", "precision"), FLOAT32)
def test_in_float32_real_posters_get_the_same_genres(real, engine, precision):
    bundle, images, _, reference = real

    probabilities = open_engine(engine, bundle, 32, 2, precision).predict(images)

    np.testing.assert_allclose(probabilities, reference, atol=1e-3)
    same = [a == b for a, b in zip(genres(bundle, probabilities), genres(bundle, reference), strict=True)]
    assert np.mean(same) >= 0.995


@pytest.mark.parametrize(("engine", "precision", "same_first"), FASTER)
def test_faster_precisions_are_as_good_on_real_posters(real, engine, precision, same_first):
    bundle, images, truth, reference = real
    if (engine, precision) == ("openvino", "bfloat16") and "BF16" not in openvino_can():
        pytest.skip("this CPU does not compute in bfloat16")

    probabilities = open_engine(engine, bundle, 32, 2, precision).predict(images)

    assert np.abs(probabilities - reference).max() > 1e-4, "it computes in float32 after all"
    assert np.mean(probabilities.argmax(axis=1) == reference.argmax(axis=1)) >= same_first
    assert macro_map(truth, probabilities) == pytest.approx(macro_map(truth, reference), abs=MAP_IT_MAY_COST)


@pytest.mark.parametrize("posters", [0, 1, 7, 8, 9])
@pytest.mark.parametrize("engine", ["openvino", "tensorflow", "keras"])
def test_an_engine_takes_any_number_of_posters(small_bundle, engine, posters):
    bundle = load_bundle(small_bundle, Storage())
    images = np.random.default_rng(0).integers(0, 256, (posters, 96, 64, 3), dtype=np.uint8)
    loaded = open_engine(engine, bundle, 4, 2)

    probabilities = loaded.predict(images)

    assert probabilities.shape == (posters, len(bundle.labels))
    for index in range(posters):
        np.testing.assert_allclose(probabilities[index], loaded.predict(images[index : index + 1])[0], atol=1e-2)


def test_a_network_is_compiled_once_for_each_user(small_bundle, monkeypatch, tmp_path):
    """Engines from the cache, and from a cache whose file is damaged, give the probabilities of a compiled network."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    bundle = load_bundle(small_bundle, Storage())
    images = np.random.default_rng(1).integers(0, 256, (5, bundle.rule.height, bundle.rule.width, 3), dtype=np.uint8)

    def predict():
        engine = open_engine("openvino", bundle, 4, 1, "float32")
        return engine.predict(images), engine.precision

    compiled, precision = predict()
    (file,) = (path for path in tmp_path.rglob("*") if path.is_file())
    assert file.is_relative_to(tmp_path / "genretag" / "openvino")
    assert file.parent.stat().st_mode & 0o777 == 0o700
    written, whole = file.stat().st_mtime_ns, file.read_bytes()

    assert predict()[1] == precision
    np.testing.assert_array_equal(predict()[0], compiled)
    assert file.stat().st_mtime_ns == written, "not compiled again"

    file.chmod(0o600)
    file.write_bytes(whole[: len(whole) // 2])
    np.testing.assert_array_equal(predict()[0], compiled)


@pytest.mark.parametrize("place", ["/proc/no-folder-can-be-made-here", "~no-such-user/cache"])
def test_without_a_folder_for_a_cache_a_network_is_compiled_each_time(small_bundle, monkeypatch, place):
    monkeypatch.setenv("XDG_CACHE_HOME", place)
    bundle = load_bundle(small_bundle, Storage())
    images = np.zeros((2, bundle.rule.height, bundle.rule.width, 3), dtype=np.uint8)

    assert open_engine("openvino", bundle, 2, 1, "float32").predict(images).shape == (2, len(bundle.labels))


def test_a_folder_of_another_user_is_no_cache(small_bundle, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(os, "geteuid", lambda: tmp_path.stat().st_uid + 1)

    open_engine("openvino", load_bundle(small_bundle, Storage()), 2, 1, "float32")

    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_int8_is_the_default_if_the_bundle_has_an_int8_network(drawn):
    bundle, images = drawn
    with_int8 = {name: data for name, data in bundle.files.items() if name in INT8_FILES}
    assert len(with_int8) == len(INT8_FILES)
    chosen = open_engine("openvino", bundle, 8, 2).predict(images)

    np.testing.assert_array_equal(chosen, open_engine("openvino", bundle, 8, 2, "int8").predict(images))
    assert not np.array_equal(chosen, open_engine("openvino", bundle, 8, 2, "native").predict(images))


@pytest.mark.parametrize(
    ("engine", "precision", "says"),
    [
        ("openvino", "fp4", "no precision 'fp4': choose from native, float32, bfloat16, int8"),
        ("openvino", "int8", "the bundle has no int8 network: train it again"),
        ("tensorflow", "int8", "the tensorflow engine has no int8"),
    ],
)
def test_an_unavailable_precision_is_refused_in_words(drawn, engine, precision, says):
    bundle, _ = drawn
    without = replace(bundle, files={name: data for name, data in bundle.files.items() if name not in INT8_FILES})

    with pytest.raises(UsageError, match=says):
        open_engine(engine, without, 8, 2, precision)


ALONE = """
import json, sys, numpy as np
from genretag.model.bundle import load_bundle
from genretag.model.engines import open_engine
from genretag.storage import Storage
engine, bundle, images = sys.argv[1], load_bundle(sys.argv[2], Storage()), np.load(sys.argv[3])
print(json.dumps([open_engine(engine, bundle, 8, 2, name).predict(images).tolist() for name in sys.argv[4:]]))
"""


@pytest.mark.parametrize(("engine", "backend"), [("jax", None), ("torch", None), ("keras", "jax"), ("keras", "torch")])
def test_keras_runs_the_network_on_its_other_backends_too(drawn, small_bundle, tmp_path, engine, backend):
    pytest.importorskip(backend or engine, reason=f"{backend or engine} is not installed: pip install it to test this")
    bundle, images = drawn
    np.save(tmp_path / "images.npy", images)
    environment = {name: value for name, value in os.environ.items() if name != "KERAS_BACKEND"}

    ran = subprocess.run(
        [sys.executable, "-c", ALONE, engine, small_bundle, str(tmp_path / "images.npy"), "float32", "bfloat16"],
        env={**environment, "KERAS_BACKEND": backend} if backend else environment,
        capture_output=True,
        text=True,
    )

    assert ran.returncode == 0, ran.stderr
    reference = open_engine("keras", bundle, 8, 2, "float32").predict(images)
    exact, faster = np.array(json.loads(ran.stdout.splitlines()[-1]))
    np.testing.assert_allclose(exact, reference, atol=1e-3)
    assert 1e-4 < np.abs(faster - reference).max() < 0.05


def test_another_backend_than_the_one_that_keras_runs_on_is_refused(small_bundle, monkeypatch):
    monkeypatch.setattr(engines, "find_spec", lambda name: name)
    open_engine("keras", load_bundle(small_bundle, Storage()), 8, 2)

    with pytest.raises(UsageError, match="Keras runs on tensorflow here: set KERAS_BACKEND=jax"):
        open_engine("jax", load_bundle(small_bundle, Storage()), 8, 2)


@pytest.mark.parametrize(
    ("engine", "says"), [("jax", "'genretag.jax.'"), ("torch", "keras torch"), ("tensorflow", "'genretag.gpu.'")]
)
def test_an_engine_that_is_not_installed_says_what_to_install(drawn, monkeypatch, engine, says):
    monkeypatch.setattr(engines, "find_spec", lambda name: None)

    with pytest.raises(UsageError, match=f"the {engine} engine needs its package: pip install {says}"):
        open_engine(engine, drawn[0], 8, 2)


def test_an_engine_that_finds_no_gpu_is_reported(small_bundle, ray_cluster):
    """Ray declares a GPU for the engine, but the installed package is for CPUs only."""
    bundle, told, facts = load_bundle(small_bundle, Storage()), [], {}
    plan = plan_actors(Cluster(16, 1), TagSettings(engine="tensorflow"), bundle)

    ledger = SimpleNamespace(say=SimpleNamespace(remote=told.append), set=SimpleNamespace(remote=facts.update))

    Predict(plan, bundle, ledger)

    assert told == ["the tensorflow engine sees no GPU, so CPUs predict: install its package for GPUs"]
    assert [(engine["on_gpu"], engine["precision"]) for engine in facts.values()] == [(False, "float32")]

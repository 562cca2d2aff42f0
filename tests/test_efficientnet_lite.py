"""The backbone gives the known ImageNet answers of the published network. Weights files can only contain tensors."""

import pickle

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

from genretag.model import imagenet_weights as torch_file
from genretag.model.backbones import efficientnet_lite

# The reference implementation's answers (torch, efficientnet-lite-pytorch 0.1.0) for scikit-learn's two sample
# photographs (a Chinese palace, a flower): the five most probable ImageNet classes and the first one's probability.
REFERENCE = {
    ("lite0", 224): {
        "classes": [[442, 449, 663, 698, 483], [985, 309, 738, 994, 947]],
        "p": [0.232469, 0.152198],
    },
    ("lite1", 240): {
        "classes": [[698, 832, 663, 483, 497], [985, 108, 957, 599, 309]],
        "p": [0.193415, 0.035404],
    },
    ("lite2", 260): {
        "classes": [[698, 442, 483, 497, 663], [599, 310, 309, 994, 957]],
        "p": [0.275921, 0.328358],
    },
}


def imagenet_probabilities(name, images):
    """Return the probabilities of the 1,000 ImageNet classes for uint8 images."""
    backbone = efficientnet_lite.build_backbone(name, *images.shape[1:3])
    weights = efficientnet_lite.imagenet_weights(name)
    efficientnet_lite.load_imagenet_weights(backbone, name, weights)
    logits = backbone.predict(images, verbose=0) @ weights["_fc.weight"].T + weights["_fc.bias"]
    exponents = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponents / exponents.sum(axis=1, keepdims=True)


@pytest.mark.parametrize(("name", "size"), REFERENCE)
def test_photographs_get_the_probabilities_of_the_reference_implementation(name, size):
    photographs = load_sample_images().images
    images = np.stack([np.asarray(Image.fromarray(photo).resize((size, size))) for photo in photographs])

    probabilities = imagenet_probabilities(name, images)

    reference = REFERENCE[name, size]
    assert np.argsort(-probabilities, axis=1)[:, :5].tolist() == reference["classes"]
    np.testing.assert_allclose(probabilities.max(axis=1), reference["p"], atol=2e-5)


def test_a_weights_file_that_would_run_code_is_refused(tmp_path):
    class Harmful:
        def __reduce__(self):
            return (print, ("this must never run",))

    file = tmp_path / "weights.pth"
    with file.open("wb") as out:
        for value in (torch_file.MAGIC_NUMBER, 1001, {}, {"layer": Harmful()}, []):
            pickle.dump(value, out, protocol=2)

    with pytest.raises(pickle.UnpicklingError, match="not a tensor"):
        torch_file.read_torch_file(file)


def test_a_file_of_another_format_is_refused(tmp_path):
    file = tmp_path / "weights.pth"
    file.write_bytes(pickle.dumps({"not": "weights"}))

    with pytest.raises(pickle.UnpicklingError, match="not a legacy PyTorch weights file"):
        torch_file.read_torch_file(file)

"""Evidence masks lie on what supports a genre, however the network and the thumbnail see the poster."""

import base64
import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from test_explain import COLOURS, SIDE, colour_finder

from genretag.images import ImageRule
from genretag.model.bundle import load_bundle
from genretag.reports.evidence_masks import evidence_masks
from genretag.reports.tagged_posters import Picture
from genretag.storage import Storage

WIDTH, HEIGHT = 200, 400


@pytest.fixture
def poster(tmp_path):
    """Return a grey poster with a red square, its box in pixels and its picture."""
    box = (120, 240, 170, 290)
    image = Image.new("RGB", (WIDTH, HEIGHT), (110, 110, 110))
    image.paste(COLOURS["red"], box)
    image.save(tmp_path / "poster.png")
    uri = str(tmp_path / "poster.png")
    return box, Picture(uri, Storage().stat(uri).etag, WIDTH, HEIGHT)


def centre_of(mask):
    """Return where a mask is transparent on average, as shares of its width and height."""
    opacity = np.asarray(Image.open(io.BytesIO(base64.b64decode(mask))).split()[1], dtype=np.float64)
    light = opacity.max() - opacity
    down, across = (np.arange(side) + 0.5 for side in light.shape)
    return (light.sum(0) @ across / light.sum() / len(across), light.sum(1) @ down / light.sum() / len(down))


@pytest.mark.parametrize("resize", ["squash", "letterbox", "crop"])
@pytest.mark.parametrize("known", [True, False], ids=["whole poster", "middle of the poster"])
def test_a_mask_is_transparent_on_the_object(tmp_path, poster, resize, known):
    (left, top, right, bottom), picture = poster
    bundle = replace(load_bundle(colour_finder(tmp_path), Storage()), rule=ImageRule(SIDE, SIDE, resize))
    picture = picture if known else Picture(picture.uri, picture.etag)

    (masks,) = evidence_masks([picture], [[0]], bundle, Storage())

    across, down = centre_of(masks[0])
    view = (0, HEIGHT) if known else (50, 350)  # a crop to 2:3 takes away 50 pixels above and below
    assert left < across * WIDTH < right
    assert top < view[0] + down * (view[1] - view[0]) < bottom


def test_what_the_network_did_not_see_is_dark(tmp_path, poster):
    bundle = replace(load_bundle(colour_finder(tmp_path), Storage()), rule=ImageRule(SIDE, SIDE, "crop"))

    ((mask,),) = evidence_masks([poster[1]], [[0]], bundle, Storage())

    opacity = np.asarray(Image.open(io.BytesIO(base64.b64decode(mask))).split()[1])
    assert opacity.shape == (18, 9)
    assert opacity[:4].min() == opacity[-4:].min() == opacity.max(), (
        "a square crop leaves out a quarter above and below"
    )
    assert opacity.min() < 0.2 * opacity.max()


def test_a_poster_that_changed_or_has_no_labels_has_no_mask(tmp_path, poster):
    bundle = load_bundle(colour_finder(tmp_path), Storage())
    changed = replace(poster[1], etag="another")

    masks = evidence_masks([changed, poster[1], poster[1]], [[0], [], [0, 2]], bundle, Storage())

    assert [len(some) for some in masks] == [0, 0, 2]

"""A valid file of any layout shows its picture, or is refused as one that is not decoded here: never nonsense."""

import base64

import numpy as np
import pytest
import pyvips
from image_decoding import RULE, failure, odd_metadata_is_silent
from picture_variants import Variant, small, variants

from genretag.images import decode

pytestmark = odd_metadata_is_silent

READ_ALL = """async (source) => {
    const image = new Image();
    image.src = source;
    await image.decode();
    const canvas = new OffscreenCanvas(image.naturalWidth, image.naturalHeight), page = canvas.getContext("2d");
    page.fillStyle = "white";
    page.fillRect(0, 0, canvas.width, canvas.height);
    page.drawImage(image, 0, 0);
    return [canvas.height, canvas.width, Array.from(page.getImageData(0, 0, canvas.width, canvas.height).data)];
}"""


def judged_by(reader: str) -> list[Variant]:
    return [variant for variant in variants() if variant.judge == reader and variant.shows is not None]


def difference(pixels: np.ndarray, variant: Variant) -> int:
    """The largest one of any channel of any pixel."""
    return int(np.abs(pixels.astype(int) - variant.resized(RULE.width, RULE.height)).max())


def test_the_variants_are_many_and_their_names_are_their_own() -> None:
    assert len({variant.name for variant in variants()}) == len(variants()) >= 250


@pytest.mark.parametrize("variant", variants(), ids=lambda variant: variant.name)
def test_a_variant_shows_its_picture_or_is_refused_with_the_true_reason(variant: Variant) -> None:
    if variant.shows is None:
        assert failure(variant.data).reason == "unsupported_format"
        return
    decoded = decode(variant.data, RULE)
    assert (decoded.height, decoded.width) == variant.shows.shape[:2]
    assert difference(decoded.pixels, variant) <= variant.tolerance


@pytest.mark.parametrize("variant", judged_by("libvips"), ids=lambda variant: variant.name)
def test_libvips_sees_the_same_picture(variant: Variant) -> None:
    image = pyvips.Image.new_from_buffer(variant.data, "").colourspace("srgb")
    image = image.flatten(background=[255, 255, 255]) if image.hasalpha() else image
    assert (
        difference(small(image.numpy().astype(np.uint8)[..., :3], RULE.width, RULE.height), variant)
        <= variant.tolerance
    )


def test_chromium_sees_the_same_pictures(browser) -> None:
    page = browser.new_page()
    page.goto("about:blank")
    differences = {}
    for variant in judged_by("chromium"):
        kind = variant.name.partition("-")[0].replace("apng", "png")
        source = f"data:image/{kind};base64,{base64.b64encode(variant.data).decode()}"
        height, width, values = page.evaluate(READ_ALL, source)
        seen = np.reshape(values, (height, width, 4))[..., :3].astype(np.uint8)
        differences[variant.name] = difference(small(seen, RULE.width, RULE.height), variant)
    page.close()
    assert len(differences) > 20
    assert {name: most for name, most in differences.items() if most > 6} == {}

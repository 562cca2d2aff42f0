"""A valid file of any layout shows its picture, or is refused because its format is not decoded."""

import base64
import io

import numpy as np
import pytest
import pyvips
from image_decoding import RULE, failure, odd_metadata_is_silent
from picture_variants import Variant, small, variants
from PIL import Image

from genretag.images.decoding import BadImage, decode

pytestmark = odd_metadata_is_silent

ON_A_WHITE_PAGE = """async (source) => {
    const image = new Image();
    image.src = source;
    await image.decode();
    const canvas = Object.assign(document.createElement("canvas"), {width: image.width, height: image.height});
    const page = canvas.getContext("2d");
    page.fillStyle = "white";
    page.fillRect(0, 0, canvas.width, canvas.height);
    page.drawImage(image, 0, 0);
    return canvas.toDataURL("image/png");
}"""

# One test for each kind of variant. 300 separate tests would take longer to start than to run.
KINDS = sorted({"-".join(variant.name.split("-")[:2]) for variant in variants()})


def of_kind(kind: str) -> list[Variant]:
    return [variant for variant in variants() if variant.name == kind or variant.name.startswith(f"{kind}-")]


def difference(pixels: np.ndarray, variant: Variant) -> int:
    """Return the largest difference of any channel of any pixel from the expected picture."""
    return int(np.abs(pixels.astype(int) - variant.resized(RULE.width, RULE.height)).max())


def decoded_difference(variant: Variant) -> int | str:
    """Decode the file and return the difference from the expected picture.

    If the file is not decoded or has another size, return a text that says so.
    """
    try:
        decoded = decode(variant.data, RULE)
    except BadImage as bad:
        return f"refused: {bad}"
    size = decoded.height, decoded.width
    return difference(decoded.pixels, variant) if size == variant.shows.shape[:2] else f"size {size}"


def test_there_are_many_variants_with_unique_names() -> None:
    assert len({variant.name for variant in variants()}) == len(variants()) >= 300


@pytest.mark.parametrize("kind", KINDS)
def test_a_variant_that_is_decoded_shows_its_picture(kind: str) -> None:
    found = {v.name: (decoded_difference(v), v.tolerance) for v in of_kind(kind) if v.shows is not None}
    assert {name: most for name, (most, tolerance) in found.items() if isinstance(most, str) or most > tolerance} == {}


@pytest.mark.parametrize("variant", [v for v in variants() if v.shows is None], ids=lambda variant: variant.name)
def test_a_variant_that_is_not_decoded_is_refused_with_the_true_reason(variant: Variant) -> None:
    bad = failure(variant.data)
    assert bad.reason == "unsupported_format"
    assert bad.message.startswith(variant.name.partition("-")[0].upper() + ": ")


@pytest.mark.parametrize("kind", KINDS)
def test_libvips_reads_the_expected_pictures(kind: str) -> None:
    for variant in of_kind(kind):
        if variant.judge == "libvips":
            image = pyvips.Image.new_from_buffer(variant.data, "").colourspace("srgb")
            image = image.flatten(background=[255, 255, 255]) if image.hasalpha() else image
            seen = small(image.numpy().astype(np.uint8)[..., :3], RULE.width, RULE.height)
            assert difference(seen, variant) <= variant.tolerance, variant.name


def test_chromium_shows_the_expected_pictures(browser) -> None:
    page = browser.new_page()
    page.goto("about:blank")
    differences = {}
    for variant in (variant for variant in variants() if variant.judge == "chromium"):
        kind = variant.name.partition("-")[0].replace("apng", "png")
        source = f"data:image/{kind};base64,{base64.b64encode(variant.data).decode()}"
        seen = Image.open(io.BytesIO(base64.b64decode(page.evaluate(ON_A_WHITE_PAGE, source).partition(",")[2])))
        assert seen.size == variant.shows.shape[1::-1], variant.name
        differences[variant.name] = difference(small(np.asarray(seen.convert("RGB")), RULE.width, RULE.height), variant)
    page.close()
    assert len(differences) > 20
    assert {name: most for name, most in differences.items() if most > 6} == {}

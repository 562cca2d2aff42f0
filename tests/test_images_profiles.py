"""A picture has the same colours in any colour space, and pixels that are already sRGB stay exactly as they are."""

import io
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import pyvips
from colour_profiles import grey_profile, in_profile, muted, rgb_profile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from image_corpus import encode, png_chunk, scene, turned
from image_decoding import RULE, colour, failure, mean_difference, odd_metadata_is_silent
from picture_variants import SCENE, small
from PIL import Image, ImageCms
from variant_files import GREY, RGB, png, tiff

from genretag.images import colour as colours
from genretag.images import colour as icc
from genretag.images.decoding import decode
from genretag.images.resizing import RESIZES, ImageRule

pytestmark = odd_metadata_is_silent

P3, ADOBE = rgb_profile("Display P3"), rgb_profile("Adobe RGB")
PRESS = bytes(pyvips.Image.profile_load("cmyk"))
LOSSLESS = {"quality": 100}, {"lossless": True}
OPTIONS = {"JPEG": {"quality": 98, "subsampling": 0}, "WEBP": {"lossless": True}, "AVIF": {"quality": 98}}


def largest_difference(data: bytes, image: Image.Image) -> int:
    return int(np.abs(decode(data, RULE).pixels - small(np.asarray(image), RULE.width, RULE.height)).max())


def chunks(*named: tuple[bytes, bytes]) -> list[bytes]:
    return [png_chunk(name, content) for name, content in named]


def gamma(value: float) -> tuple[bytes, bytes]:
    return b"gAMA", struct.pack(">I", round(value * 100_000))


def profiled(profile: bytes) -> tuple[bytes, bytes]:
    return b"iCCP", b"a\0\0" + zlib.compress(profile)


def code_points(*values: int) -> tuple[bytes, bytes]:
    return b"cICP", bytes(values)


def shown(*named: tuple[bytes, bytes], value: int | tuple[int, ...] = 100, depth: int = 8) -> list[int]:
    """Return the colour that a PNG of one value with these chunks is decoded to."""
    samples = np.full((60, 40, 3), value, np.uint32)
    return decode(png(samples, depth, RGB, *chunks(*named)), RULE).pixels[0, 0].tolist()


# -- sRGB --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("resize", RESIZES)
@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP", "AVIF", "TIFF", "BMP"])
def test_a_picture_without_a_profile_has_exactly_the_pixels_of_pillow(image_format: str, resize: str) -> None:
    noise = np.random.default_rng(3).integers(0, 256, (90, 60, 3), dtype=np.uint8)
    data = encode(Image.fromarray(noise).resize((640, 960), Image.Resampling.BICUBIC), image_format)
    rule = ImageRule(120, 80, resize)

    image = Image.open(io.BytesIO(data))
    image.draft(None, rule.scaled_size(image.size))
    image.load()

    expected = rule.with_bars(rule.resized(image, (640, 960)))
    np.testing.assert_array_equal(decode(data, rule).pixels, np.asarray(expected))


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP", "AVIF", "TIFF"])
@pytest.mark.parametrize("profile", [bytes(pyvips.Image.profile_load("srgb")), ImageCms.createProfile("sRGB")])
def test_an_explicit_srgb_profile_changes_no_pixel(image_format: str, profile: object) -> None:
    content = profile if isinstance(profile, bytes) else ImageCms.ImageCmsProfile(profile).tobytes()
    plain, named = (encode(scene(), image_format, **options) for options in ({}, {"icc_profile": content}))
    np.testing.assert_array_equal(decode(named, RULE).pixels, decode(plain, RULE).pixels)


@pytest.mark.parametrize(
    "named",
    [
        [gamma(1 / 2.2)],
        [(b"sRGB", b"\0"), gamma(1.0)],
        [gamma(1 / 2.2), (b"cHRM", struct.pack(">8I", 31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000))],
        # CHRM without gAMA is ignored.
        [(b"cHRM", struct.pack(">8I", 31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000))],
        [code_points(1, 13, 0, 1), profiled(P3)],
        [code_points(2, 2, 0, 1)],
        [gamma(0.0)],
        [gamma(1000.0)],
    ],
)
def test_chunks_that_mean_srgb_or_nothing_change_no_pixel(named: list[tuple[bytes, bytes]]) -> None:
    plain = decode(png(SCENE, 8, RGB), RULE).pixels
    np.testing.assert_array_equal(decode(png(SCENE, 8, RGB, *chunks(*named)), RULE).pixels, plain)


# -- ICC profiles ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP", "AVIF", "TIFF"])
@pytest.mark.parametrize("profile", [P3, ADOBE, rgb_profile("sRGB", 1.8)], ids=["P3", "Adobe RGB", "gamma 1.8"])
def test_an_rgb_profile_is_applied_in_every_format(image_format: str, profile: bytes) -> None:
    image = muted(scene())
    options = OPTIONS.get(image_format, {})
    data = encode(in_profile(image, profile), image_format, icc_profile=profile, **options)
    assert largest_difference(data, image) <= (6 if image_format in ("JPEG", "AVIF") else 3)
    assert largest_difference(encode(in_profile(image, profile), image_format, **options), image) > 6


@pytest.mark.parametrize("image_format", ["JPEG", "TIFF"])
def test_the_profile_of_a_printing_press_is_applied(image_format: str) -> None:
    image = muted(scene())
    inks = in_profile(image, PRESS, "CMYK")
    options = OPTIONS.get(image_format, {})
    with_profile, without = (
        mean_difference(
            decode(encode(inks, image_format, **options, **more), RULE).pixels, small(np.asarray(image), 20, 30)
        )
        for more in ({"icc_profile": PRESS}, {})
    )
    assert with_profile < 4 < 8 < without


def test_full_ink_is_black_and_no_ink_is_white() -> None:
    assert max(colour(Image.new("CMYK", (40, 60), (255, 255, 255, 255)), "TIFF", icc_profile=PRESS)) <= 20
    assert colour(Image.new("CMYK", (40, 60), (0, 0, 0, 0)), "TIFF", icc_profile=PRESS) == [255, 255, 255]


@pytest.mark.parametrize("mode", ["L", "LA"])
@pytest.mark.parametrize("profile", [grey_profile(1.0), rgb_profile("sRGB", 1.0)], ids=["grey", "RGB"])
def test_a_grey_picture_takes_a_profile_of_grey_and_of_rgb(mode: str, profile: bytes) -> None:
    image = Image.new("L", (40, 60), 55)  # 55 / 255 in linear light is 128 in sRGB
    if mode == "LA":
        image.putalpha(255)
    got = colour(image, "PNG", icc_profile=profile)
    assert np.abs(np.subtract(got, 128)).max() <= 2


def test_a_palette_has_the_profiles_colours() -> None:
    image = Image.new("RGB", (40, 60), (200, 30, 60)).quantize(2)
    assert colour(image, "PNG", icc_profile=P3) == colour(image.convert("RGB"), "PNG", icc_profile=P3)


def test_a_profile_of_a_lab_picture_is_ignored() -> None:
    red = np.full((60, 40, 3), [136, 80, 67], np.uint8)
    plain, named = (tiff(red, 8, 8, tags=tags) for tags in ({}, {34675: ("B", list(P3))}))
    np.testing.assert_array_equal(decode(named, RULE).pixels, decode(plain, RULE).pixels)


def test_a_profile_does_not_change_transparency() -> None:
    clear = Image.new("RGBA", (40, 60), (200, 30, 60, 0))
    assert colour(clear, "PNG", icc_profile=P3) == [255, 255, 255]
    half = colour(Image.new("RGBA", (40, 60), (200, 30, 60, 128)), "PNG", icc_profile=ADOBE)
    whole = colour(Image.new("RGB", (40, 60), (200, 30, 60)), "PNG", icc_profile=ADOBE)
    assert np.abs(np.subtract(half, np.add(whole, 255) / 2)).max() <= 2


def test_the_profile_of_a_turned_picture_is_applied() -> None:
    image = muted(scene())
    data = turned(in_profile(image, ADOBE), 6, "PNG", icc_profile=ADOBE)
    assert largest_difference(data, image) <= 3


def test_the_resize_averages_after_the_conversion_to_srgb() -> None:
    stripes = np.zeros((300, 200, 3), np.uint8)
    stripes[:, ::2] = 255
    pixels = decode(encode(Image.fromarray(stripes), "PNG", icc_profile=rgb_profile("sRGB", 1.0)), RULE).pixels
    assert np.abs(pixels.astype(int) - 128).max() <= 5  # as for stripes in sRGB; averaging linear light would give 188


@pytest.mark.parametrize(
    "profile",
    [
        b"",
        b"garbage",
        P3[:300],
        P3.replace(b"mntr", b"link"),
        P3.replace(b"mntr", b"nmcl"),
        P3.replace(b"rXYZ", b"gone"),
        grey_profile(1.0),  # for another number of channels than the picture has
        PRESS,
        P3 + bytes(icc.MAX_PROFILE_BYTES),
    ],
    ids=["empty", "garbage", "cut", "link", "named colours", "colorant gone", "grey", "inks", "too large"],
)
def test_an_unusable_profile_is_ignored(profile: bytes) -> None:
    plain, named = (encode(scene(), "WEBP", lossless=True, **options) for options in ({}, {"icc_profile": profile}))
    np.testing.assert_array_equal(decode(named, RULE).pixels, decode(plain, RULE).pixels)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    profile=st.sampled_from([P3, grey_profile(2.2), PRESS[:200_000]]),
    changes=st.lists(st.tuples(st.integers(0, 700), st.integers(0, 255)), min_size=1, max_size=20),
)
def test_a_damaged_profile_spoils_no_picture(profile: bytes, changes: list[tuple[int, int]]) -> None:
    damaged = bytearray(profile)
    for position, value in changes:
        damaged[position % len(damaged)] = value
    for mode in ("RGB", "L", "CMYK"):
        data = encode(scene().convert(mode), "TIFF", icc_profile=bytes(damaged))
        assert decode(data, RULE).pixels.shape == (30, 20, 3)


# -- threads and memory ------------------------------------------------------------------------------------


def test_profiles_are_cached_up_to_a_limit() -> None:
    colours._profiled.cache_clear()
    for _ in range(5):
        colour(Image.new("RGB", (40, 60), (9, 9, 9)), "PNG", icc_profile=P3)
    assert colours._profiled.cache_info().misses == 1
    for number in range(2 * colours.MAX_CONVERSIONS):
        colour(Image.new("RGB", (40, 60), (9, 9, 9)), "PNG", icc_profile=rgb_profile("Adobe RGB", 1.5 + number / 50))
    assert colours._profiled.cache_info().currsize == colours.MAX_CONVERSIONS


def test_eight_threads_see_the_colours_that_one_sees() -> None:
    files = [
        encode(scene(), "JPEG", icc_profile=P3),
        encode(scene(), "PNG", icc_profile=ADOBE),
        encode(scene().convert("CMYK"), "JPEG", icc_profile=PRESS),
        encode(scene(), "PNG", icc_profile=rgb_profile("sRGB", 1.0)),
        png(SCENE, 8, RGB, *chunks(code_points(9, 16, 0, 1))),
    ]
    alone = [decode(data, RULE).pixels for data in files]
    colours._profiled.cache_clear()
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda data: decode(data, RULE).pixels, files * 20))
    assert all((pixels == alone[index % len(files)]).all() for index, pixels in enumerate(together))


# -- code points and gamma ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("named", "value", "expected"),
    [
        ([gamma(1.0)], 55, [128] * 3),
        ([gamma(0.55)], 100, [118] * 3),  # (100 / 255) ** (1 / .55) is the light of 118
        ([code_points(1, 8, 0, 1)], 55, [128] * 3),
        ([code_points(1, 4, 0, 1)], 100, [101] * 3),  # gamma 2.2
        ([code_points(1, 1, 0, 1)], 100, [90] * 3),  # BT.1886
        ([code_points(1, 16, 0, 1)], 148, [255] * 3),  # PQ: 203 cd/m2 is white
        ([code_points(1, 16, 0, 1)], 255, [255] * 3),  # PQ: brighter than white is also white
        ([code_points(1, 16, 0, 1)], 0, [0] * 3),
        ([code_points(1, 18, 0, 1)], 191, [255] * 3),  # HLG: 75 % is white
        ([code_points(1, 13, 0, 0)], 16, [0] * 3),  # narrow range: from 16 to 235
        ([code_points(1, 13, 0, 0)], 235, [255] * 3),
        ([code_points(12, 13, 0, 1)], (234, 51, 35), [255, 0, 0]),  # the red of sRGB in Display P3
        ([code_points(9, 13, 0, 1)], (200, 200, 200), [200] * 3),
        # CICP counts before iCCP, sRGB and gAMA.
        ([code_points(1, 8, 0, 1), profiled(P3), (b"sRGB", b"\0"), gamma(0.5)], 55, [128] * 3),
        ([profiled(rgb_profile("sRGB", 1.0)), (b"sRGB", b"\0"), gamma(0.5)], 55, [128] * 3),
        ([code_points(1, 8, 1, 1)], 100, [100] * 3),  # cICP with a matrix is not valid in PNG, and is ignored
    ],
)
def test_code_points_and_gamma_of_a_png_are_applied(named, value, expected) -> None:
    assert np.abs(np.subtract(shown(*named, value=value), expected)).max() <= 3


@pytest.mark.parametrize(("linear", "expected"), [(20, 1), (100, 5), (300, 15), (1000, 33)])
def test_dark_linear_16_bit_values_are_converted_with_full_precision(linear: int, expected: int) -> None:
    grey = np.full((60, 40), linear, np.uint32)
    rgb = np.repeat(grey[..., None], 3, axis=-1)
    profile = rgb_profile("sRGB", 1.0)
    files = [
        png(rgb, 16, RGB, *chunks(gamma(1.0))),
        png(grey, 16, GREY, *chunks(gamma(1.0))),
        png(rgb, 16, RGB, *chunks(profiled(profile))),
        *(
            tiff(rgb, 2, 16, order=order, deflated=deflated, tags={34675: ("B", list(profile))})
            for order in "<>"
            for deflated in (False, True)
        ),
        tiff(65535 - grey, 0, 16, tags={34675: ("B", list(grey_profile(1.0)))}),
    ]
    for data in files:
        assert np.abs(decode(data, RULE).pixels.astype(int) - expected).max() <= 1


def test_an_unknown_transfer_curve_is_refused_with_its_number() -> None:
    bad = failure(png(SCENE, 8, RGB, *chunks(code_points(1, 9, 0, 1))))
    assert bad.reason == "unsupported_format"
    assert "9 of H.273" in bad.message


def avif(primaries: int, transfer: int, value: int | tuple[int, int, int] = 100, **options: object) -> bytes:
    """Return an AVIF of one colour with these code points, which Pillow cannot write."""
    value = value if isinstance(value, tuple) else (value,) * 3
    data = encode(Image.new("RGB", (40, 60), value), "AVIF", quality=100, **options)
    at = data.index(b"colrnclx") + 8
    return data[:at] + struct.pack(">HH", primaries, transfer) + data[at + 4 :]


@pytest.mark.parametrize(
    ("points", "value", "expected"),
    [
        ((1, 13), 100, [100] * 3),
        ((2, 2), 100, [100] * 3),
        ((1, 1), 100, [100] * 3),  # encoders write BT.709 for sRGB
        ((1, 8), 55, [128] * 3),
        ((1, 16), 148, [255] * 3),
        ((1, 18), 191, [255] * 3),
        ((12, 13), (234, 51, 35), [255, 0, 0]),
    ],
)
def test_code_points_of_an_avif_are_applied(points, value, expected) -> None:
    got = decode(avif(*points, value), RULE).pixels[0, 0]
    assert np.abs(got.astype(int) - expected).max() <= 5


def test_the_profile_of_an_avif_counts_before_its_code_points() -> None:
    data = avif(1, 16, 100, icc_profile=ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    assert np.abs(decode(data, RULE).pixels.astype(int) - 100).max() <= 2


def test_damaged_boxes_of_an_avif_raise_only_bad_image() -> None:
    data = avif(1, 13)
    for name in (b"ipma", b"pitm", b"ipco", b"colr"):
        at = data.index(name)
        for damage in (bytes(4), b"\xff" * 4, b"\0\0\0\1"):
            try:
                decode(data[: at - 4] + damage + data[at:], RULE)
            except ValueError as bad:
                assert "BadImage" in type(bad).__name__

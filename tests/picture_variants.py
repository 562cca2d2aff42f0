"""Valid image files of one scene in many layouts, each with the pixels that it must show.

The expected pixels follow from how a file is made, without any reader. `libvips` and `chromium` confirm that the files
show them.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import product

import numpy as np
from image_corpus import encode, scene
from PIL import Image
from variant_files import GREY, GREY_ALPHA, RGB, RGBA, apng, bmp, colour_key, gif, png, tiff

SCENE = np.asarray(scene())
GREYS = np.asarray(scene().convert("L"))
HEIGHT, WIDTH = GREYS.shape
ALPHA = np.tile(np.linspace(0, 255, WIDTH).round().astype(np.uint8), (HEIGHT, 1))
RIGHT = np.tile(np.arange(WIDTH) >= WIDTH // 2, (HEIGHT, 1))  # the half of the picture that is transparent
WHITE_IS_ZERO, BLACK_IS_ZERO, TRUE_COLOUR, INDEXED, CMYK, YCBCR, CIELAB = 0, 1, 2, 3, 5, 6, 8
UNSPECIFIED, PREMULTIPLIED, STRAIGHT = 0, 1, 2  # values of TIFF's tag ExtraSamples


@dataclass(frozen=True, eq=False)
class Variant:
    """A file, and the pixels that it must show on a white page.

    `shows` is uint8 (height, width, 3), or (height, width) if grey. It is None if `decode` must refuse the format.
    """

    name: str
    data: bytes
    shows: np.ndarray | None
    judge: str = ""  # the reader that confirms `shows`: "libvips", "chromium", or "" for none
    tolerance: int = 3  # largest allowed difference of a channel, from 0 to 255, after the resize

    def resized(self, width: int, height: int) -> np.ndarray:
        return small(self.shows, width, height)


def small(pixels: np.ndarray, width: int, height: int) -> np.ndarray:
    """Return the pixels resized as the decoder resizes an sRGB PNG: int (height, width, 3)."""
    image = Image.fromarray(pixels).convert("RGB")
    return np.asarray(image.resize((width, height), Image.Resampling.BILINEAR), int)


@cache
def variants() -> tuple[Variant, ...]:
    makers = (_grey_tiffs, _colour_tiffs, _alpha_tiffs, _other_tiffs, _pngs, _animations, _bmps, _lossy, _refused)
    return tuple(variant for make in makers for variant in make())


def deep(pixels: np.ndarray, bits: int) -> np.ndarray:
    """Scale values from 0 to 255 to the range of `bits` bits."""
    return (pixels / 255 * (2.0**bits - 1)).round().astype(np.uint64 if bits > 32 else np.uint32)


def shallow(values: np.ndarray, bits: int) -> np.ndarray:
    """Scale values of `bits` bits back to uint8, from 0 to 255."""
    return (values / (2.0**bits - 1) * 255).round().astype(np.uint8)


def over_white(pixels: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Blend pixels with a straight (not premultiplied) alpha channel over white."""
    share = alpha.astype(float) / 255
    share = share[..., None] if pixels.ndim == 3 else share
    return (pixels * share + 255 * (1 - share)).round().astype(np.uint8)


# -- TIFF --------------------------------------------------------------------------------------------------


def _grey_tiffs() -> Iterator[Variant]:
    for bits, zero, order, deflated in product((1, 2, 4, 8, 12, 16, 32), (0, 1), "<>", (False, True)):
        values = deep(GREYS, bits)
        stored = 2**bits - 1 - values if zero == WHITE_IS_ZERO else values
        data = tiff(stored, zero, bits, order=order, deflated=deflated)
        judge = "" if bits == 12 else "libvips"  # libvips does not read 12 bits
        yield Variant(f"tiff-grey-{bits}-{zero}-{order}-{deflated}", data, shallow(values, bits), judge)
    for bits, zero in product((1, 2, 4, 8), (0, 1)):
        values = deep(GREYS, bits)
        stored = 2**bits - 1 - values if zero == WHITE_IS_ZERO else values
        if (bits, zero) != (8, 0):  # Pillow cannot read it, see `_refused`
            data = tiff(stored, zero, bits, fill_order=2)
            yield Variant(f"tiff-grey-{bits}-{zero}-reversed", data, shallow(values, bits), "libvips")
    # Such values have no fixed white: after the resize, the darkest pixel becomes black and the brightest white.
    steps = np.repeat(np.repeat(np.arange(6).reshape(3, 2), HEIGHT // 3, 0), WIDTH // 2, 1)
    shown = (steps * 51).astype(np.uint8)
    for zero, order, deflated in product((0, 1), "<>", (False, True)):
        values = 5 - steps if zero == WHITE_IS_ZERO else steps
        data = tiff((values * 0.3 - 0.7).astype(np.float32), zero, 32, order=order, deflated=deflated)
        yield Variant(f"tiff-float-{zero}-{order}-{deflated}", data, shown)
    for bits, order, deflated in product((16, 32), "<>", (False, True)):
        data = tiff(steps.astype(np.int64) * 1000 - 2500, BLACK_IS_ZERO, bits, order=order, deflated=deflated)
        yield Variant(f"tiff-signed-{bits}-{order}-{deflated}", data, shown)


def _colour_tiffs() -> Iterator[Variant]:
    for bits, order, planar, deflated, rows in product((8, 16), "<>", (False, True), (False, True), (17, HEIGHT)):
        layout = {"order": order, "planar": planar, "deflated": deflated, "rows": rows}
        name = f"{bits}-{order}-{'planes' if planar else 'pixels'}-{deflated}-{rows}"
        yield Variant(f"tiff-rgb-{name}", tiff(deep(SCENE, bits), TRUE_COLOUR, bits, **layout), SCENE, "libvips")
        inks = 255 - SCENE.astype(int)
        black = inks.min(axis=-1, keepdims=True) // 2
        data = tiff(deep(np.dstack([inks - black, black]), bits), CMYK, bits, **layout)
        shown = 255 - (inks - black) - black + (inks - black) * black / 255
        readable = not (planar and bits == 16 and not deflated)
        yield Variant(f"tiff-cmyk-{name}", data, shown.round().astype(np.uint8) if readable else None)


def _alpha_tiffs() -> Iterator[Variant]:
    kinds = {"straight": [STRAIGHT], "premultiplied": [PREMULTIPLIED], "unspecified": [UNSPECIFIED], "unnamed": []}
    for (kind, extra), bits, order, planar, deflated in product(
        kinds.items(), (8, 16), "<>", (False, True), (False, True)
    ):
        alpha = deep(ALPHA, bits)[..., None]
        stored = deep(SCENE, bits)
        if kind == "premultiplied":
            stored = (stored * (alpha / (2.0**bits - 1))).round().astype(np.uint32)
        layout = {"order": order, "planar": planar, "deflated": deflated, "extra": extra}
        data = tiff(np.dstack([stored, alpha]), TRUE_COLOUR, bits, **layout)
        shown = SCENE if kind == "unspecified" else over_white(SCENE, ALPHA)
        is_refused = planar and kind in (("unnamed",) if deflated else ("premultiplied", "unspecified"))
        name = f"tiff-rgba-{kind}-{bits}-{order}-{'planes' if planar else 'pixels'}-{deflated}"
        yield Variant(
            name, data, None if is_refused else shown, "" if is_refused or kind == "unspecified" else "libvips"
        )
    for kind, order, deflated in product(("straight", "premultiplied", "unspecified"), "<>", (False, True)):
        stored = GREYS * (ALPHA / 255) if kind == "premultiplied" else GREYS
        samples = np.dstack([stored.round().astype(np.uint32), ALPHA.astype(np.uint32)])
        data = tiff(samples, BLACK_IS_ZERO, 8, order=order, deflated=deflated, extra=kinds[kind])
        shown = GREYS if kind == "unspecified" else over_white(GREYS, ALPHA)
        judge = "" if kind == "unspecified" else "libvips"
        yield Variant(f"tiff-grey-alpha-{kind}-{order}-{deflated}", data, shown, judge)


def _other_tiffs() -> Iterator[Variant]:
    indexed = scene().quantize(16)
    shown = np.asarray(indexed.convert("RGB"))
    for bits, depth, order, deflated in product((4, 8), (8, 16), "<>", (False, True)):
        entries = np.zeros((2**bits, 3), int)
        entries[:16] = np.reshape(indexed.getpalette()[:48], (16, 3))
        tags = {320: ("H", (entries * (257 if depth == 16 else 1)).T.ravel().tolist())}
        data = tiff(np.asarray(indexed), INDEXED, bits, order=order, deflated=deflated, tags=tags)
        yield Variant(f"tiff-palette-{bits}-of-{depth}-bits-{order}-{deflated}", data, shown, "libvips")
    ycbcr = scene().convert("YCbCr")
    tags = {530: ("H", [1, 1])}
    for order, deflated in product("<>", (False, True)):
        data = tiff(np.asarray(ycbcr), YCBCR, 8, order=order, deflated=deflated, tags=tags)
        yield Variant(f"tiff-ycbcr-{order}-{deflated}", data, np.asarray(ycbcr.convert("RGB")))
    red = np.full((HEIGHT, WIDTH, 3), [136, 80, 67], np.uint8)  # L* 53.2, a* 80, b* 67 is the red of sRGB
    green = np.full((HEIGHT, WIDTH, 3), [224, 256 - 86, 83], np.uint8)  # L* 87.7, a* -86, b* 83 is the green of sRGB
    for name, lab, rgb in (("red", red, (255, 0, 0)), ("green", green, (0, 255, 0))):
        yield Variant(
            f"tiff-lab-{name}", tiff(lab, CIELAB, 8), np.full_like(SCENE, rgb), tolerance=12
        )  # because L*a*b* values are rounded


# -- PNG, APNG, GIF ----------------------------------------------------------------------------------------


def _pngs() -> Iterator[Variant]:
    for bits in (1, 2, 4, 8, 16):
        values = deep(GREYS, bits)
        yield Variant(f"png-grey-{bits}", png(values, bits, GREY), shallow(values, bits), "libvips")
        key = 2 ** (bits - 1) - 1
        keyed = np.where(RIGHT, key, np.where(values == key, key + 1, values))
        shown = np.where(RIGHT, 255, shallow(keyed, bits)).astype(np.uint8)
        yield Variant(f"png-grey-{bits}-key", png(keyed, bits, GREY, colour_key(key)), shown, "libvips")
    for bits in (8, 16):
        values, alpha = deep(SCENE, bits), deep(ALPHA, bits)
        yield Variant(f"png-rgb-{bits}", png(values, bits, RGB), SCENE, "libvips")
        keyed = np.where(RIGHT[..., None], 7, values)
        shown = np.where(RIGHT[..., None], 255, SCENE)
        if bits == 16:  # the upper half differs from the transparent colour in its low bytes only, and must be shown
            keyed[: HEIGHT // 2][RIGHT[: HEIGHT // 2]] = 8
            shown[: HEIGHT // 2][RIGHT[: HEIGHT // 2]] = 0
        data = png(keyed, bits, RGB, colour_key(7, 7, 7))
        yield Variant(f"png-rgb-{bits}-key", data, shown.astype(np.uint8), "chromium")
        data = png(np.dstack([values, alpha]), bits, RGBA)
        yield Variant(f"png-rgba-{bits}", data, over_white(SCENE, ALPHA), "libvips")
        data = png(np.dstack([deep(GREYS, bits), alpha]), bits, GREY_ALPHA)
        yield Variant(f"png-grey-alpha-{bits}", data, over_white(GREYS, ALPHA), "libvips")


def _animations() -> Iterator[Variant]:
    other = np.full_like(SCENE, (255, 0, 0))
    inside = (slice(40, 80), slice(20, 60))
    framed = np.full_like(SCENE, 255)
    framed[inside] = SCENE[inside]
    yield Variant("apng-hidden-default-image", apng(other, SCENE, 0, 0), SCENE, "chromium")
    yield Variant("apng-small-first-frame", apng(other, SCENE[inside], 20, 40), framed, "chromium")
    image = scene().quantize(200)
    indices, palette = np.asarray(image), np.zeros((256, 3), int)
    palette[:200] = np.reshape(image.getpalette()[:600], (200, 3))
    palette[255] = 255, 0, 0
    whole = np.asarray(image.convert("RGB"))
    framed = np.full_like(SCENE, 255)
    framed[inside] = whole[inside]
    for background in (0, 255):
        data = gif(indices[inside], palette, (WIDTH, HEIGHT), (20, 40), background=background)
        yield Variant(f"gif-small-first-frame-{background}", data, framed, "chromium")
        data = gif(indices[inside], palette, (WIDTH, HEIGHT), (20, 40), 254, background)
        yield Variant(f"gif-small-first-frame-transparent-{background}", data, framed, "chromium")
    hole = np.where(RIGHT, 254, indices)
    shown = np.where(RIGHT[..., None], 255, whole).astype(np.uint8)
    yield Variant("gif-transparent-half", gif(hole, palette, (WIDTH, HEIGHT), transparent=254), shown, "libvips")
    yield Variant("gif", gif(indices, palette, (WIDTH, HEIGHT)), whole, "libvips")


# -- BMP ---------------------------------------------------------------------------------------------------


def _bmps() -> Iterator[Variant]:
    blue_first = SCENE[..., ::-1]
    four = np.dstack([blue_first, ALPHA]).reshape(HEIGHT, -1)
    yield Variant("bmp-24", bmp(blue_first.reshape(HEIGHT, -1), 24), SCENE, "chromium")
    yield Variant("bmp-32-unused-byte", bmp(four, 32), SCENE, "chromium")
    colours = (0xFF0000, 0xFF00, 0xFF)
    for header in (56, 108, 124):
        data = bmp(four, 32, masks=(*colours, 0xFF000000), header=header)
        yield Variant(f"bmp-32-alpha-{header}", data, over_white(SCENE, ALPHA), "chromium")
        yield Variant(f"bmp-32-no-alpha-{header}", bmp(four, 32, masks=(*colours, 0), header=header), SCENE, "chromium")
    for name, bits, masks in (("555", (5, 5, 5), (0x7C00, 0x3E0, 0x1F)), ("565", (5, 6, 5), (0xF800, 0x7E0, 0x1F))):
        parts = [deep(SCENE[..., k], bits[k]) for k in range(3)]
        values = parts[0] << bits[1] + bits[2] | parts[1] << bits[2] | parts[2]
        shown = np.dstack([shallow(parts[k], bits[k]) for k in range(3)])
        data = bmp(values.astype("<u2").view(np.uint8).reshape(HEIGHT, -1), 16, masks=masks)
        yield Variant(f"bmp-16-{name}", data, shown, "chromium")
    lit = (GREYS > 128).astype(np.uint8)
    shown = np.where(lit, 255, 0).astype(np.uint8)
    for bits, first in product((1, 4, 8), (0, 255)):  # a palette of black and white in either order
        indices = lit if first == 0 else 1 - lit
        palette = b"".join(bytes([grey, grey, grey, 0]) for grey in (first, 255 - first))
        yield Variant(
            f"bmp-{bits}-two-colours-{first}",
            bmp(_in_bits(indices, bits), bits, palette=palette, colours=2),
            shown,
            "chromium",
        )
    dark = GREYS >> 4
    identity = b"".join(bytes([grey, grey, grey, 0]) for grey in range(16))
    yield Variant("bmp-4-dark-greys", bmp(_in_bits(dark, 4), 4, palette=identity), dark, "chromium")


def _in_bits(indices: np.ndarray, bits: int) -> np.ndarray:
    each_bit = (indices[..., None] >> np.arange(bits - 1, -1, -1) & 1).reshape(HEIGHT, -1)
    return np.packbits(each_bit.astype(np.uint8), axis=1)


# -- JPEG, WebP, AVIF --------------------------------------------------------------------------------------


def _lossy() -> Iterator[Variant]:
    clear = scene().copy()
    clear.putalpha(Image.fromarray(ALPHA))
    shown = over_white(SCENE, ALPHA)
    for name, image_format, options in (
        ("jpeg", "JPEG", {"quality": 95}),
        ("jpeg-4:4:4", "JPEG", {"quality": 95, "subsampling": 0}),
        ("jpeg-rgb", "JPEG", {"quality": 95, "keep_rgb": True}),
        ("jpeg-progressive", "JPEG", {"quality": 95, "progressive": True}),
        ("webp", "WEBP", {"quality": 95}),
        ("avif", "AVIF", {"quality": 95}),
        ("avif-4:4:4", "AVIF", {"quality": 95, "subsampling": "4:4:4"}),
    ):
        yield Variant(name, encode(scene(), image_format, **options), SCENE, "libvips", tolerance=8)
    yield Variant("webp-lossless", encode(scene(), "WEBP", lossless=True), SCENE, "libvips")
    yield Variant("webp-alpha", encode(clear, "WEBP", lossless=True), shown, "libvips")
    yield Variant("avif-alpha", encode(clear, "AVIF", quality=100), shown, "libvips", tolerance=6)
    premultiplied = encode(clear, "AVIF", quality=100, alpha_premultiplied=True)
    yield Variant("avif-premultiplied", premultiplied, shown, tolerance=6)


# -- valid files that `decode` refuses --------------------------------------------------------------------------------


def _refused() -> Iterator[Variant]:
    for bits in (3, 5, 6, 7, 10, 14, 24, 64):
        yield Variant(f"tiff-grey-{bits}", tiff(deep(GREYS, bits), BLACK_IS_ZERO, bits), None)
    yield Variant("tiff-grey-8-0-reversed", tiff(GREYS, WHITE_IS_ZERO, 8, fill_order=2), None)
    yield Variant("tiff-signed-8", tiff(GREYS.astype(np.int16) - 128, BLACK_IS_ZERO, 8), None)
    yield Variant("tiff-rgb-32", tiff(deep(SCENE, 32), TRUE_COLOUR, 32), None)
    yield Variant("tiff-rgb-float", tiff((SCENE / 255).astype(np.float32), TRUE_COLOUR, 32), None)
    two = np.dstack([deep(GREYS, 16), deep(ALPHA, 16)])
    yield Variant("tiff-grey-alpha-16", tiff(two, BLACK_IS_ZERO, 16, extra=[STRAIGHT]), None)
    yield Variant("tiff-grey-alpha-planes", tiff(two >> 8, BLACK_IS_ZERO, 8, extra=[STRAIGHT], planar=True), None)
    yield Variant(
        "tiff-grey-alpha-planes-deflated",
        tiff(two >> 8, BLACK_IS_ZERO, 8, extra=[STRAIGHT], planar=True, deflated=True),
        None,
    )
    yield Variant("tiff-lab-planes", tiff(SCENE, CIELAB, 8, planar=True), None)
    yield Variant("tiff-lab-16", tiff(deep(SCENE, 16), CIELAB, 16), None)
    yield Variant("tiff-icc-lab", tiff(SCENE, 9, 8), None)
    yield Variant("tiff-four-other-inks", tiff(np.dstack([SCENE, ALPHA]), CMYK, 8, tags={332: ("H", [2])}), None)
    yield Variant("tiff-colours-for-two-pixels", tiff(SCENE, YCBCR, 8, tags={530: ("H", [2, 2])}), None)
    four = np.dstack([SCENE, ALPHA]).reshape(HEIGHT, -1)
    yield Variant("bmp-10-bits", bmp(four, 32, masks=(0x3FF00000, 0xFFC00, 0x3FF)), None)
    yield Variant("bmp-2", bmp(_in_bits(GREYS >> 6, 2), 2, palette=bytes(16)), None)
    twelve = bytearray(encode(scene(), "JPEG"))
    twelve[twelve.index(b"\xff\xc0") + 4] = 12
    yield Variant("jpeg-12-bits", bytes(twelve), None)
    lossless = bytearray(encode(scene(), "JPEG"))
    lossless[lossless.index(b"\xff\xc0") + 1] = 0xC3
    yield Variant("jpeg-lossless", bytes(lossless), None)

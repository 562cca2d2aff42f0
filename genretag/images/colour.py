"""How a picture's numbers become sRGB: which of a file's statements counts, and when the conversion is due."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import product

import numpy as np
from PIL import Image

from genretag.images import icc
from genretag.images.avif_boxes import avif_code_points
from genretag.images.code_points import CodedColour, from_code_points, from_gamma, linear_to_srgb
from genretag.images.png_chunks import png_code_points
from genretag.images.readings import Unreadable

MAX_CONVERSIONS = 16  # of ICC profiles that are kept in this process; each takes up to some MB
ROWS = 16  # that are converted at a time where the whole picture is, to bound the memory
_SAME = 2  # levels of 255: a conversion that changes no colour by more is none
# Levels of 255 by which the middle between black and white may differ if the two are mixed before the conversion
# instead of after. Adobe RGB, Display P3 and printing presses differ by 0 to 3, ProPhoto RGB by 18, linear light by 60.
_MIX = 24
_GREY = ("1", "L", "LA", "La", "I;16", "I", "F")


@dataclass(frozen=True, eq=False)
class Conversion:
    """From a picture's own numbers to sRGB."""

    convert: Callable[[Image.Image], Image.Image]  # L, RGB or CMYK, as the file's, to RGB
    mixes: bool  # pixels may be averaged before it, as a resize does

    def small(self, image: Image.Image) -> Image.Image:
        """Return RGB, or RGBA if `image` has alpha: transparency is no colour."""
        if image.mode != "RGBA":
            return self.convert(image)
        converted = self.convert(image.convert("RGB"))
        converted.putalpha(image.getchannel("A"))
        return converted

    def whole(self, image: Image.Image, low: Image.Image | None = None) -> Image.Image:
        """Do the same for a picture of any size, a few rows at a time.

        `low`: the low bytes of a picture whose numbers have 16 bits; `image` holds the high ones. In the dark parts of
        linear light, one step of 8 bits is 13 levels of sRGB.
        """
        converted = Image.new("RGBA" if image.mode == "RGBA" else "RGB", image.size)
        for top in range(0, image.height, ROWS):
            box = (0, top, image.width, min(top + ROWS, image.height))
            rows = image.crop(box)
            part = self.small(rows)
            if low:
                part = _between(part, self.small(rows.point(_NEXT * len(rows.getbands()))), low.crop(box), rows)
            converted.paste(part, box)
        return converted


_NEXT = [*range(1, 256), 255]


def _between(part: Image.Image, following: Image.Image, low: Image.Image, rows: Image.Image) -> Image.Image:
    """Return what lies between the conversions of two steps, in the proportion that the low bytes say."""
    start, end = (np.asarray(image.convert("RGB"), np.float32) for image in (part, following))
    share = np.asarray(low.convert("RGB"), np.float32) / 256
    between = Image.fromarray((start + (end - start) * share).round().astype(np.uint8))
    if rows.mode == "RGBA":
        between.putalpha(rows.getchannel("A"))
    return between


@dataclass(frozen=True)
class _Profile:
    """An ICC profile, known by its digest."""

    digest: bytes
    content: bytes = field(compare=False, repr=False)


def conversion_of(image: Image.Image, encoded: bytes) -> Conversion | None:
    """Return how the numbers of an opened file become sRGB, or None if they are sRGB.

    In PNG cICP counts before iCCP, sRGB, and gAMA with cHRM, in AVIF an ICC profile before code points. Nothing said,
    and a profile that cannot be used: sRGB. Raises Unreadable for a curve that is not known here.
    """
    points = png_code_points(encoded) if image.format == "PNG" else None
    if points and points[2] == 0:  # PNG has no other matrix than RGB's own
        return _coded(from_code_points(points[0], points[1], bool(points[3]), is_video=True))
    profile = image.info.get("icc_profile")
    if isinstance(profile, bytes) and len(profile) <= icc.MAX_PROFILE_BYTES and image.mode != "LAB":
        channels = "L" if image.mode in _GREY else "CMYK" if image.mode == "CMYK" else "RGB"
        is_usable, conversion = _profiled(_Profile(hashlib.sha256(profile).digest(), profile), channels)
        if is_usable:
            return conversion
    if image.format == "AVIF" and (points := avif_code_points(encoded)):
        return _coded(from_code_points(points[0], points[1]))
    if image.format == "PNG" and "srgb" not in image.info and "gamma" in image.info:  # cHRM alone says nothing
        return _coded(from_gamma(image.info["gamma"], image.info.get("chromaticity")))
    return None


@lru_cache(MAX_CONVERSIONS)
def _profiled(profile: _Profile, channels: str) -> tuple[bool, Conversion | None]:
    """Return whether a profile can be used, and its conversion, if that is not sRGB's own."""
    convert = icc.icc_conversion(profile.content, channels)
    return (True, _judged(convert, channels)) if convert else (False, None)


@lru_cache(64)
def _coded(colour: CodedColour) -> Conversion | None:
    if unknown := colour.unknown():
        raise Unreadable(unknown)
    return _judged(_decoder(colour), "RGB")


def _decoder(colour: CodedColour) -> Callable[[Image.Image], Image.Image]:
    lights = colour.linear(np.arange(256) / 255)
    srgb = (linear_to_srgb(np.arange(65536) / 65535) * 255).round().astype(np.uint8)  # of 65,536 steps of light

    def levels(light: np.ndarray) -> np.ndarray:
        return srgb[(np.clip(light, 0, 1) * 65535 + 0.5).astype(np.uint16)]

    if colour.is_per_channel():
        table = levels(lights).tolist() * 3
        return lambda image: image.convert("RGB").point(table)
    return lambda image: Image.fromarray(levels(colour.srgb_lights(lights[np.asarray(image.convert("RGB"))])))


def _judged(convert: Callable[[Image.Image], Image.Image], channels: str) -> Conversion | None:
    """Return the conversion, or None if it leaves every colour of a grid as it is."""
    bands = 1 if channels == "L" else len(channels)
    if channels != "CMYK":
        grid = np.array(list(product(range(0, 256, 15), repeat=bands)), np.uint8)
        if np.abs(_colours(convert, grid, channels) - grid).max() <= _SAME:
            return None
    black, white = ([0, 0, 0, 255], [0] * 4) if channels == "CMYK" else ([0] * bands, [255] * bands)
    steps = np.array([black, white, np.add(black, white) // 2], np.uint8)
    dark, light, mixed = _colours(convert, steps, channels)
    return Conversion(convert, bool(np.abs(mixed - (dark + light) / 2).max() <= _MIX))


def _colours(convert: Callable[[Image.Image], Image.Image], colours: np.ndarray, channels: str) -> np.ndarray:
    """Convert colours, uint8 (count, bands), to int (count, 3)."""
    pixels = colours[None, :, 0] if channels == "L" else colours[None]
    return np.asarray(convert(Image.fromarray(np.ascontiguousarray(pixels), channels)), int)[0]

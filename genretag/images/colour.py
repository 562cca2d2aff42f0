"""Convert the stored values of a picture to sRGB.

A file can describe its colours by an ICC profile or by numbers. The numbers are code points of H.273 (the ITU's list of
colour encodings), or the PNG chunks gAMA and cHRM.
`conversion_of` chooses which description counts. `Conversion.mixes` says whether the resize may come before the
conversion.

Little CMS applies ICC profiles. A profile is ignored, as in browsers, if it is broken, too large, or made for other
channels than those of the picture. A picture without a usable description counts as sRGB. CMYK without a profile is
converted by Pillow's formula.

Sources for the numbers: ITU-T H.273 (07/2024) tables 2 and 3, BT.2100-2 (PQ, HLG), BT.2408-7 (reference white
203 cd/m2), BT.1886 (displays), PNG (third edition) 11.3.2, SMPTE ST 428-1. Chromium 156 shows the same colours, except
in HDR pictures: Chromium darkens them so that highlights stay visible.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import product

import numpy as np
from PIL import Image

from genretag.images.file_structure import avif_code_points
from genretag.images.icc import MAX_PROFILE_BYTES, icc_conversion
from genretag.images.samples import Unreadable, png_code_points

Chromaticities = tuple[float, float, float, float, float, float, float, float]  # x and y of white, red, green and blue

_D65, _C, _DCI, _E = (0.3127, 0.3290), (0.310, 0.316), (0.314, 0.351), (1 / 3, 1 / 3)
SRGB: Chromaticities = (*_D65, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06)
_PRIMARIES: dict[int, Chromaticities] = {  # H.273's code points of primaries
    4: (*_C, 0.67, 0.33, 0.21, 0.71, 0.14, 0.08),
    5: (*_D65, 0.64, 0.33, 0.29, 0.60, 0.15, 0.06),
    6: (*_D65, 0.630, 0.340, 0.310, 0.595, 0.155, 0.070),
    7: (*_D65, 0.630, 0.340, 0.310, 0.595, 0.155, 0.070),
    8: (*_C, 0.681, 0.319, 0.243, 0.692, 0.145, 0.049),
    9: (*_D65, 0.708, 0.292, 0.170, 0.797, 0.131, 0.046),
    10: (*_E, 1.0, 0.0, 0.0, 1.0, 0.0, 0.0),
    11: (*_DCI, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060),
    12: (*_D65, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060),
    22: (*_D65, 0.630, 0.340, 0.295, 0.605, 0.155, 0.077),
}
_GAMMAS = {4: 2.2, 5: 2.8, 8: 1.0}  # H.273's code points of transfer curves that are a power -> the exponent
_CAMERAS = (1, 6, 14, 15)  # the camera curves of BT.709, BT.601 and BT.2020; a BT.1886 display decodes them with 2.4
_SRGB, _LOGARITHMIC, _PQ, _CINEMA, _HLG = 13, (9, 10), 16, 17, 18
_HDR_WHITE = 203.0  # cd/m2 of SDR white. Brighter light shows as white.
_HLG_PEAK, _HLG_GAMMA = 1000.0, 1.2  # peak (cd/m2) and gamma of HLG's reference display
_GAMMA_TOLERANCE = 0.05  # as in libpng: a gamma this close to 1 / 2.2 means sRGB


@dataclass(frozen=True)
class CodedColour:
    """The colour encoding of a picture whose file describes it by numbers, not by an ICC profile.

    The default values of the attributes describe sRGB.
    """

    primaries: Chromaticities = SRGB
    transfer: int = _SRGB  # H.273's code point
    gamma: float | None = None  # the exponent that makes values linear, instead of `transfer`
    is_full_range: bool = True  # False: black is 16 and white 235 of 255

    def unknown(self) -> str | None:
        """Return, in words, why this colour encoding cannot be converted to sRGB, or None if it can be converted."""
        if self.transfer in _LOGARITHMIC:
            return f"logarithmic transfer characteristics ({self.transfer} of H.273) are not decoded here"
        return None

    def linear(self, values: np.ndarray) -> np.ndarray:
        """Return the linear light of stored `values` (0 to 1), float32 of the same shape.

        In the result, 0 is black and 1 is SDR white. With the PQ curve, HDR light exceeds 1. With the HLG curve, 1 is
        the brightest light of the scene, which `srgb_lights` scales to the light of a display.
        """
        if not self.is_full_range:
            values = np.clip((values * 255 - 16) / 219, 0, 1)
        light = values**self.gamma if self.gamma else _CURVES.get(self.transfer, srgb_to_linear)(values)
        return np.asarray(light, np.float32)

    def srgb_lights(self, lights: np.ndarray) -> np.ndarray:
        """Convert linear light to linear sRGB of the same shape. The result may have values below 0 and above 1.

        `lights` has the shape (..., 3): red, green and blue, as `linear` returns them.
        """
        if self.transfer == _HLG:
            red, green, blue = _to_xyz(self.primaries)[1]
            scene = red * lights[..., 0] + green * lights[..., 1] + blue * lights[..., 2]
            lights = lights * (scene ** (_HLG_GAMMA - 1) * (_HLG_PEAK / _HDR_WHITE))[..., None]
        if self.primaries != SRGB:
            lights = lights @ _to_srgb(self.primaries).T
        return lights

    def is_per_channel(self) -> bool:
        """Return whether each channel can be converted to sRGB without the values of the other channels."""
        return self.primaries == SRGB and self.transfer != _HLG


def from_code_points(primaries: int, transfer: int, is_full_range: bool = True, is_video: bool = False) -> CodedColour:
    """Return the colour encoding for H.273's code points `primaries` and `transfer`.

    Unspecified and reserved code points count as those of sRGB, as in browsers. If `is_full_range` is False, black is
    stored as 16 and white as 235.

    If `is_video`, camera curves (BT.709, BT.601, BT.2020) are decoded with the exponent 2.4, as on a television.
    Browsers do the same for PNG. If `is_video` is False, a camera curve counts as sRGB's curve, because AVIF encoders
    often declare a camera curve for a picture that is sRGB.
    """
    gamma = 2.4 if is_video and transfer in _CAMERAS else _GAMMAS.get(transfer)
    return CodedColour(_PRIMARIES.get(primaries, SRGB), transfer, gamma, is_full_range)


def from_gamma(gamma: float, chromaticities: Chromaticities | None) -> CodedColour:
    """Return the colour encoding for the values of PNG's chunks gAMA and cHRM.

    `gamma` is the exponent of the encoding, such as 0.45455. `chromaticities` is None if the file has no cHRM.
    Impossible values are replaced by those of sRGB.
    """
    is_srgb = not chromaticities or all(abs(a - b) < 0.002 for a, b in zip(chromaticities, SRGB, strict=True))
    primaries = SRGB if is_srgb or not _is_possible(chromaticities or SRGB) else chromaticities or SRGB
    is_common = primaries == SRGB and abs(gamma * 2.2 - 1) <= _GAMMA_TOLERANCE
    return CodedColour(primaries, gamma=None if is_common or not 0.1 <= gamma <= 10 else 1 / gamma)


def srgb_to_linear(values: np.ndarray) -> np.ndarray:
    """Return the linear light of sRGB values. Input and output are from 0 to 1, with the same shape."""
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def linear_to_srgb(lights: np.ndarray) -> np.ndarray:
    """Return the sRGB values of linear light. Input and output are from 0 to 1, with the same shape."""
    return np.where(lights <= 0.0031308, lights * 12.92, 1.055 * np.maximum(lights, 0) ** (1 / 2.4) - 0.055)


def _pq(values: np.ndarray) -> np.ndarray:
    """Return the linear light of stored values (0 to 1) of the HDR curve PQ. In the result, 1 is SDR white."""
    root = values ** (1 / 78.84375)
    return (np.maximum(root - 0.8359375, 0) / (18.8515625 - 18.6875 * root)) ** (1 / 0.1593017578125) * (
        10_000 / _HDR_WHITE
    )


def _hlg_scene(values: np.ndarray) -> np.ndarray:
    """Return the light in front of the camera (0 to 1) for stored values (0 to 1) of the HDR curve HLG."""
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    return np.where(values <= 0.5, values**2 / 3, (np.exp((values - c) / a) + b) / 12)


_CURVES: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    _PQ: _pq,
    _CINEMA: lambda values: values**2.6 * (52.37 / 48),
    _HLG: _hlg_scene,
}


def _is_possible(chromaticities: Chromaticities) -> bool:
    """Return whether lights with these chromaticities can exist, and whether their matrix to XYZ can be inverted."""
    points = np.reshape(chromaticities, (4, 2))
    area = np.linalg.det(np.c_[points[1:], np.ones(3)])
    return bool((points >= 0).all() and points.sum(axis=1).max() <= 1.001 and points[0, 1] > 0.01 and abs(area) > 0.01)


def _xyz(x: float, y: float) -> np.ndarray:
    return np.array([x, y, 1 - x - y])


def _to_xyz(chromaticities: Chromaticities) -> np.ndarray:
    """Return the 3 x 3 matrix from linear RGB with these chromaticities to XYZ. White has Y = 1."""
    points = np.reshape(chromaticities, (4, 2))
    columns = np.stack([_xyz(*point) for point in points[1:]], axis=1)
    white = _xyz(*points[0]) / points[0, 1]
    return columns * np.linalg.solve(columns, white)


def _to_srgb(chromaticities: Chromaticities) -> np.ndarray:
    """Return the 3 x 3 matrix from linear RGB with these chromaticities to linear sRGB.

    Bradford's method adapts the white point.
    """
    bradford = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
    source, target = (bradford @ _to_xyz(colours) @ np.ones(3) for colours in (chromaticities, SRGB))
    adapted = np.linalg.solve(bradford, np.diag(target / source) @ bradford)
    return np.asarray(np.linalg.solve(_to_xyz(SRGB), adapted @ _to_xyz(chromaticities)), np.float32)


MAX_CONVERSIONS = 16  # conversions of ICC profiles that the process caches; each takes up to a few MB
ROWS = 16  # rows of a picture that are converted at a time, which limits the memory
_SAME = 2  # levels of 255: a conversion that changes no colour by more than this is dropped
# The limit for `Conversion.mixes`, in levels of 255. A resize before the conversion, instead of after it, changes the
# average of black and white. The change is 0 to 3 levels for Adobe RGB and Display P3, 18 for ProPhoto RGB, and 60 for
# linear light.
_MIX = 24
_GREY = ("1", "L", "LA", "La", "I;16", "I", "F")


@dataclass(frozen=True, eq=False)
class Conversion:
    """A conversion from the stored values of a picture to sRGB."""

    convert: Callable[[Image.Image], Image.Image]  # from the mode of the file (L, RGB or CMYK) to RGB
    mixes: bool  # True: a resize may average pixels before the conversion

    def small(self, image: Image.Image) -> Image.Image:
        """Convert a picture to sRGB in one step. `image` has the mode L, RGB, RGBA or CMYK.

        Return RGB, or RGBA with unchanged alpha if `image` is RGBA. Use `whole` for large pictures.
        """
        if image.mode != "RGBA":
            return self.convert(image)
        converted = self.convert(image.convert("RGB"))
        converted.putalpha(image.getchannel("A"))
        return converted

    def whole(self, image: Image.Image, low: Image.Image | None = None) -> Image.Image:
        """Convert a picture of any size to sRGB, a few rows at a time to save memory.

        Return RGB, or RGBA with unchanged alpha if `image` is RGBA. If `low` is None, the picture has 8 bits per
        channel. For 16 bits per channel, `image` has the high bytes of the values, and `low` has the low bytes. The low
        bytes matter: in dark linear light, one step of 8 bits is 13 levels of sRGB.
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


_NEXT = [*range(1, 256), 255]  # a table for `Image.point`: each level plus 1, at most 255


def _between(part: Image.Image, following: Image.Image, low: Image.Image, rows: Image.Image) -> Image.Image:
    """Convert rows with 16 bits per channel to sRGB, by interpolation between two converted pictures of 8 bits.

    `rows` has the high bytes of the values, and `low` has the low bytes. `part` is `rows` converted to sRGB.
    `following` is `rows` with all high bytes plus 1, converted to sRGB. If `rows` is RGBA, the result has its alpha.
    """
    start, end = (np.asarray(image.convert("RGB"), np.float32) for image in (part, following))
    share = np.asarray(low.convert("RGB"), np.float32) / 256
    between = Image.fromarray((start + (end - start) * share).round().astype(np.uint8))
    if rows.mode == "RGBA":
        between.putalpha(rows.getchannel("A"))
    return between


@dataclass(frozen=True)
class _Profile:
    """An ICC profile as a key of a cache. Two profiles are equal if their digests are equal."""

    digest: bytes
    content: bytes = field(compare=False, repr=False)


def conversion_of(image: Image.Image, encoded: bytes) -> Conversion | None:
    """Return the conversion of a picture's stored values to sRGB, or None if the values are (almost) sRGB already.

    `image` is the file as Pillow opened it, and `encoded` is the content of the file. In a PNG, the chunk cICP
    overrides iCCP, iCCP overrides sRGB, and sRGB overrides gAMA with cHRM. In an AVIF, an ICC profile overrides code
    points. A profile that cannot be used is ignored. If the file describes no colours, its values count as sRGB.
    Raises Unreadable if the transfer curve is not supported.
    """
    points = png_code_points(encoded) if image.format == "PNG" else None
    if points and points[2] == 0:  # PNG allows only the matrix of RGB
        return _coded(from_code_points(points[0], points[1], bool(points[3]), is_video=True))
    profile = image.info.get("icc_profile")
    if isinstance(profile, bytes) and len(profile) <= MAX_PROFILE_BYTES and image.mode != "LAB":
        channels = "L" if image.mode in _GREY else "CMYK" if image.mode == "CMYK" else "RGB"
        is_usable, conversion = _profiled(_Profile(hashlib.sha256(profile).digest(), profile), channels)
        if is_usable:
            return conversion
    if image.format == "AVIF" and (points := avif_code_points(encoded)):
        return _coded(from_code_points(points[0], points[1]))
    if image.format == "PNG" and "srgb" not in image.info and "gamma" in image.info:  # without gAMA, ignore cHRM
        return _coded(from_gamma(image.info["gamma"], image.info.get("chromaticity")))
    return None


@lru_cache(MAX_CONVERSIONS)
def _profiled(profile: _Profile, channels: str) -> tuple[bool, Conversion | None]:
    """Return whether an ICC profile fits pictures of the mode `channels`, and the profile's conversion to sRGB.

    The conversion is None if the profile does not fit, or if the conversion would change nothing.
    """
    convert = icc_conversion(profile.content, channels)
    return (True, _judged(convert, channels)) if convert else (False, None)


@lru_cache(64)
def _coded(colour: CodedColour) -> Conversion | None:
    """Return the conversion from `colour` to sRGB, or None if the conversion would change nothing.

    Raises Unreadable if the transfer curve is not supported.
    """
    if unknown := colour.unknown():
        raise Unreadable(unknown)
    return _judged(_decoder(colour), "RGB")


def _decoder(colour: CodedColour) -> Callable[[Image.Image], Image.Image]:
    """Return a function that converts a picture with the colour encoding `colour` to RGB in sRGB."""
    lights = colour.linear(np.arange(256) / 255)
    srgb = (linear_to_srgb(np.arange(65536) / 65535) * 255).round().astype(np.uint8)  # for 65,536 steps of light

    def levels(light: np.ndarray) -> np.ndarray:
        return srgb[(np.clip(light, 0, 1) * 65535 + 0.5).astype(np.uint16)]

    if colour.is_per_channel():
        table = levels(lights).tolist() * 3
        return lambda image: image.convert("RGB").point(table)
    return lambda image: Image.fromarray(levels(colour.srgb_lights(lights[np.asarray(image.convert("RGB"))])))


def _judged(convert: Callable[[Image.Image], Image.Image], channels: str) -> Conversion | None:
    """Return a `Conversion` that calls `convert`. Test on some colours whether pixels may be averaged before the call.

    Return None if `convert` changes no colour of a test grid by more than `_SAME` levels of 255. CMYK is not tested: it
    is always converted, and its pixels must not be averaged before the conversion.
    """
    bands = 1 if channels == "L" else len(channels)
    if channels != "CMYK":
        grid = np.array(list(product(range(0, 256, 15), repeat=bands)), np.uint8)
        if np.abs(_colours(convert, grid, channels) - grid).max() <= _SAME:
            return None
        steps = np.array([[0] * bands, [255] * bands, [127] * bands], np.uint8)
        dark, light, mixed = _colours(convert, steps, channels)
        return Conversion(convert, bool(np.abs(mixed - (dark + light) / 2).max() <= _MIX))
    return Conversion(convert, mixes=False)  # averaged inks are up to 50 levels darker than averaged light


def _colours(convert: Callable[[Image.Image], Image.Image], colours: np.ndarray, channels: str) -> np.ndarray:
    """Call `convert` on `colours`, uint8 (count, bands) in the mode `channels`. Return sRGB, int (count, 3)."""
    pixels = colours[None, :, 0] if channels == "L" else colours[None]
    return np.asarray(convert(Image.fromarray(np.ascontiguousarray(pixels), channels)), int)[0]

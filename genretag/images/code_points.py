"""Colours that a file names by numbers instead of an ICC profile: the code points of H.273, and PNG's gAMA and cHRM.

Sources: ITU-T H.273 (07/2024) tables 2 and 3, BT.2100-2 (PQ, HLG), BT.2408-7 (reference white 203 cd/m2),
BT.1886 (displays), PNG (third edition) 11.3.2, SMPTE ST 428-1. Chromium 156 shows the same, but for HDR, which it
darkens to make room for highlights.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

_White = tuple[float, float]
Chromaticities = tuple[float, float, float, float, float, float, float, float]  # x and y of white, red, green, blue

_D65, _C, _DCI, _E = (0.3127, 0.3290), (0.310, 0.316), (0.314, 0.351), (1 / 3, 1 / 3)
SRGB: Chromaticities = (*_D65, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06)
_PRIMARIES: dict[int, Chromaticities] = {
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
_GAMMAS = {4: 2.2, 5: 2.8, 8: 1.0}  # transfer characteristics that are a power
_CAMERAS = (1, 6, 14, 15)  # BT.709, BT.601 and BT.2020: curves of cameras, which a display of BT.1886 undoes with 2.4
_SRGB, _LOGARITHMIC, _PQ, _CINEMA, _HLG = 13, (9, 10), 16, 17, 18
_HDR_WHITE = 203.0  # cd/m2 of what is white in SDR. What is brighter shows as white.
_HLG_PEAK, _HLG_GAMMA = 1000.0, 1.2  # of the display that HLG is made for
_GAMMA_TOLERANCE = 0.05  # as in libpng: a gamma this close to 1 / 2.2 means sRGB


@dataclass(frozen=True)
class CodedColour:
    """What the numbers of a picture mean. The defaults are sRGB."""

    primaries: Chromaticities = SRGB
    transfer: int = _SRGB  # H.273's code point
    gamma: float | None = None  # the exponent that makes the numbers linear, instead of `transfer`
    is_full_range: bool = True  # False: black is 16 and white 235 of 255

    def unknown(self) -> str | None:
        """Say in words why this cannot be shown, or return None."""
        if self.transfer in _LOGARITHMIC:
            return f"logarithmic transfer characteristics ({self.transfer} of H.273) are not decoded here"
        return None

    def linear(self, values: np.ndarray) -> np.ndarray:
        """Return light as float32, same shape: 0 is black, 1 is SDR white. `values` are stored ones from 0 to 1."""
        if not self.is_full_range:
            values = np.clip((values * 255 - 16) / 219, 0, 1)
        light = values**self.gamma if self.gamma else _CURVES.get(self.transfer, srgb_to_linear)(values)
        return np.asarray(light, np.float32)

    def srgb_lights(self, lights: np.ndarray) -> np.ndarray:
        """Return linear sRGB, same shape (..., 3), from what `linear` made of the three channels."""
        if self.transfer == _HLG:
            red, green, blue = _to_xyz(self.primaries)[1]
            scene = red * lights[..., 0] + green * lights[..., 1] + blue * lights[..., 2]
            lights = lights * (scene ** (_HLG_GAMMA - 1) * (_HLG_PEAK / _HDR_WHITE))[..., None]
        if self.primaries != SRGB:
            lights = lights @ _to_srgb(self.primaries).T
        return lights

    def is_per_channel(self) -> bool:
        """Return whether each channel becomes sRGB by itself."""
        return self.primaries == SRGB and self.transfer != _HLG


def from_code_points(primaries: int, transfer: int, is_full_range: bool = True, is_video: bool = False) -> CodedColour:
    """Return what H.273's numbers mean. Unspecified and reserved ones count as sRGB's, as in browsers.

    `is_video`: a camera's curve is undone as a television does it, which browsers do in PNG. Otherwise it counts as
    sRGB's, since AVIF encoders name it for pictures that were sRGB.
    """
    gamma = 2.4 if is_video and transfer in _CAMERAS else _GAMMAS.get(transfer)
    return CodedColour(_PRIMARIES.get(primaries, SRGB), transfer, gamma, is_full_range)


def from_gamma(gamma: float, chromaticities: Chromaticities | None) -> CodedColour:
    """Return what PNG's gAMA means, and its cHRM, None if absent. Impossible values count as sRGB's."""
    is_srgb = not chromaticities or all(abs(a - b) < 0.002 for a, b in zip(chromaticities, SRGB, strict=True))
    primaries = SRGB if is_srgb or not _is_possible(chromaticities or SRGB) else chromaticities or SRGB
    is_common = primaries == SRGB and abs(gamma * 2.2 - 1) <= _GAMMA_TOLERANCE
    return CodedColour(primaries, gamma=None if is_common or not 0.1 <= gamma <= 10 else 1 / gamma)


def srgb_to_linear(values: np.ndarray) -> np.ndarray:
    """Undo sRGB's curve, from and to 0..1."""
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def linear_to_srgb(lights: np.ndarray) -> np.ndarray:
    """Apply sRGB's curve, from and to 0..1."""
    return np.where(lights <= 0.0031308, lights * 12.92, 1.055 * np.maximum(lights, 0) ** (1 / 2.4) - 0.055)


def _pq(values: np.ndarray) -> np.ndarray:
    root = values ** (1 / 78.84375)
    return (np.maximum(root - 0.8359375, 0) / (18.8515625 - 18.6875 * root)) ** (1 / 0.1593017578125) * (
        10_000 / _HDR_WHITE
    )


def _hlg_scene(values: np.ndarray) -> np.ndarray:
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    return np.where(values <= 0.5, values**2 / 3, (np.exp((values - c) / a) + b) / 12)


_CURVES: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    _PQ: _pq,
    _CINEMA: lambda values: values**2.6 * (52.37 / 48),
    _HLG: _hlg_scene,
}


def _is_possible(chromaticities: Chromaticities) -> bool:
    """Return whether these are colours of light whose matrix can be inverted."""
    points = np.reshape(chromaticities, (4, 2))
    area = np.linalg.det(np.c_[points[1:], np.ones(3)])
    return bool((points >= 0).all() and points.sum(axis=1).max() <= 1.001 and points[0, 1] > 0.01 and abs(area) > 0.01)


def _xyz(x: float, y: float) -> np.ndarray:
    return np.array([x, y, 1 - x - y])


def _to_xyz(chromaticities: Chromaticities) -> np.ndarray:
    """Return the 3 x 3 matrix from linear RGB to XYZ in which white has Y = 1."""
    points = np.reshape(chromaticities, (4, 2))
    columns = np.stack([_xyz(*point) for point in points[1:]], axis=1)
    white = _xyz(*points[0]) / points[0, 1]
    return columns * np.linalg.solve(columns, white)


def _to_srgb(chromaticities: Chromaticities) -> np.ndarray:
    """Return the 3 x 3 matrix to linear sRGB, its white adapted by Bradford's method."""
    bradford = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
    source, target = (bradford @ _to_xyz(colours) @ np.ones(3) for colours in (chromaticities, SRGB))
    adapted = np.linalg.solve(bradford, np.diag(target / source) @ bradford)
    return np.asarray(np.linalg.solve(_to_xyz(SRGB), adapted @ _to_xyz(chromaticities)), np.float32)

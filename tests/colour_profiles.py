"""Make ICC colour profiles, and convert pictures to them, for the tests of the decoder."""

import io
import struct

import numpy as np
from PIL import Image, ImageCms

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
RELATIVE, BLACK_TO_BLACK = ImageCms.Intent.RELATIVE_COLORIMETRIC, ImageCms.Flags.BLACKPOINTCOMPENSATION

# Colorants (XYZ of red, green and blue, adapted to D50) from the ICC profiles of these colour spaces.
_COLORANTS = {
    "sRGB": ((0.4361, 0.2225, 0.0139), (0.3851, 0.7169, 0.0971), (0.1431, 0.0606, 0.7141)),
    "Adobe RGB": ((0.6097, 0.3111, 0.0195), (0.2053, 0.6257, 0.0609), (0.1492, 0.0632, 0.7446)),
    "Display P3": ((0.5151, 0.2412, -0.0011), (0.2920, 0.6922, 0.0419), (0.1571, 0.0666, 0.7841)),
}


def rgb_profile(space: str, gamma: float = 2.2) -> bytes:
    """Return an RGB profile with the colorants of `space` and the same gamma for all three channels."""
    colorants = dict(zip((b"rXYZ", b"gXYZ", b"bXYZ"), map(_xyz, _COLORANTS[space]), strict=True))
    curves = dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), _curve(gamma))
    return _profile(b"RGB ", {b"wtpt": _xyz((0.9642, 1.0, 0.8249)), **colorants, **curves})


def grey_profile(gamma: float) -> bytes:
    return _profile(b"GRAY", {b"wtpt": _xyz((0.9642, 1.0, 0.8249)), b"kTRC": _curve(gamma)})


def _profile(space: bytes, tags: dict[bytes, bytes], device_class: bytes = b"mntr") -> bytes:
    table, contents, at = b"", b"", 128 + 4 + 12 * len(tags)
    for name, content in tags.items():
        table += name + struct.pack(">II", at + len(contents), len(content))
        contents += content.ljust(-(-len(content) // 4) * 4, b"\0")
    size = at + len(contents)
    head = struct.pack(">I4sI4s4s4s", size, b"lcms", 0x02400000, device_class, space, b"XYZ ") + bytes(12) + b"acsp"
    head = (head + bytes(28) + struct.pack(">3i", 63190, 65536, 54061)).ljust(128, b"\0")  # D50
    return head + struct.pack(">I", len(tags)) + table + contents


def _xyz(values: tuple[float, float, float]) -> bytes:
    return b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(value * 65536) for value in values))


def _curve(gamma: float) -> bytes:
    return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256))


def in_profile(image: Image.Image, profile: bytes, mode: str = "RGB") -> Image.Image:
    """Return `image` converted from sRGB to `profile`: the colours stay, the numbers change."""
    target = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    converted = ImageCms.profileToProfile(image, SRGB, target, RELATIVE, mode, flags=BLACK_TO_BLACK)
    del converted.info["icc_profile"]  # Pillow would save the profile in the file
    return converted


def muted(image: Image.Image) -> Image.Image:
    """Return a picture of less saturated colours, which every printing press and screen can show."""
    return Image.fromarray((np.asarray(image) * 0.4 + 80).astype(np.uint8))

"""ICC profiles: from the numbers of a picture to sRGB, by Little CMS.

A profile that is broken, too large, or made for other channels than the picture has counts as none, as in browsers:
the picture then shows as sRGB (CMYK: by Pillow's formula).
"""

import io
from collections.abc import Callable
from functools import partial

from PIL import Image, ImageCms

MAX_PROFILE_BYTES = 4 * 2**20  # printing presses' profiles have 0.5 to 3 MB
_SPACES = {"GRAY": "L", "RGB": "RGB", "CMYK": "CMYK"}  # of a profile -> Pillow's mode for its numbers
_CLASSES = ("scnr", "mntr", "prtr", "spac")  # devices and colour spaces; not links, abstract and named colours
# As most pictures for print are made and shown. Without the second, a press's black would show as dark grey. Neither
# makes a difference for Adobe RGB, Display P3 and other profiles of a matrix.
_INTENT, _BLACK_TO_BLACK = ImageCms.Intent.RELATIVE_COLORIMETRIC, ImageCms.Flags.BLACKPOINTCOMPENSATION
_EXACT = ImageCms.Flags.NOOPTIMIZE  # of grey: Little CMS 2.19 by default approximates linear grey, by up to 10 levels
_FITTING = {"L": ("L", "RGB"), "RGB": ("RGB",), "CMYK": ("CMYK",)}  # channels of a picture -> profiles that fit


def icc_conversion(profile: bytes, channels: str) -> Callable[[Image.Image], Image.Image] | None:
    """Build the conversion of a picture with `channels` ("L", "RGB", "CMYK") to RGB in sRGB, in 1 to 60 ms.

    A grey picture takes an RGB profile, too. None if the profile counts as none.
    """
    if len(profile) > MAX_PROFILE_BYTES:
        return None
    try:
        opened = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        mode = _SPACES.get(opened.profile.xcolor_space.strip())
        if mode not in _FITTING[channels] or opened.profile.device_class not in _CLASSES:
            return None
        srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
        flags = _BLACK_TO_BLACK | (_EXACT if channels == "L" else 0)
        transform = ImageCms.ImageCmsTransform(opened, srgb, mode, "RGB", _INTENT, flags=ImageCms.Flags(flags))
    except (OSError, ValueError, TypeError, ArithmeticError, LookupError, ImageCms.PyCMSError):
        return None
    if channels != "L":
        return partial(_apply, transform)
    greys = Image.frombytes("L", (256, 1), bytes(range(256))).convert(mode)
    table = [level for band in _apply(transform, greys).split() for level in band.tobytes()]
    return lambda image: image.convert("RGB").point(table)


def _apply(transform: ImageCms.ImageCmsTransform, image: Image.Image) -> Image.Image:
    converted = transform.apply(image)
    del converted.info["icc_profile"]
    return converted

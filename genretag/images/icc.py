"""Convert pictures with an embedded ICC profile to sRGB."""

import io
from collections.abc import Callable
from functools import partial

from PIL import Image, ImageCms

MAX_PROFILE_BYTES = 4 * 2**20  # profiles of printing presses have 0.5 to 3 MB
_SPACES = {"GRAY": "L", "RGB": "RGB", "CMYK": "CMYK"}  # colour space of a profile -> Pillow's mode
_CLASSES = ("scnr", "mntr", "prtr", "spac")  # devices and colour spaces; no device links, abstract or named colours
# Most pictures for print are made and viewed with this rendering intent and with black-point compensation. Without the
# compensation, the black of a press would become dark grey. For matrix profiles, such as Adobe RGB and Display P3, both
# settings make no difference.
_INTENT, _BLACK_TO_BLACK = ImageCms.Intent.RELATIVE_COLORIMETRIC, ImageCms.Flags.BLACKPOINTCOMPENSATION
_EXACT = ImageCms.Flags.NOOPTIMIZE  # for grey, which Little CMS 2.19 would else approximate, up to 10 levels off
_FITTING = {"L": ("L", "RGB"), "RGB": ("RGB",), "CMYK": ("CMYK",)}  # mode of a picture -> modes of profiles that fit


def icc_conversion(profile: bytes, channels: str) -> Callable[[Image.Image], Image.Image] | None:
    """Return a function that converts a picture with this ICC profile to RGB in sRGB, or None if the profile is unfit.

    `channels` is the picture's mode: "L", "RGB" or "CMYK". A profile is unfit if it is broken, larger than
    `MAX_PROFILE_BYTES` or made for other channels. It is also unfit if it describes neither a device nor a colour
    space. An RGB profile fits a grey picture too. Building the function takes 1 to 60 ms.
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

"""ICC profiles: from the numbers of a picture to sRGB, by Little CMS.

A profile that is broken, too large, or made for other channels than the picture has counts as none, as in browsers:
the picture then shows as sRGB (CMYK: by Pillow's formula).
"""

import io

from PIL import Image, ImageCms

MAX_PROFILE_BYTES = 4 * 2**20  # printing presses' profiles have 0.5 to 3 MB
_SPACES = {"GRAY": "L", "RGB": "RGB", "CMYK": "CMYK"}  # of a profile -> Pillow's mode for its numbers
_CLASSES = ("scnr", "mntr", "prtr", "spac")  # devices and colour spaces; not links, abstract and named colours
# As most pictures for print are made and shown. Without the second, a press's black would show as dark grey. Neither
# makes a difference for Adobe RGB, Display P3 and other profiles of a matrix.
_INTENT, _BLACK_TO_BLACK = ImageCms.Intent.RELATIVE_COLORIMETRIC, ImageCms.Flags.BLACKPOINTCOMPENSATION
_FITTING = {"L": ("L", "RGB"), "RGB": ("RGB",), "CMYK": ("CMYK",)}  # channels of a picture -> profiles that fit


def icc_transform(profile: bytes, channels: str) -> ImageCms.ImageCmsTransform | None:
    """Build the transform to sRGB for a picture with `channels` ("L", "RGB", "CMYK"), or None if that cannot be done.

    Takes 1 to 60 ms. Its `input_mode` is the profile's own: a grey picture takes an RGB profile, too.
    """
    if len(profile) > MAX_PROFILE_BYTES:
        return None
    try:
        opened = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        mode = _SPACES.get(opened.profile.xcolor_space.strip())
        if mode not in _FITTING[channels] or opened.profile.device_class not in _CLASSES:
            return None
        srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
        return ImageCms.ImageCmsTransform(opened, srgb, mode, "RGB", _INTENT, flags=_BLACK_TO_BLACK)
    except (OSError, ValueError, TypeError, ArithmeticError, LookupError, ImageCms.PyCMSError):
        return None


def apply(transform: ImageCms.ImageCmsTransform, image: Image.Image) -> Image.Image:
    """Return an RGB picture in sRGB. `image`: L or RGB, or CMYK for a transform from it."""
    if image.mode != transform.input_mode:  # grey with an RGB profile, or grey that became RGB on its way
        image = image.getchannel(0) if transform.input_mode == "L" else image.convert("RGB")
    converted = transform.apply(image)
    del converted.info["icc_profile"]
    return converted

"""What holds for Pillow in a whole process, since neither limits nor messages have a thread-safe form per call."""

import ctypes
import warnings
from contextlib import suppress

from PIL import Image, _imaging


def configure_pillow() -> None:
    """Sets limits and messages, and registers all formats now, not by whichever thread decodes first."""
    Image.MAX_IMAGE_PIXELS = None  # a warning, and a refusal at twice as much: ImageLimits stands in for both
    # Remarks on odd metadata, and on each strip that libtiff cannot read, would fill the logs of a night.
    warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
    _silence_libtiff()
    Image.init()


def _silence_libtiff() -> None:
    """Libtiff writes to the error output from C, and Pillow offers no switch; what it finds is raised as well."""
    with suppress(OSError, AttributeError):  # Pillow was built without libtiff, or with one that hides its names
        libtiff = ctypes.CDLL(_imaging.__file__)  # the dynamic linker looks in what it is linked to, too
        libtiff.TIFFSetErrorHandler(None)
        libtiff.TIFFSetWarningHandler(None)

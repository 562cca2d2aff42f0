"""What holds for Pillow in a whole process, since neither limits nor messages have a thread-safe form per call."""

import ctypes
import warnings
from contextlib import suppress

from PIL import Image, TiffImagePlugin, _imaging

_II, _MM = TiffImagePlugin.II, TiffImagePlugin.MM
# Kinds of grey TIFF: (byte order, WhiteIsZero 0 or BlackIsZero 1, sample format, fill order, bits, extra samples) ->
# Pillow's mode and raw mode. Pillow lacks some of them. It reads 32 bits without a sign as signed, and resizes its mode
# of big-endian 16 bits, I;16B, to noise. What 0 means is left to `genretag.images.readings`.
_TIFF_GREY: dict[tuple[bytes, int, tuple[int], int, tuple[int, ...], tuple[int, ...]], tuple[str, str]] = {
    **{(order, zero, (1,), 1, (12,), ()): ("I;16", "I;12") for order in (_II, _MM) for zero in (0, 1)},
    **{(_MM, zero, (1,), 1, (16,), ()): ("I;16", "I;16B") for zero in (0, 1)},
    **{(_II, zero, (1,), 1, (32,), ()): ("F", "F;32") for zero in (0, 1)},
    **{(_MM, zero, (1,), 1, (32,), ()): ("F", "F;32B") for zero in (0, 1)},
}


def configure_pillow() -> None:
    """Sets limits and messages, and registers all formats now, not by whichever thread decodes first."""
    Image.MAX_IMAGE_PIXELS = None  # a warning, and a refusal at twice as much: ImageLimits stands in for both
    # Remarks on odd metadata, and on each strip that libtiff cannot read, would fill the logs of a night.
    warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
    _silence_libtiff()
    TiffImagePlugin.OPEN_INFO.update(_TIFF_GREY)
    Image.init()


def _silence_libtiff() -> None:
    """Libtiff writes to the error output from C, and Pillow offers no switch; what it finds is raised as well."""
    with suppress(OSError, AttributeError):  # Pillow was built without libtiff, or with one that hides its names
        libtiff = ctypes.CDLL(_imaging.__file__)  # the dynamic linker looks in what it is linked to, too
        libtiff.TIFFSetErrorHandler(None)
        libtiff.TIFFSetWarningHandler(None)

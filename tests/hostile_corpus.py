"""All hostile and odd files that the tests decode, each with the expected outcome of `decode`."""

from functools import cache

from hostile_file import HostileFile
from hostile_gif_webp import avif_files, gif_files, webp_files
from hostile_jpeg import jpeg_files, slow_jpeg
from hostile_no_pictures import no_pictures
from hostile_png import png_files
from hostile_tiff_bmp import bmp_files, tiff_files

__all__ = ["HostileFile", "hostile_files", "slow_jpeg"]


@cache
def hostile_files() -> tuple[HostileFile, ...]:
    """Return all hostile files, in about 3 s.

    With the same versions of the libraries, the bytes are the same each time.
    """
    makers = (jpeg_files, png_files, gif_files, webp_files, avif_files, tiff_files, bmp_files, no_pictures)
    return tuple(file for make in makers for file in make())

"""All kinds of hostile and odd files that the tests know, with what `genretag.images.decoding.decode` makes of each."""

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
    """Every kind; the same bytes each time with the same versions of the libraries. Built in about 3 s."""
    makers = (jpeg_files, png_files, gif_files, webp_files, avif_files, tiff_files, bmp_files, no_pictures)
    return tuple(file for make in makers for file in make())

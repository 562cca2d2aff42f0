"""Decode image files to uint8 RGB pixels in a model's input size, for training, scoring and HTML pages alike."""

from genretag.images.decoding import BadImage, DecodedImage, ImageLimits, decode
from genretag.images.resizing import ImageRule

__all__ = ["BadImage", "DecodedImage", "ImageLimits", "ImageRule", "decode"]

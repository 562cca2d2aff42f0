"""Images: bytes to uint8 pixels in the shape that a model sees. One decoder for training, scoring and pages."""

from genretag.images.decoding import BadImage, DecodedImage, ImageLimits, decode
from genretag.images.resizing import ImageRule

__all__ = ["BadImage", "DecodedImage", "ImageLimits", "ImageRule", "decode"]

"""A PNG whose texts or colour profile unpack to more than Pillow takes: a bomb, or the profile of a good scanner.

Neither says anything about the pixels, so such a file is read again without them.
"""

_TEXTS = (b"tEXt", b"zTXt", b"iTXt", b"iCCP")


def has_swollen_texts(error: ValueError) -> bool:
    """Whether Pillow refused a PNG for the size of its texts: it has no type for that, but names its limit."""
    return "MAX_TEXT_" in str(error)


def without_texts(encoded: bytes) -> bytes:
    """The same PNG without texts and colour profile (and without an orientation, if that stands in a text)."""
    kept, at = [encoded[:8]], 8
    while at + 8 <= len(encoded):
        end = at + 12 + int.from_bytes(encoded[at : at + 4])
        if encoded[at + 4 : at + 8] not in _TEXTS:
            kept.append(encoded[at:end])
        at = end
    return b"".join(kept)

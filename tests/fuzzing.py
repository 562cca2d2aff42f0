"""Fuzz the image decoder and the reader of label tables: seeds, random mutations, and checks of the outcome."""

import random
import time
from collections.abc import Callable

from hostile_corpus import hostile_files
from image_decoding import RULE
from label_reading import read

from genretag.data.labels import LabelError
from genretag.images.decoding import REASONS, BadImage, ImageLimits, decode

# Small limits, so that there are many tries per second.
LIMITS = ImageLimits(max_pixels=4_000_000, max_decode_bytes=2**28)
SLOWEST_S = 20
MOST_SEED_BYTES = 20_000  # longer seeds are slow and reach no other code paths

_INTERESTING = (
    b"\0",
    b"\xff",
    b"\x7f\xff\xff\xff",
    b"\xff\xd8",
    b"\xff\xda",
    b"\xff\xd9",
    b"\n",
    b'"',
    b",",
    b"|",
    b"[",
)
_TABLES = (
    b"id,labels\na.jpg,Drama|War\nb.jpg,War\n",
    b"id,Drama,War\r\na,1,0\r\nb,0,1\r\n",
    b"id;genres\na;['Drama', 'War']\nb;[]\n",
    b'id\tlabel\na\t"Sci-Fi"\na\tWar\n',
    b"\xef\xbb\xbfimage,labels\n\"a,b\",\"['x' 'y']\"\n",
)


def image_seeds() -> list[bytes]:
    return [file.data for file in hostile_files() if 0 < len(file.data) <= MOST_SEED_BYTES]


def table_seeds() -> list[bytes]:
    return list(_TABLES)


def decodes_or_names_a_reason(data: bytes) -> None:
    """Fail unless the bytes give a picture or a `BadImage`, within `SLOWEST_S` seconds of CPU time."""
    started = time.process_time()
    try:
        pixels = decode(data, RULE, LIMITS).pixels
        assert pixels.shape == (RULE.height, RULE.width, 3)
    except BadImage as bad:
        assert bad.reason in REASONS
        assert bad.message.isprintable()
    assert time.process_time() - started < SLOWEST_S


def reads_or_refuses(data: bytes) -> None:
    """Fail unless the bytes give labels with a report, or a `LabelError`, within `SLOWEST_S` seconds of CPU time."""
    started = time.process_time()
    try:
        labelled, report = read(data)
        assert labelled.multi_hot.shape == (len(labelled.ids), len(labelled.labels))
        assert all(line.isprintable() for line in report.lines())
    except LabelError as error:
        assert str(error).isprintable()
    assert time.process_time() - started < SLOWEST_S


TARGETS: dict[str, tuple[Callable[[bytes], None], Callable[[], list[bytes]]]] = {
    "decoder": (decodes_or_names_a_reason, image_seeds),
    "labels": (reads_or_refuses, table_seeds),
}


def bent(seed: bytes, others: list[bytes], chance: random.Random) -> bytes:
    """Return `seed` with one to eight random mutations: bytes replaced, removed, doubled, or copied from `others`."""
    data = bytearray(seed)
    for _ in range(chance.randint(1, 8)):
        at, length = chance.randint(0, len(data)), chance.choice((1, 1, 2, 4, 16, 256))
        match chance.randrange(6):
            case 0:
                data[at : at + length] = chance.randbytes(length)
            case 1:
                del data[at : at + length]
            case 2:
                data[at:at] = data[at : at + length]
            case 3:
                data[at : at + 1] = chance.choice(_INTERESTING)
            case 4:
                other = chance.choice(others)
                start = chance.randint(0, len(other))
                data[at : at + length] = other[start : start + length]
            case 5:
                data[at : at + 1] = bytes([data[at] ^ 1 << chance.randrange(8)]) if at < len(data) else b""
    return bytes(data)


def fuzz(target: str, seconds: float, seed: int) -> int:
    """Mutate the target's seeds for this number of seconds, and return the number of tries.

    `target` is a key of `TARGETS`. If a check fails, raise its exception, with the input attached as a note.
    """
    check, make_seeds = TARGETS[target]
    seeds, chance, tries = make_seeds(), random.Random(seed), 0
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        data = bent(chance.choice(seeds), seeds, chance)
        try:
            check(data)
        except BaseException as error:
            error.add_note(f"input {tries} of seed {seed}, {len(data)} bytes: {data[:4000].hex()}")
            raise
        tries += 1
    return tries

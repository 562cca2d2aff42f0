"""Decodes reserve memory: together never more than the limit, in the order in which they ask."""

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Event, Lock, Thread

import pytest
from colour_profiles import rgb_profile
from image_corpus import encode, png_promising, scene
from image_decoding import RULE, failure

from genretag.images.decode_cost import DecodeMemory
from genretag.images.decoding import BadImage, ImageLimits, decode


def test_no_more_than_the_limit_is_reserved_at_a_time() -> None:
    memory, lock, held, most = DecodeMemory(100), Lock(), 0, 0

    def hold(size_bytes: int) -> None:
        nonlocal held, most
        with memory.reserved(size_bytes):
            with lock:
                held += size_bytes
                most = max(most, held)
            with lock:
                held -= size_bytes

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(hold, [1, 30, 70, 99, 100, 0, 50, 50] * 200))
    assert held == 0
    assert 50 <= most <= 100


def test_a_decode_that_needs_more_than_the_limit_runs_alone() -> None:
    memory, entered = DecodeMemory(100), Event()
    with memory.reserved(10**12):
        small = Thread(target=_enter, args=(memory, 1, entered))
        small.start()
        assert not entered.wait(0.05)
    small.join(10)
    assert entered.is_set()


def test_a_large_picture_does_not_wait_for_small_ones_that_ask_later() -> None:
    memory, large_entered, small_entered = DecodeMemory(100), Event(), Event()
    with memory.reserved(60):
        large = Thread(target=_enter, args=(memory, 90, large_entered))
        large.start()
        _await_waiting(memory, 1)
        # 10 bytes would fit next to the 60, but must wait for their turn.
        small = Thread(target=_enter, args=(memory, 10, small_entered))
        small.start()
        _await_waiting(memory, 2)
        assert not small_entered.is_set()
    large.join(10)
    small.join(10)
    assert large_entered.is_set()
    assert small_entered.is_set()


def test_memory_is_released_after_a_failure() -> None:
    memory = DecodeMemory(100)
    for _ in range(3):
        with pytest.raises(KeyError), memory.reserved(100):
            raise KeyError


def test_a_limit_must_be_positive() -> None:
    with pytest.raises(ValueError, match="positive"):
        DecodeMemory(0)


class _Recorder:
    def __init__(self) -> None:
        self.reserved_bytes: list[int] = []
        self.open = 0

    @contextmanager
    def reserved(self, size_bytes: int):
        self.reserved_bytes.append(size_bytes)
        self.open += 1
        yield
        self.open -= 1


def test_decoding_reserves_memory_for_the_size_in_the_header_and_releases_it() -> None:
    memory = _Recorder()
    decode(encode(scene(), "PNG"), RULE, memory=memory)
    decode(encode(scene(2000, 3000), "PNG", compress_level=1), RULE, memory=memory)
    small, large = memory.reserved_bytes
    assert small < 7_000_000 < 4 * 2000 * 3000 < large < 8 * 2000 * 3000
    assert memory.open == 0


def test_a_conversion_before_the_resize_is_included_in_the_reserved_memory() -> None:
    memory, image = _Recorder(), scene(1000, 1500)
    for profile in (None, rgb_profile("Display P3"), rgb_profile("sRGB", gamma=1.0)):
        decode(encode(image, "PNG", compress_level=1, icc_profile=profile), RULE, memory=memory)
    plain, small_first, whole_first = memory.reserved_bytes
    assert plain < small_first < whole_first - 4 * 1000 * 1500


def test_a_picture_that_its_header_rules_out_reserves_no_memory() -> None:
    memory = _Recorder()
    for data in (b"", b"no picture", png_promising(60_000, 60_000)):
        with pytest.raises(BadImage):
            decode(data, RULE, memory=memory)
    assert memory.reserved_bytes == []


@pytest.mark.parametrize(
    ("image_format", "options"),
    [
        ("PNG", {}),
        ("WEBP", {}),
        ("AVIF", {}),
        ("GIF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("JPEG", {"progressive": True}),
    ],
)
def test_the_limit_on_memory_is_checked_before_any_format_is_decoded(image_format: str, options: dict) -> None:
    data = encode(scene(2000, 2000), image_format, **options)
    decode(data, RULE, ImageLimits(max_decode_bytes=100_000_000))
    bad = failure(data, ImageLimits(max_decode_bytes=8_000_000))
    assert bad.reason == "too_many_pixels"
    assert bad.message.endswith("limit 8,000,000")


def _enter(memory: DecodeMemory, size_bytes: int, entered: Event) -> None:
    with memory.reserved(size_bytes):
        entered.set()


def _await_waiting(memory: DecodeMemory, count: int) -> None:
    deadline = time.monotonic() + 10
    while len(memory._waiting) < count:
        assert time.monotonic() < deadline
        time.sleep(0.001)

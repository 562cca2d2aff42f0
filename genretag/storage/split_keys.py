"""Where to split a range of keys that nobody has seen: in its middle, as far as the keys seen so far tell it.

Keys are read as fractions: the characters that occur are the digits, in their order. Zero-padded numbers and hex
digests lie evenly, so the middle of two such fractions is about the middle of the keys between them. This only guesses:
no answer makes a listing wrong, a bad one makes it slower.
"""

from bisect import bisect_left
from collections.abc import Sequence

LAST = "\U0010ffff"  # sorts behind every other character
DIGITS = 6  # of a fraction, counted from where keys begin to differ: more precise than a guess has to be
SAMPLE = 20  # keys of a page, by which its characters are learnt
MAX_ALPHABET = 256  # characters that are learnt: of more (Chinese titles), any 256 lie evenly enough


class KeySpace:
    """What the keys below a prefix look like, by those seen so far."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._alphabet = [LAST]

    def learn(self, keys: Sequence[str]) -> None:
        """Adds the characters of a page's keys."""
        if len(self._alphabet) >= MAX_ALPHABET:
            return
        sample = (keys[-1], *keys[:: max(1, len(keys) // SAMPLE)])
        seen = {character for key in sample for character in key[len(self._prefix) :]}
        self._alphabet = sorted(seen.union(self._alphabet))

    def split_key(self, first: str, position: str, end: str | None, *, deep: bool = False) -> str | None:
        """A key between `position` and `end` (none: the end of the prefix), near their middle; none if there is none.

        `deep` is for keys that have long parts in common, where the middle of the fractions is in a void: then it is
        behind all keys that share half of what the page `first` to `position` shares beyond the range.
        """
        start = self._start(position, end)
        shared = _shared(first, position)
        if deep and shared - start > 1:
            return _if_between(position, position[: (start + shared) // 2] + LAST, end)
        middle = self._digits_of((self._value(position, start) + self._value(end, start)) // 2)
        for length in range(1, DIGITS + 1):  # the shortest will do
            text = "".join(self._alphabet[digit - 1] for digit in middle[:length] if digit)
            if key := _if_between(position, position[:start] + text, end):
                return key
        return None

    def pages_left(self, first: str, position: str, end: str | None) -> float:
        """How many pages are between `position` and `end`, were they as full as that from `first` to `position`."""
        start = self._start(position, end)
        begin, here, there = (self._value(key, start) for key in (first, position, end))
        return (there - here) / max(here - begin, 1)

    def _start(self, position: str, end: str | None) -> int:
        """Where the keys of a range begin to differ."""
        return len(self._prefix) if end is None else _shared(position, end)

    def _value(self, key: str | None, start: int) -> int:
        """The fraction as an integer; 0 is for the end of a key, so that it comes before its continuations."""
        base = len(self._alphabet) + 1
        text = LAST * DIGITS if key is None else key[start : start + DIGITS]
        value = 0
        for character in text:
            value = value * base + bisect_left(self._alphabet, character) + 1
        return value * base ** (DIGITS - len(text))

    def _digits_of(self, value: int) -> list[int]:
        digits = []
        for _ in range(DIGITS):
            value, digit = divmod(value, len(self._alphabet) + 1)
            digits.append(digit)
        return digits[::-1]


def _if_between(position: str, key: str, end: str | None) -> str | None:
    return key if position < key and (end is None or key < end) else None


def _shared(one: str, other: str) -> int:
    """How many characters two keys have in common at their beginning."""
    differing = (place for place, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)
    return next(differing, min(len(one), len(other)))

"""Ten seconds of accidents for the decoder and the label reader each, and all inputs that ever made one fail.

`python tests/benchmarks/fuzz.py` goes on for longer, and is guided by coverage.
"""

from pathlib import Path

import pytest
from fuzzing import TARGETS, fuzz
from image_decoding import odd_metadata_is_silent

pytestmark = odd_metadata_is_silent
REGRESSIONS = sorted((Path(__file__).parent / "regressions").glob("*-*"))


@pytest.mark.parametrize("target", TARGETS)
def test_ten_seconds_of_accidents_bring_nothing_but_the_errors_that_are_promised(target: str) -> None:
    assert fuzz(target, seconds=10, seed=1) > 100


@pytest.mark.parametrize("file", REGRESSIONS, ids=lambda file: file.name)
def test_what_once_failed_does_not_fail_again(file: Path) -> None:
    check, _ = TARGETS[file.name.partition("-")[0]]
    check(file.read_bytes())


def test_the_inputs_that_once_failed_are_here() -> None:
    assert REGRESSIONS

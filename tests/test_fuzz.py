"""Ten seconds of random mutations for each reader of bytes from outside, and all inputs that ever failed.

`python tests/benchmarks/fuzz.py` fuzzes for longer, guided by coverage.
"""

from pathlib import Path

import pytest
from fuzzing import TARGETS, fuzz
from image_decoding import odd_metadata_is_silent

pytestmark = odd_metadata_is_silent
REGRESSIONS = sorted((Path(__file__).parent / "regressions").glob("*-*"))


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_ten_seconds_of_mutations_raise_only_the_documented_errors(target: str) -> None:
    assert fuzz(target, seconds=10, seed=1) > 10


@pytest.mark.parametrize("file", REGRESSIONS, ids=lambda file: file.name)
def test_an_input_that_once_failed_does_not_fail_again(file: Path) -> None:
    check, _ = TARGETS[file.name.partition("-")[0]]
    check(file.read_bytes())


def test_inputs_that_once_failed_are_stored() -> None:
    assert REGRESSIONS

"""Every hostile file becomes a prediction or a failure with exactly the expected reason."""

from collections import Counter

import pytest
from hostile_corpus import HostileFile, hostile_files
from image_corpus import encode, scene
from image_decoding import RULE, failure, mean_difference, odd_metadata_is_silent
from outputs import rows

from genretag.images.decoding import REASONS, ImageLimits, decode

MEMORY_PER_FETCH_ACTOR = 4 * 2**30  # as docs/guarantees.md promises

pytestmark = odd_metadata_is_silent


def test_the_corpus_is_small_and_covers_every_reason_under_unique_names() -> None:
    files = hostile_files()
    assert len(files) >= 200
    assert len({file.name.rpartition(".")[0] for file in files}) == len(files)
    assert sum(len(file.data) for file in files) < 20 * 2**20
    outcomes = {outcome for file in files for outcome in file.outcomes}
    # These two reasons depend on limits, not on the file.
    assert outcomes == {"scored", *REASONS} - {"too_many_bytes", "out_of_memory"}


@pytest.mark.parametrize("file", hostile_files(), ids=lambda file: file.name)
def test_a_hostile_file_ends_as_expected(file: HostileFile) -> None:
    if file.outcomes != {"scored"}:
        assert failure(file.data).reason in file.outcomes
        return
    decoded = decode(file.data, RULE)
    assert decoded.pixels.shape == (30, 20, 3)
    if file.shows == "scene":
        assert (decoded.width, decoded.height) == (80, 120)
        assert mean_difference(decoded.pixels, decode(encode(scene(), "PNG"), RULE).pixels) < 3


def test_a_bucket_of_all_hostile_files_gives_one_row_each(run, bucket, storage) -> None:
    files = {f"{bucket}/posters/{file.name}": file for file in hostile_files()}
    for uri, file in files.items():
        storage.put(uri, file.data)

    record = run(f"{bucket}/posters", f"{bucket}/genres", error_budget=1.0)

    found = [(row["uri"], "scored") for row in rows(f"{bucket}/genres")]
    found += [(row["uri"], row["reason"]) for row in rows(f"{bucket}/genres", "failures")]
    assert max(Counter(uri for uri, _ in found).values()) == 1
    assert dict(found).keys() == files.keys()
    wrong = {uri: outcome for uri, outcome in found if outcome not in files[uri].outcomes}
    assert wrong == {}
    assert record.listed == record.scored + record.failed == len(files)
    assert record.peak_memory_bytes["fetch"] < MEMORY_PER_FETCH_ACTOR


def test_a_compression_bomb_within_the_pixel_limit_is_refused_by_the_memory_limit() -> None:
    bomb = next(file.data for file in hostile_files() if file.name == "png-25-megapixels-in-3-kb.png")
    assert decode(bomb, RULE, ImageLimits(max_decode_bytes=200_000_000)).width == 5000
    bad = failure(bomb, ImageLimits(max_decode_bytes=100_000_000))
    assert bad.reason == "too_many_pixels"
    assert bad.message.startswith("5,000 x 5,000 pixels of PNG 1 take 131,")
    assert bad.message.endswith("bytes, limit 100,000,000")


def test_messages_of_libtiff_do_not_reach_the_error_output(capfd: pytest.CaptureFixture[str]) -> None:
    damaged = next(file.data for file in hostile_files() if file.name == "tiff-deflated-garbage.tif")
    assert failure(damaged).reason == "corrupt"
    assert capfd.readouterr().err == ""

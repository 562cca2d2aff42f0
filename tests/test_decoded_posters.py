"""Training workers get the pixels that scoring sees, through each kind of cache, and no unreadable posters."""

import sys
from functools import cache as cache_of_functions
from pathlib import Path

import numpy as np
import pytest
from slow_poster import save_slow_poster

from genretag.data.labels import LabelledSet
from genretag.images import ImageRule
from genretag.images.decoding import decode
from genretag.scoring.labelled_posters import LabelledPosters
from genretag.scoring.step_ledger import open_ledger
from genretag.storage import Storage, join
from genretag.training import pixel_files
from genretag.training.batches import training_batches, validation_batches
from genretag.training.pixels import Guard, decode_posters

RULE = ImageRule(96, 64)


@pytest.fixture(params=["memory", "folder", pytest.param("bucket", marks=pytest.mark.slow), "none"])
def cache(request, tmp_path):
    places = {"folder": lambda: str(tmp_path / "cache"), "bucket": lambda: request.getfixturevalue("bucket")}
    return places.get(request.param, lambda: request.param)()


@pytest.fixture
def posters(few_posters):
    """Return twelve labelled posters, none of them broken. The label of each poster is its number."""
    return labelled(few_posters)


def labelled(folder):
    """Return the files of a folder as labelled posters. The label of each poster is its number."""
    files = sorted(Path(folder).iterdir())
    rows = LabelledSet(
        tuple(file.stem for file in files), tuple(map(str, range(len(files)))), np.eye(len(files), dtype=np.uint8)
    )
    return LabelledPosters(rows, list(map(str, files)), [Storage().stat(str(file)).etag for file in files])


def decoded(posters, cache, decode_timeout_s=60):
    """Decode posters through this cache, two at a time."""
    guard = Guard(Storage(), ledger(), decode_timeout_s)
    return decode_posters(posters, RULE, cache, guard, at_once=2)


@cache_of_functions
def ledger():
    """Open a ledger that all tests share. No test reads it."""
    return open_ledger(sys.maxsize)


def shown(posters, batch_size=4, workers=2):
    """Return the number and pixels of each poster that the workers get in one epoch."""
    batches = [
        batch
        for rank in range(workers)
        for batch in training_batches(posters, batch_size, seed=0, epoch=0, rank=rank, workers=workers)
    ]
    assert {len(batch.images) for batch in batches} == {batch_size // workers}
    return [
        (int(label.argmax()), image)
        for batch in batches
        for image, label in zip(batch.images, batch.labels, strict=True)
    ]


@pytest.mark.parametrize("kept", ["memory", "files"])
def test_a_poster_whose_decoder_hangs_is_left_out_of_training(ray_cluster, few_posters, tmp_path, kept):
    limit_s = save_slow_poster(few_posters / "slow.jpg")

    found = decoded(labelled(few_posters), str(tmp_path) if kept == "files" else "memory", decode_timeout_s=limit_s)

    assert (len(found), found.failures) == (12, {"decode: timeout": 1})


def test_training_sees_the_pixels_that_scoring_sees(ray_cluster, posters, cache):
    seen = shown(decoded(posters, cache))

    assert sorted(number for number, _ in seen) == list(range(12))
    for number, pixels in seen:
        expected = decode(Path(posters.uris[number]).read_bytes(), RULE).pixels
        np.testing.assert_array_equal(pixels, expected)


def test_validation_sees_the_same_pixels_and_each_poster_once(ray_cluster, posters, cache):
    parts = [list(validation_batches(decoded(posters, cache), rank, 5)) for rank in range(5)]

    labels = np.concatenate([batch.labels for part in parts for batch in part]).argmax(axis=1)
    images = np.concatenate([batch.images for part in parts for batch in part])
    assert sorted(labels.tolist()) == list(range(12))
    np.testing.assert_array_equal(images[0], decode(Path(posters.uris[labels[0]]).read_bytes(), RULE).pixels)


def test_every_cache_gives_the_same_order(ray_cluster, posters, tmp_path):
    orders = [[number for number, _ in shown(decoded(posters, c))] for c in ("memory", str(tmp_path / "c"), "none")]

    assert orders[0] == orders[1] == orders[2]


@pytest.mark.parametrize("where", ["memory", "cache"])
def test_posters_that_cannot_be_read_are_left_out_and_counted(ray_cluster, few_posters, tmp_path, where):
    posters = labelled(few_posters)
    Path(posters.uris[3]).write_bytes(b"no picture")
    Path(posters.uris[7]).unlink()
    cache = "memory" if where == "memory" else str(tmp_path / where)

    found = decoded(posters, cache)

    assert len(found) == 10
    assert found.failures == {"decode: not_an_image": 1, "fetch: not_found": 1}
    assert {number for number, _ in shown(found, batch_size=2)} == set(range(12)) - {3, 7}


def test_without_a_cache_other_posters_replace_unreadable_ones(ray_cluster, few_posters):
    posters = labelled(few_posters)
    Path(posters.uris[3]).write_bytes(b"no picture")
    found = decoded(posters, "none")

    batches = list(training_batches(found, 4, seed=0, epoch=0, rank=0, workers=1))

    assert [len(batch.images) for batch in batches] == [4, 4, 4], "the steps are as many as on other workers"
    assert sum(batch.unreadable for batch in batches) == 1
    for batch in batches:
        for image, label in zip(batch.images, batch.labels, strict=True):
            expected = decode(Path(posters.uris[int(label.argmax())]).read_bytes(), RULE).pixels
            np.testing.assert_array_equal(image, expected)
    assert sum(len(batch.images) for batch in validation_batches(found, 0, 1)) == 11


def test_a_later_run_reads_the_cache_and_not_the_images(ray_cluster, posters, few_posters, tmp_path):
    first = shown(decoded(posters, str(tmp_path / "cache")))
    for uri in posters.uris:
        Path(uri).unlink()

    second = shown(decoded(posters, str(tmp_path / "cache")))

    assert [number for number, _ in first] == [number for number, _ in second]
    np.testing.assert_array_equal([image for _, image in first], [image for _, image in second])


def test_posters_that_could_not_be_fetched_are_tried_again_by_the_next_run(ray_cluster, posters, tmp_path):
    missing = Path(posters.uris[5])
    held = missing.rename(tmp_path / "elsewhere")
    assert len(decoded(posters, str(tmp_path / "cache"))) == 11
    held.rename(missing)

    assert len(decoded(posters, str(tmp_path / "cache"))) == 12


def test_the_name_of_a_cached_file_depends_on_posters_versions_and_image_rule():
    def file(**changes):
        values = {"cache": "c", "rule": RULE, "uris": ["a", "b"], "etags": ["1", "2"]}
        return pixel_files.file_of(**{**values, **changes})

    assert file() == file()
    assert len({file(), file(etags=["1", "3"]), file(rule=ImageRule(64, 96)), file(uris=["a", "c"])}) == 4


def test_a_cached_file_has_the_pixels_and_the_missing_posters(bucket):
    pixels = np.random.default_rng(0).integers(0, 256, (2, 5, 3, 3), dtype=np.uint8)
    contents = pixel_files.Contents(np.array([0, 2]), ("decode: truncated",), lasting=True)

    pixel_files.write_pixels(join(bucket, "a.parquet"), pixels, contents, Storage())

    np.testing.assert_array_equal(pixel_files.read_pixels(join(bucket, "a.parquet"), Storage()), pixels)
    found = pixel_files.contents_of(join(bucket, "a.parquet"), Storage())
    assert (found.readable.tolist(), found.failures, found.lasting) == ([0, 2], ("decode: truncated",), True)
    assert pixel_files.contents_of(join(bucket, "b.parquet"), Storage()) is None

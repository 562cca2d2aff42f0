"""Posters with the same picture under several ids stay in one split."""

import numpy as np
import pytest

from genretag.data.labels import LabelledSet
from genretag.data.splits import SplitRule, StoredImage, leaders, split
from genretag.scoring.inventory import read_inventory
from genretag.scoring.labelled_posters import FoundPosters
from genretag.storage import Storage, join

PICTURES = {"b": b"one picture", "a": b"one picture", "c": b"two picture", "d": b"one picture and more"}


def stored(place, storage):
    """Return the images in a folder or bucket by poster id."""
    rows = read_inventory(str(place), storage).to_pylist()
    return {row["poster_id"]: StoredImage(row["uri"], row["etag"], row["size"]) for row in rows}


@pytest.fixture
def folder(tmp_path):
    for name, data in PICTURES.items():
        (tmp_path / f"{name}.jpg").write_bytes(data)
    return tmp_path


def test_the_smallest_id_is_the_leader_of_posters_with_the_same_bytes(folder):
    assert leaders(stored(folder, Storage()), Storage()) == {"a": "a", "b": "a"}


def test_identical_pictures_are_found_without_known_sizes(folder):
    images = {id: image._replace(size_bytes=None) for id, image in stored(folder, Storage()).items()}

    assert leaders(images, Storage()) == {"a": "a", "b": "a"}


def test_an_unreadable_picture_is_identical_to_no_other(folder):
    images = stored(folder, Storage())
    (folder / "a.jpg").unlink()

    assert leaders(images, Storage()) == {}


def test_in_a_bucket_identical_pictures_are_found_by_the_etags_of_the_listing(bucket, storage):
    for name, data in PICTURES.items():
        storage.put(join(bucket, f"{name}.jpg"), data)
    images = stored(bucket, storage)
    for name in PICTURES:
        storage.delete(join(bucket, f"{name}.jpg"))

    assert leaders(images, storage) == {"a": "a", "b": "a"}


def test_identical_pictures_are_in_the_split_of_the_smallest_id(folder):
    """By their ids alone, tt0 is a test poster and tt2 is a training poster. Both have the same picture."""
    labelled = LabelledSet(("tt2", "tt0"), ("War",), np.array([[1], [1]], np.uint8))
    images = {"tt0": StoredImage(str(folder / "a.jpg"), "", 11), "tt2": StoredImage(str(folder / "b.jpg"), "", 11)}
    found = FoundPosters(labelled, images)

    together = found.split(SplitRule(), Storage())
    apart = found.split(SplitRule(identical_together=False), Storage())

    assert {name: part.labelled.ids for name, part in together.parts().items()} == {
        "train": (), "validation": (), "test": ("tt2", "tt0")
    }  # fmt: skip
    assert together.test.uris == [str(folder / "b.jpg"), str(folder / "a.jpg")]
    assert (apart.train.labelled.ids, apart.test.labelled.ids) == (("tt2",), ("tt0",))


def test_a_poster_is_in_the_split_of_its_leader():
    labelled = LabelledSet(("tt2", "tt0"), ("War",), np.array([[1], [1]], np.uint8))

    assert split(labelled, SplitRule(), {"tt0": "tt0", "tt2": "tt0"}).test.ids == ("tt2", "tt0")

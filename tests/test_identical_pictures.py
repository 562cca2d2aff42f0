"""The same picture under several ids stays in one split."""

import numpy as np
import pytest

from genretag.data.labels import LabelledSet
from genretag.data.splits import SplitRule, StoredImage, leaders, split
from genretag.scoring.inventory import read_inventory
from genretag.scoring.labelled_posters import FoundPosters
from genretag.storage import Storage, join

PICTURES = {"b": b"one picture", "a": b"one picture", "c": b"two picture", "d": b"one picture and more"}


def stored(place, storage):
    rows = read_inventory(str(place), storage).to_pylist()
    return {row["poster_id"]: StoredImage(row["uri"], row["etag"], row["size"]) for row in rows}


@pytest.fixture
def folder(tmp_path):
    for name, data in PICTURES.items():
        (tmp_path / f"{name}.jpg").write_bytes(data)
    return tmp_path


def test_the_smallest_id_leads_those_with_the_same_bytes(folder):
    assert leaders(stored(folder, Storage()), Storage()) == {"a": "a", "b": "a"}


def test_sizes_that_nobody_knows_are_no_obstacle(folder):
    images = {id: image._replace(size_bytes=None) for id, image in stored(folder, Storage()).items()}

    assert leaders(images, Storage()) == {"a": "a", "b": "a"}


def test_what_cannot_be_read_is_identical_to_nothing(folder):
    images = stored(folder, Storage())
    (folder / "a.jpg").unlink()

    assert leaders(images, Storage()) == {}


def test_in_a_bucket_the_listing_knows_without_a_read(bucket, storage):
    for name, data in PICTURES.items():
        storage.put(join(bucket, f"{name}.jpg"), data)
    images = stored(bucket, storage)
    for name in PICTURES:
        storage.delete(join(bucket, f"{name}.jpg"))

    assert leaders(images, storage) == {"a": "a", "b": "a"}


def test_they_go_together_where_the_smallest_id_belongs(folder):
    """tt0 is a test poster, tt2 one to train on, if nothing is known of their pictures."""
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


def test_a_leader_decides_the_part():
    labelled = LabelledSet(("tt2", "tt0"), ("War",), np.array([[1], [1]], np.uint8))

    assert split(labelled, SplitRule(), {"tt0": "tt0", "tt2": "tt0"}).test.ids == ("tt2", "tt0")

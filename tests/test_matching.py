"""Ids of a CSV are matched with images. Each poster gets one image, and mismatches are reported or refused."""

import logging
import unicodedata

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genretag.data.labels import IMAGE_EXTENSIONS, LabelledSet, poster_id
from genretag.data.splits import StoredImage
from genretag.errors import UsageError
from genretag.scoring.labelled_posters import find_posters, images_by_id, match_images
from genretag.scoring.training_ids import HASH, among, training_ids_file
from genretag.settings import LabelSettings
from genretag.storage import Storage, join

NOWHERE = StoredImage("/nowhere.jpg", "", 1)


@pytest.fixture
def found(tmp_path):
    """Return a function that finds the images of ids among files with these names and contents.

    All ids have the same label.
    """

    def found(ids, files, **settings):
        for name, content in files.items():
            file = tmp_path / "images" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
        table = ("id,labels\n" + "".join(f"{id},War\n" for id in ids)).encode()
        posters = find_posters(
            table, "films.csv", str(tmp_path / "images"), Storage(), LabelSettings(**settings), min_positives=1
        )
        return {id: image.uri.removeprefix(f"{tmp_path}/images/") for id, image in posters.images.items()}

    return found


TITLES = ["Amélie", "Volver à l’été", "Señora Ñ", "Über uns", "パパ", "각설탕"]


@pytest.mark.parametrize("of_ids", ["NFC", "NFD"])
@pytest.mark.parametrize("of_files", ["NFC", "NFD"])
def test_ids_and_file_names_match_in_every_normal_form(found, of_ids, of_files):
    ids = [unicodedata.normalize(of_ids, title) for title in TITLES]
    files = {unicodedata.normalize(of_files, f"{title}.jpg"): title.encode() for title in TITLES}

    assert list(found(ids, files)) == [unicodedata.normalize("NFC", title) for title in TITLES]


def test_keys_of_a_bucket_match_in_every_normal_form(bucket, storage):
    for title in TITLES:
        storage.put(join(bucket, unicodedata.normalize("NFD", f"{title}.jpg")), title.encode())
    table = ("id,labels\n" + "".join(f"{title},War\n" for title in TITLES)).encode()

    posters = find_posters(table, "films.csv", bucket, storage, min_positives=1)

    assert list(posters.labelled.ids) == [unicodedata.normalize("NFC", title) for title in TITLES]


def test_training_ids_of_an_earlier_bundle_in_decomposed_form_are_recognised():
    decomposed = [unicodedata.normalize("NFD", title) for title in TITLES]
    hashes = np.frombuffer(training_ids_file(decomposed), dtype=HASH)

    assert among([*TITLES, "other"], hashes).tolist() == [True] * len(TITLES) + [False]


@settings(deadline=None)
@given(st.text(min_size=1, max_size=6), st.sampled_from(["NFC", "NFD"]), st.sampled_from(["NFC", "NFD"]))
def test_an_id_matches_whatever_forms_it_is_written_in(name, form, other):
    id = poster_id(unicodedata.normalize(form, name))
    stored = images_by_id([(unicodedata.normalize(other, id), NOWHERE)])

    assert id in stored


@pytest.mark.parametrize("extension", ["jfif", "jpe", "JPE", "pjpeg", "heic", "tif", "Apng", "dib"])
def test_an_id_with_the_ending_of_an_image_is_its_stem(found, extension):
    assert extension.lower() in IMAGE_EXTENSIONS
    assert found([f"folder/a.{extension}"], {f"a.{extension}": b"1"}) == {"a": f"a.{extension}"}


@pytest.mark.parametrize("second", ["back/{}.jpg", "{}.png"])
def test_many_posters_with_two_images_are_refused_with_an_example(found, second):
    files = {name.format(n): name.encode() for n in range(5) for name in ("front/{}.jpg", second)}

    with pytest.raises(UsageError, match=r"5 of 8 posters have several images, such as '0': .*/0\.") as caught:
        found(range(8), files | {f"front/{n}.jpg": b"1" for n in (5, 6, 7)})
    assert "name the folder with the right ones, or a manifest" in str(caught.value)


def test_a_few_posters_with_two_images_are_left_out_and_named(found, caplog):
    caplog.set_level(logging.INFO)
    files = {f"{n}.jpg": b"1" for n in range(30)} | {"7.png": b"other", "8.png": b"other"}

    assert found(range(30), files) == {str(n): f"{n}.jpg" for n in range(30) if n not in (7, 8)}
    assert "  images: found for 28 of 30 posters" in caplog.messages
    assert any("posters left out, several images: 2 ('7': " in line for line in caplog.messages)


def test_many_posters_with_two_images_are_left_out_if_allowed(found):
    files = {f"{n}.jpg": b"1" for n in range(8)} | {f"{n}.png": b"other" for n in range(5)}

    assert found(range(8), files, allow_left_out=True) == {str(n): f"{n}.jpg" for n in (5, 6, 7)}


def test_of_identical_copies_of_an_image_the_first_by_name_is_used(found):
    files = {f"{folder}/{n}.jpg": f"{n}".encode() for n in range(5) for folder in ("posters", "backup")}

    assert found(range(5), files) == {str(n): f"backup/{n}.jpg" for n in range(5)}


def test_other_files_with_the_name_of_an_image_are_no_second_image(found):
    files = {f"{n}.{ending}": ending.encode() for n in range(5) for ending in ("jpg", "nfo", "json", "txt")}

    assert found(range(5), files) == {str(n): f"{n}.jpg" for n in range(5)}


def test_an_object_that_is_listed_twice_is_one_image():
    labelled = LabelledSet(("a",), ("War",), np.ones((1, 1), dtype=np.uint8))
    stored = images_by_id([("a", StoredImage("s3://b/a.jpg", "old", 1)), ("a", StoredImage("s3://b/a.jpg", "new", 2))])

    assert match_images(labelled, stored, Storage()).images == {"a": StoredImage("s3://b/a.jpg", "new", 2)}


def test_a_csv_whose_ids_match_hardly_any_image_is_refused(found):
    files = {f"tt{n}.jpg": b"1" for n in range(40)} | {"3.jpg": b"1"}

    with pytest.raises(UsageError, match=r"only 1 of the 40 ids in .*films.csv are names of the 41 images"):
        found(range(40), files)
    assert found(range(40), files, allow_left_out=True) == {"3": "3.jpg"}


def test_ids_without_an_image_and_images_without_labels_are_counted(found, caplog):
    caplog.set_level(logging.INFO)

    assert len(found(range(4), {f"{n}.jpg": b"1" for n in range(2, 8)})) == 2
    assert caplog.messages[-3:] == [
        "  images: found for 2 of 4 posters",
        "  posters left out, no image: 2 ('0', '1')",
        "  images without labels: 4",
    ]

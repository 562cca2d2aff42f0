"""Drawn posters are the same every time, as varied as real posters, and a model can learn their labels."""

import io
from itertools import islice

import numpy as np
import pytest
from PIL import Image, ImageOps

from genretag.demo.posters import BROKEN, LOOKS, TITLES, DrawnPoster, draw_poster, draw_posters, labels_csv


@pytest.fixture(scope="module")
def assortment() -> list[DrawnPoster]:
    return list(draw_posters(100, seed=2, broken_share=0.2))


def opened(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


def test_the_same_seed_draws_the_same_bytes() -> None:
    assert draw_poster(7) == draw_poster(7)
    assert draw_poster(7, ("Horror", "Comedy")) == draw_poster(7, ("Horror", "Comedy"))
    assert draw_poster(7) != draw_poster(8)


def test_a_longer_run_starts_with_the_shorter_one() -> None:
    assert list(draw_posters(3, seed=1)) == list(islice(draw_posters(100, seed=1), 3))


def test_a_poster_has_the_size_and_format_asked_for() -> None:
    for image_format in ("JPEG", "PNG", "WEBP"):
        image = opened(draw_poster(1, ("Western",), 120, 180, image_format))
        assert (image.format, image.size) == (image_format, (120, 180))


def test_a_lower_quality_takes_fewer_bytes() -> None:
    assert len(draw_poster(1, ("Action",), quality=40)) < len(draw_poster(1, ("Action",), quality=90))


def test_an_unknown_look_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"no such look: Opera; there are Action, .*Western"):
        draw_poster(1, ("Horror", "Opera"))


def test_every_whole_poster_opens_with_pillow_and_stands_upright(assortment: list[DrawnPoster]) -> None:
    for poster in assortment:
        if poster.broken is None:
            upright = ImageOps.exif_transpose(opened(poster.data))
            assert upright.height > upright.width, poster.key


def test_no_broken_poster_opens(assortment: list[DrawnPoster]) -> None:
    broken = [poster for poster in assortment if poster.broken]
    assert {poster.broken for poster in broken} == set(BROKEN)
    for poster in broken:
        with pytest.raises((OSError, Image.DecompressionBombError)):
            opened(poster.data)


def test_posters_come_in_many_formats_and_sizes(assortment: list[DrawnPoster]) -> None:
    images = [opened(poster.data) for poster in assortment if poster.broken is None]
    assert {image.format for image in images} == {"JPEG", "PNG", "WEBP"}
    assert {image.mode for image in images} == {"RGB", "L", "CMYK"}
    assert {min(image.size) for image in images} == {182, 300, 400}
    assert any(image.getexif() for image in images)


def test_large_share_sets_the_share_of_large_posters() -> None:
    assert [min(opened(poster.data).size) >= 1000 for poster in draw_posters(2, large_share=1.0)] == [True, True]


def test_keys_name_the_format_and_no_two_seeds_share_an_id(assortment: list[DrawnPoster]) -> None:
    assert all(poster.key.endswith((".jpg", ".png", ".webp")) for poster in assortment)
    others = draw_posters(5, seed=4)
    stems = [poster.key.rsplit("/")[-1].split(".")[0] for poster in (*assortment, *others)]
    assert len(set(stems)) == len(stems)
    assert stems[12] == "dp2000012"


def test_posters_show_one_or_two_looks(assortment: list[DrawnPoster]) -> None:
    assert {len(poster.labels) for poster in assortment} == {1, 2}
    assert {label for poster in assortment for label in poster.labels} == set(LOOKS)


def thumbnail(seed: int, *looks: str) -> np.ndarray:
    """Draw a poster and return its colours at 4 x 6 pixels."""
    return np.asarray(opened(draw_poster(seed, looks, 120, 180)).resize((4, 6)), np.float32)


def test_looks_can_be_told_apart_by_colour() -> None:
    means = np.stack([np.mean([thumbnail(seed, look) for seed in range(10)], axis=0) for look in LOOKS])
    hits = 0
    for truth, look in enumerate(LOOKS):
        for seed in range(100, 106):
            distances = np.square(means - thumbnail(seed, look)).sum(axis=(1, 2, 3))
            hits += int(distances.argmin()) == truth
    assert hits / (6 * len(LOOKS)) > 0.9


def test_a_second_look_takes_a_part_of_the_poster() -> None:
    def upper_half(seed: int, *looks: str) -> np.ndarray:
        return np.asarray(opened(draw_poster(seed, looks)))[:225].astype(int)

    changed = [
        np.abs(upper_half(seed, "Horror") - upper_half(seed, "Horror", "Comedy")).max(axis=2) > 60 for seed in range(8)
    ]
    assert 0.2 < np.mean(changed) < 0.8


def test_every_title_has_an_invented_place_in_it() -> None:
    assert all("{place}" in title for title in TITLES)


def test_the_labels_become_a_csv() -> None:
    posters = [
        DrawnPoster("posters/1987/dp000000.jpg", b"", ("Sci-Fi", "Horror"), None),
        DrawnPoster("posters/2001/dp000001.webp", b"", ("Romance",), "empty"),
    ]
    assert labels_csv(posters) == "id,labels\ndp000000,Sci-Fi|Horror\ndp000001,Romance\n"

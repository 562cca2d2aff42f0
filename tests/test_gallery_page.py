"""The gallery in a real browser: filters, sorting, keys, marks that `genretag train --labels` reads, hostile names."""

import csv

import numpy as np
import pytest
from nights import a_run
from page_checks import FOREIGN, HOSTILE_LABEL, hostile_path, no_violations, opened, without_markup
from tagged_output import LABELS, random_probabilities, write_tagged

from genretag.data.label_csv import read_labels
from genretag.model.bundle import DEFAULT_BUNDLE, load_bundle
from genretag.reports.gallery import gallery
from genretag.runtime.session import Session
from genretag.settings import GallerySettings
from genretag.storage import Storage

POSTERS = 150


@pytest.fixture(scope="module")
def paths(poster_folder):
    return sorted(poster_folder.rglob("*.*"), key=str)[:POSTERS]


@pytest.fixture(scope="module")
def page_file(paths, tmp_path_factory):
    """Make a gallery of 150 posters. The CSV has labels of the first three, and agrees only on the second."""
    folder = tmp_path_factory.mktemp("gallery")
    posters = random_probabilities(paths) | {
        paths[0]: [0.95, 0.02, 0.01], paths[1]: [0.02, 0.97, 0.01], paths[2]: [0.03, 0.04, 0.05]
    }  # fmt: skip
    write_tagged(folder / "out", posters)
    rows = [f"{paths[0].stem},Comedy", f"{paths[1].stem},Comedy", f"{paths[2].stem},Drama"]
    (folder / "labels.csv").write_text("\n".join(["id,labels", *rows]))
    gallery(str(folder / "out"), GallerySettings(labels=str(folder / "labels.csv")), Session(quiet=True))
    return folder / "out" / "gallery.html"


@pytest.fixture
def page(browser, page_file):
    with opened(browser, page_file) as page:
        yield page


def shown(page):
    """Return the ids of the cards that the page has now, in the order of the page."""
    cards = page.locator("#grid li")
    order = sorted(range(cards.count()), key=lambda at: int(cards.nth(at).get_attribute("aria-posinset")))
    return [cards.nth(at).locator(".id").inner_text() for at in order]


def count(page):
    return page.locator("#count").inner_text()


def test_the_page_has_only_cards_near_the_window(page):
    assert count(page) == f"{POSTERS} of {POSTERS} posters"
    assert 10 < page.locator("#grid li").count() < POSTERS
    page.evaluate("scrollTo(0, document.body.scrollHeight)")
    page.locator(f'#grid li[aria-posinset="{POSTERS}"] img[src^="data:image/webp"]').wait_for()
    assert page.locator("#grid li").count() < POSTERS


def test_filters_are_in_the_address_so_a_link_shows_the_same_posters(page, browser, page_file):
    page.select_option("#genre", "Comedy")
    page.locator("#low").fill("0.8")
    page.select_option("#sort", "certain")
    first, words = shown(page), count(page)

    assert page.url.endswith("#genre=Comedy&low=0.8&sort=certain")
    assert 0 < int(words.split()[0]) < POSTERS
    with opened(browser, page_file, address="#" + page.url.split("#")[1]) as other:
        assert (shown(other), count(other)) == (first, words)
    page.locator("#clear").click()
    assert ("#" in page.url, count(page)) == (False, f"{POSTERS} of {POSTERS} posters")


def test_search_by_id_shows_the_poster_or_says_that_there_is_none(page, paths):
    page.locator("#find").fill(paths[7].stem)
    assert shown(page) == [paths[7].stem]
    page.locator("#find").fill("no such id")
    assert page.locator("#none").is_visible()


def test_sorted_by_certainty_and_by_disagreement_with_the_csv(page, paths):
    page.select_option("#sort", "uncertain")
    assert shown(page)[0] == paths[2].stem
    page.select_option("#sort", "disagree")
    assert shown(page)[:3] == [paths[0].stem, paths[2].stem, paths[1].stem]
    page.select_option("#show", "differ")
    assert set(shown(page)) == {paths[0].stem, paths[2].stem}


def test_keys_move_between_posters_and_mark_them(page, paths):
    page.locator("#grid button").first.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("r")
    assert count(page).endswith("1 marked, 0 wrong")
    page.keyboard.press("End")
    assert page.locator("*:focus .id").inner_text() == paths[-1].stem
    page.keyboard.press("Home")
    page.keyboard.press("Enter")
    assert page.locator("#look-id").inner_text() == paths[0].stem
    assert page.locator("#look-truth").inner_text() == "In the CSV: Comedy"
    page.keyboard.press("ArrowRight")
    assert page.locator("#look-id").inner_text() == paths[1].stem
    page.keyboard.press("Escape")
    page.locator("*:focus .id", has_text=paths[1].stem).wait_for()
    page.keyboard.press("/")
    assert page.locator("#find:focus").count() == 1


def test_marks_become_a_csv_that_training_reads(page, paths, tmp_path):
    page.locator("#grid button").first.focus()
    page.keyboard.press("x")
    page.get_by_label("Comedy", exact=True).check()
    page.get_by_label("Sci-Fi", exact=True).check()
    page.locator("#next").click()
    page.locator("#right").click()
    page.locator("#next").click()
    page.locator("#wrong").click()
    assert "training will leave this poster out" in page.locator("#truth-note").inner_text()
    page.locator("#close").click()
    page.reload()
    assert count(page).endswith("3 marked, 2 wrong"), "marks stay in the browser"

    with page.expect_download() as download:
        page.locator("#save").click()
    download.value.save_as(tmp_path / "marks.csv")
    content = (tmp_path / "marks.csv").read_bytes()
    labelled, report = read_labels(content, "marks.csv", min_positives=1)

    assert download.value.suggested_filename == "marks.csv"
    found = {
        id: {label for label, on in zip(labelled.labels, row, strict=True) if on}
        for id, row in zip(labelled.ids, labelled.multi_hot, strict=True)
    }
    assert found == {paths[0].stem: {"Comedy", "Sci-Fi"}, paths[1].stem: {"Comedy"}}
    assert len(report.unlabelled) == 1, "what is right of the third nobody said"


def test_ids_are_copied(browser, page_file, paths):
    with opened(browser, page_file, permissions=["clipboard-read", "clipboard-write"]) as page:
        page.locator("#find").fill(paths[3].stem)
        page.locator("#copy").click()
        page.get_by_text("Copied the ids of").wait_for()
        assert page.evaluate("navigator.clipboard.readText()") == paths[3].stem


def test_the_gallery_is_accessible_on_a_phone_and_in_dark_mode(browser, page_file):
    for width, scheme in ((390, "dark"), (390, "light"), (1280, "dark"), (1280, "light")):
        with opened(browser, page_file, width=width, scheme=scheme) as page:
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            dark = page.evaluate("getComputedStyle(document.body).backgroundColor") != "rgb(253, 252, 249)"
            assert dark == (scheme == "dark")
            no_violations(page)
            page.locator("#grid button").first.click()
            page.locator("#wrong").click()
            no_violations(page)


def test_the_printed_gallery_shows_posters_and_no_tools(page):
    page.emulate_media(media="print")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert not page.locator("#tools").is_visible()
    assert page.locator("#grid li").count() >= 120


def test_more_like_this_leads_from_poster_to_poster(browser, paths, tmp_path):
    """Posters 0 to 3 have nearly the same embedding. All others differ from them, and from each other."""
    vectors = np.eye(20, dtype=np.float32)[[0, 0, 0, 0, *range(1, 17)]]
    vectors[[1, 2, 3], 1] = 0.1, 0.2, 0.3
    said = np.tile([0.9, 0.1, 0.1], (20, 1))
    said[3] = 0.1, 0.9, 0.1
    posters = dict(zip(paths[:20], np.concatenate([said, vectors], axis=1).tolist(), strict=True))
    write_tagged(tmp_path / "out", posters, embedding=20)
    gallery(str(tmp_path / "out"), GallerySettings(), Session(quiet=True))

    with opened(browser, tmp_path / "out" / "gallery.html") as page:
        page.select_option("#genre", "Drama")
        page.locator("#grid button").first.click()
        near = page.locator("#near-list button")
        names = [near.nth(at).get_attribute("aria-label") for at in range(3)]
        assert names == [f"Look at {path.stem}" for path in paths[1:4]]
        no_violations(page)
        near.nth(2).click()  # the filter hides this one, so it goes
        assert page.locator("#look-id").inner_text() == paths[3].stem
        assert page.locator("#genre").input_value() == ""
        assert near.first.get_attribute("aria-label") == f"Look at {paths[2].stem}"


def test_the_key_e_shows_which_part_of_a_poster_supports_each_genre(browser, paths, tmp_path):
    bundle = load_bundle(str(DEFAULT_BUNDLE), Storage())
    night = a_run(model=bundle.model_version)
    said = np.full((6, len(bundle.labels)), 0.1)
    said[:, [3, 5]] = 0.9, 0.8
    write_tagged(tmp_path / "out", dict(zip(paths, said.tolist(), strict=False)), night=night, labels=bundle.labels)
    gallery(str(tmp_path / "out"), GallerySettings(model=str(DEFAULT_BUNDLE)), Session(quiet=True))

    with opened(browser, tmp_path / "out" / "gallery.html") as page:
        page.locator("#grid button").first.click()
        mask, words = page.locator("#mask"), page.locator("#mask-of")
        assert not mask.is_visible()
        for label in (3, 5):
            page.keyboard.press("e")
            assert words.inner_text() == f"Bright: what supports {bundle.labels[label]}"
            assert mask.bounding_box() == page.locator("#look-image").bounding_box()
            assert mask.evaluate("mask => mask.naturalWidth") == 12
        no_violations(page)
        page.keyboard.press("ArrowRight")
        assert words.inner_text() == f"Bright: what supports {bundle.labels[3]}", "of the next poster"
        page.locator("#evidence").click(click_count=2)
        assert not mask.is_visible()


def test_without_embeddings_there_is_no_more_like_this(page):
    page.locator("#grid button").first.click()

    assert page.locator("#look-id").is_visible()
    assert not page.locator("#near").is_visible()


@pytest.mark.parametrize("policy", ["with its policy", "without its policy"])
def test_hostile_names_stay_text(browser, tmp_path, poster_folder, policy):
    path = hostile_path(tmp_path, sorted(poster_folder.rglob("*.*"))[0])
    labels = (*LABELS, HOSTILE_LABEL)
    write_tagged(tmp_path / "out", {path: [0.1, 0.2, 0.3, 0.9]}, night=a_run(), labels=labels)
    (tmp_path / "labels.csv").write_text(f'id,labels\n"{path.stem}","[""{HOSTILE_LABEL}""]"\n')
    settings = GallerySettings(labels=str(tmp_path / "labels.csv"))
    gallery(str(tmp_path / "out"), settings, Session(quiet=True))

    with opened(browser, tmp_path / "out" / "gallery.html", bypass_csp=policy == "without its policy") as page:
        without_markup(page)
        page.locator("#grid button").first.click()
        page.locator("#wrong").click()
        page.get_by_label(HOSTILE_LABEL, exact=True).check()
        assert page.locator("#look-uri").inner_text() == str(path)
        assert page.locator("#bars .name").first.inner_text() == HOSTILE_LABEL
        without_markup(page)
        page.locator("#close").click()
        with page.expect_download() as download:
            page.locator("#save").click()
        download.value.save_as(tmp_path / "marks.csv")

    (row,) = csv.DictReader((tmp_path / "marks.csv").read_text().splitlines())
    assert row["id"] == path.stem
    labelled, _ = read_labels((tmp_path / "marks.csv").read_bytes(), "marks.csv", min_positives=1)
    assert (labelled.ids, labelled.labels) == ((path.stem,), (HOSTILE_LABEL,))


def test_the_hostile_names_run_if_they_are_not_escaped(browser):
    """Check that the hostile names of the test above do run if they are not escaped."""
    page = browser.new_page()
    page.set_content(f"<p>{FOREIGN}</p>")
    page.wait_for_function("window.hacked === 1", timeout=5_000)
    page.close()

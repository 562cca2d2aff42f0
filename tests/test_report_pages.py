"""The model card and the morning report in a real browser are complete, accessible, and safe from hostile names."""

from pathlib import Path

import pytest
from nights import a_run
from page_checks import FOREIGN, HOSTILE_LABEL, hostile_path, no_violations, opened, without_markup
from tagged_output import LABELS, random_probabilities, write_tagged

from genretag.reports.run_report import report
from genretag.storage import Storage


@pytest.fixture(scope="module")
def night_page(poster_folder, tmp_path_factory):
    """Write the report of a night that has drifted, with hostile names of posters and labels. Return the file."""
    folder = tmp_path_factory.mktemp("night")
    paths = sorted(poster_folder.rglob("*.*"))[:20]
    labels = (*LABELS, HOSTILE_LABEL)
    write_tagged(folder / "out", random_probabilities(paths, labels), labels=labels)
    paths[0] = hostile_path(folder, paths[0])
    failed = [(str(paths[0]), "decode", "corrupt", FOREIGN)]
    tonight = {path: [0.0, 0.1, 0.2, 0.9] for path in paths}
    record = write_tagged(folder / "out", tonight, night=a_run(1), labels=labels, failed=failed)
    return Path(report(str(folder / "out"), record.run_id, Storage()).place)


@pytest.fixture(scope="module")
def card_page(small_bundle):
    """Return the model card of the small bundle."""
    return Path(small_bundle) / "report.html"


@pytest.mark.parametrize("which", ["night_page", "card_page"])
def test_the_page_is_accessible_on_a_phone_and_in_dark_mode(browser, which, request):
    for width, scheme in ((390, "dark"), (1280, "light"), (390, "light"), (1280, "dark")):
        with opened(browser, request.getfixturevalue(which), width=width, scheme=scheme) as page:
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            no_violations(page)


@pytest.mark.parametrize("bypass_csp", [False, True])
def test_hostile_names_stay_text(browser, night_page, bypass_csp):
    with opened(browser, night_page, bypass_csp=bypass_csp) as page:
        without_markup(page)
        assert page.get_by_role("rowheader", name=HOSTILE_LABEL, exact=True).count() == 1
        assert page.get_by_text("The genres have drifted.").is_visible()
        assert page.locator(".sheet img").count() == 3 * 14


def test_the_policy_blocks_a_script_that_was_not_escaped(browser, night_page, tmp_path):
    """If something were not escaped, the browser would still refuse to run it."""
    page = night_page.read_text().replace('<main id="main">', f'<main id="main">{FOREIGN}<script>hacked = 1</script>')
    (tmp_path / "page.html").write_text(page)

    for bypass_csp in (False, True):
        context = browser.new_context(bypass_csp=bypass_csp)
        tab = context.new_page()
        tab.goto((tmp_path / "page.html").as_uri())
        assert (tab.evaluate("window.hacked") == 1) == bypass_csp
        context.close()


def test_tables_that_are_wider_than_a_phone_scroll_by_themselves_and_by_key(browser, card_page):
    with opened(browser, card_page, width=390) as page:
        tables = page.locator(".scroll")
        assert tables.count() > 2
        assert all(tables.nth(at).get_attribute("tabindex") == "0" for at in range(tables.count()))

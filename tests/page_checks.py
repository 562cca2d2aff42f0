"""Open pages in a browser, and check what must hold for every page."""

from contextlib import contextmanager

from axe_playwright_python.sync_playwright import Axe

FOREIGN = "<img src=x onerror='window.hacked=1'>"
HOSTILE_LABEL = f"</script>{FOREIGN}"


@contextmanager
def opened(browser, file, *, address="", width=1280, scheme="light", bypass_csp=False, permissions=()):
    """Open an HTML file and yield the page. Fail if it loads anything else, or reports an error."""
    context = browser.new_context(
        viewport={"width": width, "height": 800},
        color_scheme=scheme,
        bypass_csp=bypass_csp,
        permissions=list(permissions),
        reduced_motion="reduce",
    )
    page = context.new_page()
    asked, errors = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.goto(file.as_uri() + address)
    yield page
    context.close()
    elsewhere = [url for url in asked if not url.startswith((file.as_uri(), "data:", "blob:"))]
    assert (elsewhere, errors) == ([], []), "the page is whole by itself"


def no_violations(page):
    """Fail if axe-core finds an accessibility problem in the page."""
    found = Axe().run(page).response["violations"]
    assert not found, [(v["id"], v["help"], [node["html"][:300] for node in v["nodes"]][:5]) for v in found]


def without_markup(page):
    """Fail if hostile text in the page became an element or ran as a script."""
    assert page.locator("img[src=x]").count() == 0
    assert page.evaluate("window.hacked") is None


def hostile_path(folder, picture):
    """Copy a picture to a path that would be a script in a page if it were not escaped. Return the path."""
    path = folder / "a<" / f"script>{FOREIGN}" / f"{FOREIGN}.jpg".replace("/", "")
    path.parent.mkdir(parents=True)
    path.write_bytes(picture.read_bytes())
    return path

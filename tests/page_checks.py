"""Opens pages in a browser as a person would, and checks what holds for all of them."""

from contextlib import contextmanager

from axe_playwright_python.sync_playwright import Axe

FOREIGN = "<img src=x onerror='window.hacked=1'>"
HOSTILE_LABEL = f"</script>{FOREIGN}"


@contextmanager
def opened(browser, file, *, address="", width=1280, scheme="light", bypass_csp=False, permissions=()):
    """The page of a file; it fails where the page asks for anything else, or reports an error."""
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
    """axe-core finds nothing that keeps anybody from using the page."""
    found = Axe().run(page).response["violations"]
    assert not found, [(v["id"], v["help"], [node["html"][:300] for node in v["nodes"]][:5]) for v in found]


def without_markup(page):
    """Nothing of a foreign name has become an element or run."""
    assert page.locator("img[src=x]").count() == 0
    assert page.evaluate("window.hacked") is None


def hostile_path(folder, picture):
    """A copy of a picture below a name that would be a script, were it not escaped."""
    path = folder / "a<" / f"script>{FOREIGN}" / f"{FOREIGN}.jpg".replace("/", "")
    path.parent.mkdir(parents=True)
    path.write_bytes(picture.read_bytes())
    return path

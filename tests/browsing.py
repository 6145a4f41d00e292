"""What a page in a browser shows, read by several files of tests."""

from axe_playwright_python.sync_playwright import Axe


def overflow(page):
    """Pixels by which the page is wider than the screen."""
    return page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")


def barriers(page):
    """What shuts out people who see or hear the page otherwise."""
    found = Axe().run(page).response["violations"]
    return [(rule["id"], rule["nodes"][0]["html"]) for rule in found if rule["impact"] in ("serious", "critical")]

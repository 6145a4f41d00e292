"""The page of a ledger, in a real browser."""

import pytest
from browsing import barriers, overflow

from actbench.judging.ledger import Ledger
from actbench.judging.page import write_ledger_page

HOSTILE = ["<script>document.title = 'hacked'</script>", "W" * 80, "激活函数" * 20, "<b>bold</b> & 'a\""]
VERDICTS = ["better", "worse", "equivalent", "undecided"]


@pytest.fixture
def ledger(tmp_path):
    """A ledger of 48 candidates, the first of which have hostile names, with one refused and one open at its end."""
    ledger = Ledger(tmp_path / "ledger.json", "fwer", 0.05, {"baseline": "relu"}, "2026-11-29T00:00:00Z")
    source = f"class A(nn.Module):\n    # {'x' * 300} </pre><script>alert(1)</script>\n"
    for number in range(1, 49):
        facts = {
            "candidate": HOSTILE[number - 1] if number <= len(HOSTILE) else f"A{number}",
            "notes": ["in training, it is random, or depends on the seed"],
            "equals": ["torch.nn.SiLU"],
            "source": source,
        }
        ledger = ledger.with_event("opened", number=number, **facts, level=ledger.next_level, seed=1024 * number)
        if number < 48:
            verdict = VERDICTS[number % 4]
            found = {
                "difference": 0.01 * (number % 4),
                "low": -0.01,
                "high": 0.05,
                "page": f"{number:04} <b>/report.html",
            }
            ledger = ledger.with_event(
                "judged",
                number=number,
                verdict=verdict,
                pairs=60,
                sentence=f"{facts['candidate']} is {verdict}.",
                **found,
            )
    return ledger.with_event("refused", candidate="<i>", source_digest="r", reason="it gives NaN <img src=x>").write()


@pytest.mark.parametrize(
    ("width", "scheme"),
    [
        (390, "dark"),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in ((1280, "dark"), (1280, "light"), (390, "light"))),
    ],
)
def test_every_candidate_is_on_the_page_and_nothing_is_in_the_way(silent_page, ledger, width, scheme):
    page = silent_page(write_ledger_page(ledger), width=width, scheme=scheme)

    assert page.title() != "hacked"
    rows = page.locator("tbody tr")
    assert rows.count() == 48 + 1
    for row, name in enumerate(HOSTILE):
        assert rows.nth(row).locator("td").nth(1).inner_text() == name
    assert page.locator("td.better").count() == 11
    assert "it gives NaN <img src=x>" in rows.last.inner_text()
    assert page.locator("figure svg").count() == 2
    assert overflow(page) == 0
    assert barriers(page) == []


def test_a_candidate_leads_to_its_study_and_shows_its_source(silent_page, ledger):
    page = silent_page(write_ledger_page(ledger))

    summary = page.locator("summary").first
    assert not page.locator("pre").first.is_visible()
    summary.click()
    assert "alert(1)" in page.locator("pre").first.inner_text()
    href = page.locator("tbody tr").nth(3).locator("a").get_attribute("href")
    assert page.evaluate("href => new URL(href, location).pathname", href).endswith("/0004%20%3Cb%3E/report.html")

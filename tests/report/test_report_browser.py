"""The page in a real browser: Debian's chromium, which `.ci/run` installs, driven by playwright."""

import json
import re
from io import StringIO

import polars as pl
import pytest
from browsing import barriers, overflow
from made_studies import failing_study, golden, noisy_study, random_study, records, study, timed_study, with_shapes

from actbench.records import MECHANISM
from actbench.report import write_page
from actbench.report.figures import palette

WIDTHS = [1280, pytest.param(768, marks=pytest.mark.slow), 390]
DRAWN = "html[data-drawn]"
NAMES = [
    "<script>document.title = 'hacked'</script>",
    "<b>bold</b> & $x$",
    "激活 'a\"",
    "x" * 200,
    "激活函数" * 20,
    "W" * 40,
    "<&$>" * 20,
]


@pytest.fixture
def visit(silent_page, tmp_path):
    """Writes the page of a study and opens it."""

    def opened(results, **options):
        path = write_page(results._replace(command="python main.py compare --config study.yaml"), tmp_path)
        page = silent_page(path, **options)
        page.wait_for_selector(DRAWN, state="attached", timeout=120_000)
        return page

    return opened


@pytest.fixture
def results(tmp_path):
    return golden(tmp_path)


def marks(page, figure):
    """How many marks a figure shows."""
    return page.locator(f"#{figure} .mark-symbol.role-mark > path").count()


def lines(page, figure):
    """How many curves a figure shows, without the edges of bands."""
    return page.locator(f"#{figure} .mark-line.role-mark > path").evaluate_all(
        "all => all.filter(of => of.getAttribute('d')).length"
    )


def view(page, figure, of):
    """What Vega holds of a figure."""
    return page.evaluate(f"document.getElementById('{figure}').view.{of}")


def settled(page):
    """Wait until what was asked for is drawn."""
    page.wait_for_selector(DRAWN, state="attached")


@pytest.mark.parametrize("width", [1280, pytest.param(390, marks=pytest.mark.slow)])
def test_every_figure_is_drawn_from_the_records(visit, results, width):
    page = visit(results, width=width)

    assert marks(page, "forest-0") == len(results.conclusion.findings)
    assert marks(page, "pairs-0") == 2 * sum(of.judgement.pairs for of in results.conclusion.findings)
    assert lines(page, "curves-0-epoch-val-accuracy") == 3
    assert marks(page, "tuning-0") == 3 * 3 + 3  # arms at each value, and the chosen ones
    assert marks(page, "cost-0-time") == marks(page, "cost-0-memory") == 3
    assert lines(page, "shapes-function") == lines(page, "shapes-slope") == 1 + 5 + 1
    assert overflow(page) == 0
    shown = page.locator("figure:visible .plot svg").count()
    assert shown >= page.locator("figure:visible").count() == 8


@pytest.mark.slow
@pytest.mark.parametrize("width", WIDTHS)
def test_components_of_variance_are_drawn(visit, tmp_path, width):
    page = visit(noisy_study(tmp_path), width=width)

    assert marks(page, "noise-0") == 3 + 2  # sources, the rest and the total
    assert overflow(page) == 0


def test_arms_scores_and_time_can_be_chosen(visit, results):
    page = visit(results)
    curves = page.locator("#curves")

    curves.get_by_role("checkbox", name="swish").uncheck()
    settled(page)
    assert lines(page, "curves-0-epoch-val-accuracy") == 2
    assert lines(page, "tuning-0") == 3

    curves.get_by_label("val loss, nats").check()
    settled(page)
    assert page.locator("#curves figure:visible").get_attribute("id") == "curves-0-epoch-val-loss"
    assert lines(page, "curves-0-epoch-val-loss") == 2

    curves.get_by_label("seconds").check()
    settled(page)
    assert view(page, "curves-0-epoch-val-loss", "scale('x').domain()") == pytest.approx([0, 4 * 0.014])
    assert "seconds of training" in page.locator("#curves-0-epoch-val-loss .role-axis-title").all_text_contents()

    curves.get_by_role("button", name="none").click()
    settled(page)
    assert lines(page, "curves-0-epoch-val-loss") == 0


def test_single_seeds_come_by_pointing_and_by_keyboard(visit, results):
    page = visit(results)
    figure, seeds = "curves-0-epoch-val-accuracy", "data('seeds')"

    page.get_by_label("Single seeds of").select_option(label="tanh")
    settled(page)
    rows = view(page, figure, seeds)
    assert {(row["arm"], row["seed"]) for row in rows} == {("tanh", seed) for seed in range(8)}
    assert lines(page, figure) == 3 + 8
    own = results.table.filter(arm="tanh", seed=0)["epoch_val_accuracy"][0].to_list()
    assert [row["mean"] for row in rows[:4]] == pytest.approx([100 * value for value in own], rel=1e-5)

    page.get_by_label("Single seeds of").select_option(label="no arm")
    settled(page)
    assert view(page, figure, seeds) == []

    page.locator(f"#{figure} .plot").scroll_into_view_if_needed()
    mark = page.locator(f"#{figure} .mark-symbol.role-mark > path").last.bounding_box()
    page.mouse.move(mark["x"] + mark["width"] / 2 - 30, mark["y"] + 2)
    page.mouse.move(mark["x"] + mark["width"] / 2, mark["y"] + mark["height"] / 2)
    page.wait_for_function(f"document.getElementById('{figure}').view.{seeds}.length > 0")
    assert re.match(r"arm: \w+\nepoch: 4\nmean: \d", page.locator(".tip").inner_text())


def test_far_off_replicates_can_be_left_out(visit, results):
    page = visit(results)
    low, _ = view(page, "pairs-0", "scale('x').domain()")

    page.get_by_label("without what is far off").check()
    settled(page)

    assert low < 11  # a diverged replicate guesses among ten classes
    assert view(page, "pairs-0", "scale('x').domain()")[0] > 90


def test_tables_sort_by_any_column(visit, tmp_path):
    page = visit(random_study(tmp_path, arms=12, seeds=6))
    heading = page.locator("#arms th", has_text="test accuracy")
    place = page.locator("#arms th").all_inner_texts().index(heading.inner_text()) + 1

    def column():
        cells = page.locator(f"#arms tbody td:nth-child({place})")
        return [float(of) for of in cells.evaluate_all("all => all.map(of => of.dataset.value)")]

    before = column()
    heading.get_by_role("button").click()
    assert column() == sorted(before)
    assert heading.get_attribute("aria-sort") == "ascending"
    heading.get_by_role("button").press("Enter")
    assert column() == sorted(before, reverse=True)
    assert heading.get_attribute("aria-sort") == "descending"

    page.locator("#arms th", has_text="arm").first.get_by_role("button").click()
    names = page.locator("#arms tbody td:nth-child(1)").all_inner_texts()
    assert sorted(names) == sorted(f"arm{number}" for number in range(12))
    assert heading.get_attribute("aria-sort") is None


def test_the_tables_numbers_are_those_of_verdict_json(visit, results, tmp_path):
    page = visit(results)
    comparisons = json.loads((tmp_path / "verdict.json").read_text())["comparisons"]

    headings = [of.split("\n")[0] for of in page.locator("#comparisons th").all_inner_texts()]
    rows = page.locator("#comparisons tbody tr").evaluate_all(
        "rows => rows.map(row => [...row.cells].map(cell => cell.dataset.value))"
    )

    for row, of in zip(rows, comparisons, strict=True):
        cells = dict(zip(headings, row, strict=True))
        assert cells["arm"] == of["arm"]
        assert cells["verdict"] == of["verdict"]
        assert float(cells["difference"]) == of["difference"]["estimate"]
        assert float(cells["interval"]) == of["difference"]["low"]
        assert float(cells["adjusted p"]) == of["adjusted_p"]
        assert int(cells["pairs"]) == of["pairs"]


def test_records_and_tables_are_saved_from_inside_the_file(visit, results):
    page = visit(results)

    def saved(name):
        with page.expect_download() as download:
            page.get_by_role("button", name=name).click()
        return download.value.suggested_filename, download.value.path().read_text(encoding="utf-8")

    name, text = saved("Records as CSV")
    assert name == "records.csv"
    table = pl.read_csv(StringIO(text), infer_schema_length=None)
    known = results.table.sort("seed", maintain_order=True)
    assert table.columns == known.drop(MECHANISM).columns
    for column in ("arm", "seed", "test_accuracy", "config", "diverged", "started"):
        assert table[column].to_list() == known[column].to_list()
    curves = [json.loads(of) for of in table["epoch_train_loss"]]
    assert curves[0] == pytest.approx(known["epoch_train_loss"][0].to_list(), rel=1e-5)

    assert saved("Tables as Markdown")[1].startswith("**Comparisons, arm minus relu, on Digits with MLP**")
    name, text = saved("Tables as LaTeX")
    assert name == "table.tex"
    assert text.count(r"\begin{tabular}") == 4  # comparisons, failures, what is beside accuracy, arms


def test_dark_follows_the_reader_and_paper_is_light(visit, results):
    page = visit(results, scheme="dark")
    tones = (palette.PAPER, palette.QUIET, palette.VERDICTS["better"])
    name = "getComputedStyle(document.querySelector('#forest-0 .role-axis-label text')).fill"
    mark = "getComputedStyle(document.querySelector('#forest-0 .estimates_marks path')).stroke"
    colours = f"[getComputedStyle(document.body).backgroundColor, {name}, {mark}]"
    dark, light = (
        [f"rgb({', '.join(str(int(getattr(tone, scheme)[at : at + 2], 16)) for at in (1, 3, 5))})" for tone in tones]
        for scheme in ("dark", "light")
    )

    assert page.evaluate(colours) == dark

    page.emulate_media(color_scheme="light")
    assert page.evaluate(colours) == light

    page.emulate_media(color_scheme="dark", media="print")
    assert page.evaluate(colours) == light

    page.emulate_media(color_scheme="dark", media="screen")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.locator("#forest-0 .plot svg").get_attribute("width") == "640"
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    settled(page)
    assert page.locator("#forest-0 .plot svg").get_attribute("width") != "640"
    assert page.evaluate(colours) == dark


@pytest.mark.parametrize(
    ("width", "scheme"),
    [(390, "light"), *(pytest.param(1280, scheme, marks=pytest.mark.slow) for scheme in ("dark", "light"))],
)
def test_nothing_serious_is_in_the_way_of_those_who_see_or_hear_it_otherwise(visit, results, width, scheme):
    page = visit(results, width=width, scheme=scheme)
    page.locator("details").evaluate_all("all => all.forEach(of => { of.open = true })")

    assert barriers(page) == []


def cut(page):
    """Text of figures that their edges cut."""
    return page.locator(".plot svg text:visible").evaluate_all(
        """all => all.filter(of => {
            const text = of.getBoundingClientRect(), edge = of.closest("svg").getBoundingClientRect();
            return text.left < edge.left - 1 || text.right > edge.right + 1 || text.bottom > edge.bottom + 1;
        }).map(of => `${of.closest("figure").id}: ${of.textContent}`)"""
    )


def test_intervals_of_one_epoch_stand_side_by_side(visit, tmp_path):
    page = visit(random_study(tmp_path, arms=3, seeds=6, epochs=1))

    bars = page.locator("#curves .plot:visible svg g.mark-rule.role-mark line").evaluate_all(
        "all => all.map(bar => bar.getBoundingClientRect()).map(box => [box.x, box.height])"
    )

    assert len({round(x) for x, _ in bars}) == 3
    assert all(height > 5 for _, height in bars)


@pytest.mark.parametrize("width", [390, pytest.param(1280, marks=pytest.mark.slow)])
def test_names_are_text_in_figures_too(visit, tmp_path, width):
    tables = [with_shapes(records(arm, [0.9, 0.91, 0.93])) for arm in NAMES]

    page = visit(study(tmp_path, tables, arms=NAMES, replicates=3), width=width)

    assert "hacked" not in page.title()
    labels = page.locator("#forest-0 .role-axis-label text").all_text_contents()
    assert set(labels) >= {"<b>bold</b> & $x$", "激活 'a\""}
    assert (overflow(page), cut(page)) == (0, [])


@pytest.mark.parametrize("width", [390, pytest.param(1280, marks=pytest.mark.slow)])
def test_a_figure_grows_with_its_legend(visit, tmp_path, width):
    page = visit(random_study(tmp_path, arms=12, seeds=4), width=width)
    names = page.locator("#curves figure:visible .role-legend-label text")
    before, note = names.count(), "arm0 and the best of 12 arms"

    page.locator("#curves").get_by_role("button", name="all").click()
    settled(page)

    assert (before, names.count()) == (6, 12)
    assert note not in page.locator("#curves .plot").all_text_contents()[0]
    assert cut(page) == []

    page.set_viewport_size({"width": width - 40, "height": 900})
    page.wait_for_timeout(200)
    settled(page)
    assert (names.count(), cut(page), overflow(page)) == (12, [], 0)


@pytest.mark.parametrize("width", [390, pytest.param(1280, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda folder: random_study(folder, arms=1, seeds=5), id="one arm"),
        pytest.param(lambda folder: random_study(folder, arms=3, seeds=1), id="one seed", marks=pytest.mark.slow),
        pytest.param(
            lambda folder: random_study(folder, arms=3, seeds=8, datasets=6), id="six datasets", marks=pytest.mark.slow
        ),
        pytest.param(lambda folder: random_study(folder, arms=40, seeds=6), id="forty arms"),
        pytest.param(
            lambda folder: random_study(folder, arms=5, seeds=8, comparisons="all"),
            id="all pairs",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            lambda folder: study(folder, [records(a, [None] * 8) for a in ("relu", "swish")]),
            id="diverged",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            lambda folder: study(folder, [records("relu", [0.9]).head(0)]), id="none finished", marks=pytest.mark.slow
        ),
        pytest.param(lambda folder: study(folder, [records("relu", [0.9] * 3)]), id="one side", marks=pytest.mark.slow),
        pytest.param(failing_study, id="failures"),
    ],
)
def test_any_study_fits_any_screen(visit, tmp_path, make, width):
    results = make(tmp_path)

    page = visit(results, width=width)

    assert overflow(page) == 0
    drawn = [of for of in results.conclusion.findings if of.judgement.difference]
    assert page.locator("#differences .mark-symbol.role-mark > path").count() == len(drawn)
    if results.question.comparisons == "baseline":
        pairs = sum(of.judgement.pairs for of in results.conclusion.findings if of.comparison.dataset)
        alone = len(results.table) if len(results.question.arms) == 1 else 0
        assert page.locator("#replicates .mark-symbol.role-mark > path").count() == 2 * pairs + alone
    assert page.locator("#arms tbody tr").count() == results.table.select("dataset_name", "arm").n_unique()


@pytest.mark.parametrize("width", [390, pytest.param(1280, marks=pytest.mark.slow)])
def test_prices_are_seen_in_their_section_and_table(visit, tmp_path, width):
    page = visit(timed_study(tmp_path, ("Digits", "MNIST")), width=width)

    assert (overflow(page), cut(page)) == (0, [])
    prices = page.locator("#price tbody tr")
    assert [row.split()[:2] for row in prices.all_inner_texts()] == [
        [dataset, arm] for dataset in ("Digits", "MNIST") for arm in ("twin", "swish")
    ]
    assert page.locator("#cost").get_by_text("no difference in time was seen").first.is_visible()


@pytest.mark.slow
def test_a_large_study_opens(visit, tmp_path):
    results = random_study(tmp_path, arms=40, seeds=300, epochs=50)

    page = visit(results)

    assert page.locator("#replicates .mark-symbol.role-mark > path").count() == 2 * 39 * 300

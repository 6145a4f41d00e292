import math
import os
import subprocess
import sys

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.power import TTestIndPower, TTestPower

from actbench.cli import main
from actbench.inference.audit import Row, TableError, audit, imply, read_number, read_table, unpaired_power

# Misra's published table of 23 runs of SqueezeNet on CIFAR-10, 50 epochs each (repository digantamisra98/Mish).
MISH = """\
name,mean,sd,p,effect,ci_low,ci_high,n
Mish,87.48,0.3967,-,-,-,-,23
Swish,87.32,0.414,0.1973,0.386,-0.3975,0.0844,23
E-Swish,87.49,0.411,0.9075,0.034444,-0.2261,0.2539,23
GELU,87.37,0.472,0.4003,0.250468,-0.3682,0.1499,23
ReLU,86.66,0.584,<0.0001,1.645536,-1.1179,-0.5247,23
ELU,86.41,0.3371,<0.0001,2.918232,-1.2931,-0.8556,23
Leaky ReLU,86.85,0.4569,<0.0001,1.47632,-0.8860,-0.3774,23
SELU,83.91,0.5995,<0.0001,7.020812,-3.8713,-3.2670,23
Softplus,83.004,1.4015,<0.0001,4.345453,-4.7778,-4.1735,23
PReLU,85.66,2.2406,0.0004,1.128135,-2.7715,-0.8590,23
Sigmoid,74.82,5.7662,<0.0001,3.098289,-15.0915,-10.2337,23
ELisH,87.38,0.47731,0.4283,0.235784,-0.3643,0.1573,23
ISRU,86.85,0.1106,<0.0001,5.302987,-4.4855,-3.5815,23
Soft Clipping,55.21,10.831994,<0.0001,4.210373,-36.8255,-27.7154,23
"""


def row(name, mean, sd, n, **published):
    """A row from what is printed."""
    return Row(name, *(read_number(str(value)) for value in (mean, sd, n)), **published)


def published(**values):
    """What a row says of its comparison, from what is printed."""
    return {name: read_number(value) for name, value in values.items()}


def flags_of(rows, **options):
    """Of each row, what is flagged."""
    return {one.row.name: {flag.what for flag in one.flags} for one in audit(rows, **options)}


def scores(mean, sd, n, rng):
    """Random scores with exactly this mean and standard deviation."""
    return stats.zscore(rng.normal(size=n), ddof=1) * sd + mean


def printed_as(kind, seen, level=0.95):
    """A spread of these scores."""
    if kind == "sd":
        return seen.std(ddof=1)
    half = stats.t.interval(level, len(seen) - 1, scale=stats.sem(seen))[1]
    return stats.sem(seen) if kind == "se" else half


@pytest.fixture
def mish(tmp_path):
    path = tmp_path / "mish.csv"
    path.write_text(MISH)
    return path


@pytest.mark.parametrize(
    ("text", "value", "low", "high"),
    [
        ("87.48", 87.48, 87.475, 87.485),
        ("87.50", 87.5, 87.495, 87.505),
        ("87.5", 87.5, 87.45, 87.55),
        (".5", 0.5, 0.45, 0.55),
        ("-3", -3, -3.5, -2.5),
        ("−0.2", -0.2, -0.25, -0.15),
        ("1.2e-5", 1.2e-5, 1.15e-5, 1.25e-5),
        ("0.00", 0, -0.005, 0.005),
        ("< 0.001", 0.001, 0, 0.001),
    ],
)
def test_a_printed_number_stands_for_all_that_round_to_it(text, value, low, high):
    assert read_number(text)[1:] == pytest.approx((value, low, high), rel=1e-8)


@pytest.mark.parametrize("text", ["", "x", "nan", "inf", "snan", "1e200", "1e999", "0e999", "87.5%", "1,5"])
def test_text_that_is_no_finite_number_is_refused(text):
    with pytest.raises(ValueError, match="is not a number"):
        read_number(text)


@pytest.mark.parametrize(("one", "two"), [((87.3, 0.4, 23), (87.5, 0.6, 23)), ((0.7, 0.02, 3), (0.65, 0.09, 11))])
def test_interval_effect_and_p_are_those_of_data_with_such_a_mean_and_sd(one, two):
    rng = np.random.default_rng(0)
    own, base = scores(*one, rng), scores(*two, rng)

    implied = imply(row("own", *one), row("base", *two), level=0.9)

    test = stats.ttest_ind(own, base, equal_var=False)
    assert implied.p == pytest.approx(test.pvalue)
    assert implied[:3] == pytest.approx((own.mean() - base.mean(), *test.confidence_interval(0.9)))
    # Student's statistic is the effect times a factor of the counts alone.
    student = stats.ttest_ind(own, base).statistic
    assert implied.effect == pytest.approx(student * math.sqrt(1 / one[2] + 1 / two[2]))


def test_p_values_are_adjusted_over_the_table():
    rows = [row("a", 50, 1, 5), row("b", 51, 1, 5), row("c", 52.5, 1, 5), row("d", 50.1, 1, 5)]

    base, *others = audit(rows)

    b, c, d = (one.implied.p for one in others)
    assert c < b < d
    assert [one.adjusted for one in others] == pytest.approx([2 * b, 3 * c, d])
    assert base.implied is None
    assert math.isnan(base.adjusted)


@pytest.mark.parametrize("effect", [0.0, 0.1, 0.386, -1.2])
@pytest.mark.parametrize(("n", "other"), [(2, 2), (3, 10), (23, 23), (400, 50)])
def test_power_is_that_of_the_unpaired_t_test(effect, n, other):
    power = unpaired_power(effect, n, other, alpha=0.01)

    assert power == pytest.approx(TTestIndPower().power(effect, n, 0.01, other / n), abs=1e-9)


@pytest.mark.parametrize(("effect", "n", "other"), [(5.0, 3, 10), (4.0, 2, 2), (2.0, 400, 50)])
def test_power_of_a_large_effect_is_that_of_an_integral_over_the_sd(effect, n, other):
    freedom, shift = n + other - 2, effect * math.sqrt(n * other / (n + other))
    critical = stats.t.ppf(0.995, freedom)

    power = unpaired_power(effect, n, other, alpha=0.01)

    ratio = stats.chi(freedom, scale=1 / math.sqrt(freedom))  # of the sd seen to the true one
    expected = ratio.expect(lambda s: stats.norm.sf(critical * s - shift) + stats.norm.cdf(-critical * s - shift))
    assert power == pytest.approx(expected, abs=1e-8)


def test_power_never_falls_with_the_effect():
    # Where scipy's noncentral t gives no number any more, too.
    powers = [[unpaired_power(effect, n, n) for effect in np.geomspace(0.01, 1e4, 60)] for n in (2, 3, 10, 1000)]

    assert np.all(np.diff(powers) >= -1e-9)
    assert np.all(np.array(powers)[:, -1] == 1)


@pytest.mark.parametrize("effect", [0.02, 0.386, 1.0, -3.0])
def test_runs_needed_are_the_fewest(effect):
    n = imply(row("own", effect, 1, 2), row("base", 0, 1, 2)).needed

    assert TTestIndPower().power(effect, n, 0.05) >= 0.8 > TTestIndPower().power(effect, n - 1, 0.05)


def test_no_number_of_runs_sees_no_difference():
    assert imply(row("own", 0.0, 1, 2), row("base", 0, 1, 2)).needed is None


def test_only_the_two_rows_of_the_mish_table_that_contradict_themselves_are_flagged(mish):
    rows = read_table(mish).rows

    found = {one.row.name: [flag.why for flag in one.flags] for one in audit(rows) if one.flags}

    # By hand: .3967 and .1106 over sqrt(23) make a standard error of .0859, and 2.06 of that is .177;
    # .3967 and 1.4015 make .3037, and 2.06 of that is .625.
    assert found == {
        "Softplus": ["interval's half-width 0.3022, sd and n imply 0.6249"],
        "ISRU": [
            "interval centred on -4.034, difference -0.63",
            "interval's half-width 0.452, sd and n imply 0.1767",
            "effect 5.302987, mean and sd imply 2.163",
        ],
    }


@pytest.mark.parametrize("rows", [80, pytest.param(3000, marks=pytest.mark.slow)])
def test_what_is_computed_from_unrounded_scores_is_never_flagged(rows):
    rng = np.random.default_rng(rows)
    flagged = []

    for _ in range(rows):
        (n, other), spreads, decimals = rng.integers(2, 15, 2), 10 ** rng.uniform(-2, 1, 2), rng.integers(0, 5, 5)
        sign, ddof, tail = rng.choice([-1, 1]), rng.integers(2), rng.choice(["two-sided", "less", "greater"])
        own, base = rng.normal(50 + rng.normal(), spreads[0], n), rng.normal(50, spreads[1], other)
        options = {"equal_var": bool(rng.integers(2))}
        bounds = sign * np.array(stats.ttest_ind(own, base, **options).confidence_interval())
        d = sign * stats.ttest_ind(own, base).statistic * math.sqrt(1 / n + 1 / other)
        hedges = 1 - 3 / (4 * (n + other) - 9)
        texts = {
            "ci_low": f"{min(bounds):.{decimals[0]}f}",
            "ci_high": f"{max(bounds):.{decimals[1]}f}",
            "p": f"{stats.ttest_ind(own, base, alternative=tail, **options).pvalue:.{decimals[2]}f}",
            "effect": f"{rng.choice([d, d * hedges]):.{decimals[3]}f}",
        }
        kind = rng.choice(["sd", "se", "ci"])
        widths = [printed_as(kind, x) * x.std(ddof=ddof) / x.std(ddof=1) for x in (base, own)]
        printed = [
            (f"{x.mean():.{decimals[4]}f}", f"{width:.{decimals[4]}f}", len(x))
            for x, width in zip((base, own), widths, strict=True)
        ]
        table = [row("base", *printed[0], kind=kind), row("own", *printed[1], kind=kind, **published(**texts))]
        flagged += [table for flags in flags_of(table).values() if flags]

    assert flagged == []


@pytest.mark.parametrize(
    ("texts", "flag"),
    [
        # By hand: standard error .6325, t 3.162 with 18 degrees of freedom, quantile 2.101: 2 ± 1.329.
        ({"ci_low": "0.67", "ci_high": "3.33"}, None),
        ({"ci_low": "-3.33", "ci_high": "-0.67"}, None),  # the other sign
        ({"ci_low": "0.76", "ci_high": "3.24"}, None),  # the normal quantile, 1.960
        ({"ci_low": "0.60", "ci_high": "3.40"}, None),  # had the sds been divided by 10, not 9
        ({"ci_low": "0.77", "ci_high": "3.43"}, "interval"),
        ({"ci_low": "0.30", "ci_high": "3.70"}, "interval"),
        ({"ci_low": "3.33", "ci_high": "0.67"}, "interval"),  # upside down
        ({"p": "0.005"}, None),
        ({"p": "0.003"}, None),  # one-sided
        ({"p": "0.997"}, None),  # one-sided, to the other side
        ({"p": "<0.01"}, None),
        ({"p": "0.012"}, "p"),
        ({"p": "0.05"}, "p"),
        ({"p": "<0.0005"}, "p"),
        ({"p": "1.2"}, "p"),
        ({"effect": "1.41"}, None),
        ({"effect": "-1.41"}, None),
        ({"effect": "1.35"}, None),  # Hedges: times 1 - 3/71
        ({"effect": "1.60"}, "effect"),
        ({"effect": "1.25"}, "effect"),
    ],
)
def test_only_what_cannot_be_computed_from_the_row_is_flagged(texts, flag):
    rows = [row("base", "50.0000", "1.4142", 10), row("own", "52.0000", "1.4142", 10, **published(**texts))]

    assert flags_of(rows) == {"base": set(), "own": {flag} - {None}}
    assert flags_of(rows[::-1], baseline="base") == flags_of(rows)


def test_the_same_numbers_are_flagged_only_where_more_decimals_are_printed():
    printed = {"ci_low": "-0.01", "ci_high": "0.19", "p": "0.09"}

    coarse = [row("base", "0.5", "0.10", 9), row("own", "0.6", "0.10", 9, **published(**printed))]
    fine = [row("base", "0.500", "0.100", 9), row("own", "0.600", "0.100", 9, **published(**printed))]

    assert flags_of(coarse)["own"] == set()
    assert flags_of(fine)["own"] == {"interval", "p"}


@pytest.mark.parametrize("highest", [1, 100])
@pytest.mark.parametrize("n", [2, 3, 5])
def test_the_largest_sd_of_bounded_scores_is_not_flagged_and_a_larger_one_is(n, highest):
    rng = np.random.default_rng(n)

    for ones in range(n):
        # One score in between, all others at the ends, is the widest that scores with a given mean can lie.
        widest = highest * np.array([0.0] * (n - 1 - ones) + [rng.random()] + [1.0] * ones)
        mean, sd = f"{widest.mean():.9f}", widest.std(ddof=1)
        rows = [row("base", highest / 2, highest / 10, n), row("most", mean, f"{sd:.9f}", n)]
        more = [rows[0], row("more", mean, f"{1.5 * sd:.9f}", n)]

        assert flags_of(rows)["most"] == set()
        assert flags_of(more)["more"] == ({"sd"} if sd > 1e-3 * highest else set())


def test_a_loss_has_no_largest_sd():
    rows = [row("a", "0.30", "0.90", 5), row("b", "0.35", "0.10", 5)]

    assert flags_of(rows) == {"a": {"sd"}, "b": set()}
    assert flags_of(rows, highest=math.inf) == {"a": set(), "b": set()}
    assert flags_of([row("a", "229.4", "0.9", 5), row("b", "30.1", "0.9", 5)]) == {"a": set(), "b": set()}
    assert flags_of([row("a", "229.4", "0.9", 5), row("b", "30.1", "0.9", 5)], highest=100) == {
        "a": {"mean"},
        "b": set(),
    }


@pytest.mark.parametrize(
    ("sd", "n", "flag"), [("0.5", "1", "n"), ("0.5", "2.5", "n"), ("0.5", "-4", "n"), ("-0.5", "5", "sd")]
)
def test_a_row_of_impossible_n_or_sd_is_flagged_and_not_tested(sd, n, flag):
    rows = [
        row("base", 50, "0.5", 5),
        row("odd", 51, sd, n, **published(p="0.9", effect="9")),
        row("own", 52, "0.5", 5),
    ]

    base, odd, own = audit(rows)

    assert [{flag.what for flag in one.flags} for one in (base, odd, own)] == [set(), {flag}, set()]
    assert odd.implied.difference == 1
    assert math.isnan(odd.implied.p)
    assert own.adjusted == own.implied.p
    assert all(math.isnan(one.implied.p) for one in audit(rows, "odd") if one.implied)


def test_rows_without_spread_are_not_tested():
    _, own = audit([row("base", 50, 0, 5), row("own", 51, 0, 5)])

    assert math.isnan(own.implied.p)
    assert own.flags == ()


def test_the_command_prints_plain_numbers_and_what_is_wrong_with_them(actbench, mish):
    mish.write_text(MISH.replace("Swish,", "[bold]Swish,").replace(",n\n", ",n,loss\n").replace(",23\n", ",23,4.2\n"))

    result = actbench("audit", mish)

    assert (result.returncode, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    cells = {line.split("  ")[1]: line.split()[1:] for line in lines if line.startswith("  ")}
    assert cells["Mish"] == ["87.48", "0.3967", "23", "baseline"]
    # p by scipy's ttest_ind_from_stats, times 4, the p-values that are not below it; power by statsmodels.
    assert cells["[bold]Swish"] == (
        ["87.32", "0.414", "23", "-0.160", "-0.4010", "to", "0.0810", "-0.39", "0.1877", "0.7508", "0.26", "102"]
    )
    assert cells["ISRU"][-2:] == ["interval,", "effect"]
    assert "ISRU: interval centred on -4.034, difference -0.63" in lines
    assert lines[-2].startswith("13 comparisons with Mish, unpaired, since a table has no pairs; the unit is the seed")
    assert lines[-2].endswith("Rows that cannot be right: 2 of 14.")
    assert lines[-1] == "columns not read: loss"
    assert "\x1b" not in result.stdout


def test_another_row_can_be_the_baseline(mish, capsys):
    assert main(["audit", str(mish), "--baseline", "ReLU", "--level", "0.9"]) == 0

    printed = capsys.readouterr().out
    assert "90 % interval" in printed
    assert "13 comparisons with ReLU" in printed


def test_the_help_explains_every_column(capsys):
    with pytest.raises(SystemExit) as status:
        main(["audit", "--help"])

    printed = capsys.readouterr().out
    assert status.value.code == 0
    assert [name for name in MISH.splitlines()[0].split(",") if f"\n  {name} " not in printed] == []


HEADER = "name,mean,sd,n\n"
WRONG = [
    ("", "must name a column 'name', once"),
    ("name,sd,n\na,1,5\nb,1,5\n", "must name a column 'mean', once"),
    ("name,mean,n\na,1,5\nb,1,5\n", "no row has a spread"),
    ("name,mean,sd,n,n\na,1,1,5,5\nb,1,1,5,5\n", "must name a column 'n', once"),
    (HEADER, "got 0 rows"),
    (HEADER + "a,1,1,5\n\n,,,\n", "got 1 rows"),
    (HEADER + "a,1,1,5\nb,one,1,5\n", "line 3, column mean: 'one' is not a number"),
    (HEADER + "a,1,1,5\nb,1,x,5\n", "line 3, column sd: 'x' is not a number"),
    (HEADER + "a,1,1,5\nb,1,1,\n", "b: column n: a spread needs the number of runs"),
    (HEADER + "a,1,1,5\nb,1,<1,5\n", "line 3, column sd: '<1' is not a number"),
    (HEADER + "a,1,1,5\na,2,1,5\n", "line 3: 'a' comes twice"),
    (HEADER + "a,1,1,5\n,2,1,5\n", "line 3 has no name"),
    (HEADER + "a,1,1,5\nb,2,1\n", "line 3 has 3 cells, the first line 4"),
    ("name,mean,sd,n,ci_low\na,1,1,5,-\nb,2,1,5,0.1\n", "line 3 has half an interval"),
    (HEADER + 'a,1,1,5\n"b,2,1,5\n', "unexpected end of data"),
    (b"\xff\xfe\x00", "can't decode"),
]


@pytest.mark.parametrize(("text", "message"), WRONG)
def test_a_wrong_table_is_one_line(tmp_path, capsys, text, message):
    path = tmp_path / "table.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())

    assert main(["audit", str(path)]) == 2

    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("error: ")
    assert message in printed.err
    assert len(printed.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["nowhere.csv"], "nowhere.csv: No such file or directory"),
        (["."], "Is a directory"),
        (["mish.csv", "--baseline", "Misch"], "no row is named 'Misch': the rows are Mish, Swish"),
        (["mish.csv", "--level", "95"], "level must be strictly between 0 and 1, got 95"),
        (["mish.csv", "--alpha", "x"], "argument --alpha: invalid float value: 'x'"),
        ([], "required: table"),
    ],
)
def test_wrong_options_are_one_line(actbench, mish, options, message):
    result = actbench("audit", *options)

    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("error: ")
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_numbers_whose_squares_are_0_say_no_more_than_the_difference():
    rows = [Row(name, *map(read_number, (mean, "1e-160", "10000000000"))) for name, mean in (("a", "1"), ("b", "2"))]

    _, audited = audit(rows)

    assert audited.implied.difference == 1
    assert math.isnan(audited.implied.p)


@pytest.mark.parametrize("name", ["\x1b[2J", "a\u202eb", "x" * 201])
def test_a_name_that_cannot_be_printed_is_refused(actbench, tmp_path, name):
    (tmp_path / "table.csv").write_text(f"name,mean,sd,n\na,1,1,3\n{name},1,1,3\n")

    result = actbench("audit", "table.csv")

    assert result.returncode == 2
    assert result.stderr == "error: line 3 has no name, or one that is too long or cannot be printed\n"


@pytest.mark.parametrize("what", ["pipe", "device", "sparse", "long"])
def test_a_table_without_an_end_is_refused_at_once(actbench, tmp_path, what):
    path = tmp_path / "table.csv"
    if what == "pipe":
        os.mkfifo(path)
    elif what == "device":
        path.symlink_to("/dev/zero")
    else:
        path.write_text("name,mean,sd,n\n" + "".join(f"a{n},1,1,3\n" for n in range(30_000)))
        os.truncate(path, 200 * 2**30 if what == "sparse" else path.stat().st_size)

    result = actbench("audit", path.name)

    assert result.returncode == 2
    assert result.stderr.startswith("error: table.csv ")
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize("literature", ["base", "own"])
@pytest.mark.parametrize("n", [2, 3, 23])
def test_a_row_without_a_spread_is_a_fixed_number(literature, n):
    seen = scores(87.3, 0.4, n, np.random.default_rng(0))
    sampled, fixed = row("sampled", 87.3, 0.4, n), Row("fixed", read_number("87.5"))
    sign = 1 if literature == "base" else -1

    implied = imply(*((sampled, fixed) if sign == 1 else (fixed, sampled)), level=0.9)

    test = stats.ttest_1samp(seen, 87.5)
    interval = np.sort(sign * (np.array(test.confidence_interval(0.9)) - 87.5))
    assert implied.p == pytest.approx(test.pvalue)
    assert implied[:4] == pytest.approx((sign * -0.2, *interval, sign * -0.5))
    assert implied.power == pytest.approx(TTestPower().power(0.5, n, 0.05), abs=1e-9)
    assert TTestPower().power(0.5, implied.needed, 0.05) >= 0.8 > TTestPower().power(0.5, implied.needed - 1, 0.05)


@pytest.mark.parametrize("n", [2, 9])
def test_published_tests_of_one_sample_are_checked(n):
    test = stats.ttest_1samp(scores(87.3, 0.4, n, np.random.default_rng(0)), 87.5)
    bounds = [f"{bound - 87.5:.4f}" for bound in test.confidence_interval()]

    right = published(p=f"{test.pvalue:.4f}", ci_low=bounds[0], ci_high=bounds[1], effect="-0.500")
    wrong = published(p=f"{test.pvalue / 20:.4f}", effect="-0.9")

    rows = [Row("fixed", read_number("87.500")), row("sampled", "87.300", "0.400", n)]
    assert flags_of([rows[0], rows[1]._replace(**right)])["sampled"] == set()
    assert flags_of([rows[0], rows[1]._replace(**wrong)])["sampled"] == {"p", "effect"}


def test_two_rows_without_a_spread_are_not_tested():
    rows = [row("own", 87, 0.4, 5), *(Row(name, read_number(mean)) for name, mean in (("a", "86"), ("b", "88")))]

    (own, a, b) = audit(rows, "a")

    assert (own.implied.difference, b.implied.difference) == (1, 2)
    assert own.adjusted == own.implied.p
    assert math.isnan(b.implied.p)
    assert a.implied is None


@pytest.mark.parametrize("kind", ["sd", "se", "ci"])
def test_standard_errors_and_half_widths_imply_what_the_scores_do(kind):
    rng = np.random.default_rng(0)
    own, base = scores(87.3, 0.4, 7, rng), scores(86.9, 0.6, 5, rng)

    rows = [row(name, x.mean(), printed_as(kind, x, 0.9), len(x), kind=kind) for name, x in (("a", own), ("b", base))]

    implied = imply(*rows, level=0.9)
    test = stats.ttest_ind(own, base, equal_var=False)
    assert implied.p == pytest.approx(test.pvalue)
    assert implied[1:3] == pytest.approx(tuple(test.confidence_interval(0.9)))


@pytest.mark.parametrize(
    ("said", "true", "words"),
    [
        ("sd", "se", "a standard error"),
        ("sd", "ci", "the half-width of an interval"),
        ("se", "sd", "a standard deviation"),
        ("ci", "sd", "a standard deviation"),
    ],
)
def test_a_row_that_fits_another_kind_of_spread_is_told_so(said, true, words):
    rng = np.random.default_rng(0)
    own, base = scores(87.6, 0.4, 16, rng), scores(87.3, 0.5, 16, rng)
    test = stats.ttest_ind(own, base)
    low, high = (f"{bound:.3f}" for bound in test.confidence_interval())
    values = published(ci_low=low, ci_high=high, p=f"{test.pvalue:.4f}")
    spreads = [f"{printed_as(true, x):.4f}" for x in (base, own)]

    rows = [row("base", "87.300", spreads[0], 16, kind=said), row("own", "87.600", spreads[1], 16, kind=said, **values)]

    _, audited = audit(rows)
    assert {flag.what for flag in audited.flags} == {"interval", "p"}
    assert {flag.fits[0] for flag in audited.flags} == {f"{spreads[1]} is {words}"}


def test_a_spread_in_per_cent_beside_a_mean_in_fractions_is_told_so():
    rng = np.random.default_rng(0)
    own, base = scores(0.876, 0.004, 16, rng), scores(0.873, 0.005, 16, rng)
    p = read_number(f"{stats.ttest_ind(own, base).pvalue:.4f}")

    base, audited = audit([row("base", "0.87300", "0.500", 16), row("own", "0.87600", "0.400", 16, p=p)])

    assert [(flag.what, flag.fits) for flag in base.flags] == [("sd", ("0.500 is in per cent",))]
    assert ("p", ("0.400 is in per cent",)) in [(flag.what, flag.fits) for flag in audited.flags]


def test_a_p_value_of_pairs_is_told_so():
    rng = np.random.default_rng(0)
    base = scores(87.3, 0.5, 12, rng)
    own = scores(0.3, 0.2, 12, rng) + base
    p = f"{stats.ttest_rel(own, base).pvalue:.6f}"
    printed = [row("base", "87.300", f"{base.std(ddof=1):.4f}", 12), row("own", "87.600", f"{own.std(ddof=1):.4f}", 12)]

    _, paired = audit([printed[0], printed[1]._replace(**published(p=p))])
    _, none = audit([printed[0], printed[1]._replace(**published(p="0.5"))])

    assert [(flag.what, flag.fits) for flag in paired.flags] == [("p", ("the runs are paired",))]
    assert [(flag.what, flag.fits) for flag in none.flags] == [("p", ())]


@pytest.mark.parametrize(
    ("options", "way"),
    [
        ({"equal_var": False}, "Welch's test"),
        ({}, "Student's test"),
        ({"equal_var": False, "alternative": "less"}, "Welch's test, one-sided"),
        ({"alternative": "greater"}, "Student's test, one-sided"),
    ],
)
def test_the_way_in_which_p_was_computed_is_named(options, way):
    rng = np.random.default_rng(0)
    own, base = scores(87.6, 0.4, 5, rng), scores(87.3, 0.9, 9, rng)
    p = f"{stats.ttest_ind(own, base, **options).pvalue:.6f}"

    rows = [row("base", "87.3000000", "0.9000000", 9), row("own", "87.6000000", "0.4000000", 5, p=read_number(p))]

    assert audit(rows)[1].ways == {"p": way}


def test_p_values_are_adjusted_over_all_datasets_and_each_has_its_baseline():
    rows = [
        row(name, mean, 1, 5, dataset=dataset)
        for dataset, means in {"x": (50, 52), "y": (70, 73)}.items()
        for name, mean in zip("ab", means, strict=True)
    ]

    _, x, _, y = audit(rows)

    assert (x.implied.difference, y.implied.difference) == (2, 3)
    assert [y.adjusted, x.adjusted] == pytest.approx([2 * y.implied.p, max(2 * y.implied.p, x.implied.p)])
    with pytest.raises(TableError, match="y: no row is named 'c': the rows are a, b"):
        audit([*rows, row("c", 50, 1, 5, dataset="x")], "c")
    with pytest.raises(TableError, match="z: needs a row beside the baseline 'a'"):
        audit([*rows, row("a", 50, 1, 5, dataset="z")])


def test_a_dataset_of_small_errors_in_per_cent_is_no_dataset_of_fractions():
    errors = [row("a", "0.31", "0.60", 5, dataset="mnist"), row("b", "0.28", "0.02", 5, dataset="mnist")]
    others = [row(name, "25.3", "0.3", 5, dataset="cifar") for name in "ab"]

    assert flags_of(errors)["a"] == {"sd"}
    assert [one.flags for one in audit(errors + others)] == [()] * 4
    assert [one.flags for one in audit([one._replace(percent=True) for one in errors])] == [()] * 2


def test_a_highest_score_is_above_0():
    with pytest.raises(TableError, match="highest must be above 0, got 0"):
        audit([row("a", 1, 1, 5), row("b", 1, 1, 5)], highest=0)


def test_a_file_of_a_spreadsheet_is_read(tmp_path):
    path = tmp_path / "table.csv"
    path.write_bytes("\ufeffName, Mean,SD,N\r\nrelu, 0.90,0.01,5\r\nmish ,0.91,0.01,5.0\r\n,,,\r\n".encode())

    rows, unread, _ = read_table(path)

    assert [(one.name, one.mean.text, one.n.value) for one in rows] == [("relu", "0.90", 5), ("mish", "0.91", 5)]
    assert unread == []


def test_the_command_starts_without_torch(mish):
    code = (
        "import sys; from actbench.cli import main; main(sys.argv[1:]); "
        "print([name for name in ('torch', 'pytorch_lightning', 'jsonargparse') if name in sys.modules])"
    )

    result = subprocess.run(
        [sys.executable, "-c", code, "audit", str(mish)], capture_output=True, text=True, check=True, timeout=200
    )

    assert result.stdout.splitlines()[-1] == "[]"

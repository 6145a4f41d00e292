"""Tables in the forms in which they are published."""

import pytest
from scipy import stats

from actbench.cli import main
from actbench.inference.audit import TableError, audit, read_table

LATEX = r"""
\begin{table}[t]
\caption{Test accuracy with 50\% dropout.} % nothing & nothing \\
\begin{tabular}{@{}lcc@{}}
\toprule
Activation & CIFAR-10 (\%) & SVHN \\
\midrule
ReLU & $93.12 \pm 0.21$ & $96.1_{\pm 0.1}$ \\
\textbf{Swish} & $\mathbf{93.55} \pm 0.18$ & 96.4 {\scriptsize $\pm$ 0.1} \\ \hline
E-Swish & \cellcolor{gray!20}93.60$\pm$0.25$^{\dagger}$ & 96.3\,$\pm$\,0.1 \\[2pt]
\bottomrule
\end{tabular}
\end{table}
"""
MARKDOWN = """
| Activation | CIFAR-10 (%) | SVHN | Params |
|:-----------|-------------:|:----:|--------|
| ReLU       | 93.12 ± 0.21 | 96.1 ± 0.1 | 1.1 M |
| **Swish**  | **93.55 ± 0.18** | 96.4 ± 0.1 | 1.1 M |
| E-Swish    | 93.60 ± 0.25 | 96.3 ± 0.1 | 1.2 M |
"""
TRANSPOSED = """\
Dataset;ReLU;Swish;E-Swish
CIFAR-10 (%);93,12 ± 0,21;93,55 ± 0,18;93,60 ± 0,25
SVHN;96,1 ± 0,1;96,4 ± 0,1;96,3 ± 0,1
"""
LONG = """\
dataset\tmodel\taccuracy\tstd
CIFAR-10 (%)\tReLU\t93.12\t0.21
SVHN\tReLU\t96.1\t0.1
CIFAR-10 (%)\tSwish\t93.55\t0.18
SVHN\tSwish\t96.4\t0.1
CIFAR-10 (%)\tE-Swish\t93.60\t0.25
SVHN\tE-Swish\t96.3\t0.1
"""


@pytest.fixture
def read(tmp_path):
    """Reads a table from a text."""

    def read_text(text, **options):
        path = tmp_path / "table.txt"
        path.write_text(text, encoding="utf-8")
        return read_table(path, **options)

    return read_text


def numbers(rows):
    """Of each row, the name and the numbers as they are printed."""
    return [
        (row.name, *(number and number.text for number in (row.mean, row.spread, row.n, row.p, row.effect)))
        for row in rows
    ]


@pytest.mark.parametrize("text", [LATEX, MARKDOWN, TRANSPOSED, LONG], ids=["latex", "markdown", "transposed", "long"])
def test_a_table_is_the_same_however_it_is_printed(read, text):
    rows = read(text, runs=5).rows

    assert [row.dataset for row in rows] == ["CIFAR-10 (%)"] * 3 + ["SVHN"] * 3
    assert numbers(rows) == [
        ("ReLU", "93.12", "0.21", "5", None, None),
        ("Swish", "93.55", "0.18", "5", None, None),
        ("E-Swish", "93.60", "0.25", "5", None, None),
        ("ReLU", "96.1", "0.1", "5", None, None),
        ("Swish", "96.4", "0.1", "5", None, None),
        ("E-Swish", "96.3", "0.1", "5", None, None),
    ]
    p = stats.ttest_ind_from_stats(93.55, 0.18, 5, 93.12, 0.21, 5, equal_var=False).pvalue
    assert audit(rows)[1].implied.p == pytest.approx(p)


@pytest.mark.parametrize(
    "cell",
    [
        "87.48 ± 0.40",
        "87.48±0.40",
        "87.48 +- 0.40",
        "87.48 +/- 0.40",
        "87.48 (0.40)",
        "87.48 (±0.40)",
        "(87.48 ± 0.40)%",
        "87.48% ± 0.40%",
        "87.48 ± 0.40 %",
        r"$87.48 \pm 0.40$",
        r"$87.48_{\pm0.40}$",
        r"$87.48_{\scriptstyle\pm 0.40}$",
        r"\textbf{87.48} {\small $\pm$ 0.40}",
        r"87.48\% $\pm$ 0.40\%",
        "**87.48** ± 0.40",
        "87.48 ± 0.40*",
        "87.48 ± 0.40†",
        r"$87.48 \pm 0.40^{*}$",
        '"87,48 ± 0,40"',
        '"87,48 (0,40)"',
    ],
)
def test_a_spread_is_read_beside_its_mean(read, cell):
    other = '"86,66 ± 0,58"' if "," in cell else "86.66 ± 0.58"

    table = read(f"Method,Accuracy,n\nReLU,{other},23\nMish,{cell},23\n")

    assert numbers(table.rows)[1] == ("Mish", "87.48", "0.40", "23", None, None)
    assert table.rows[1].spread[1:] == pytest.approx((0.40, 0.395, 0.405), rel=1e-6)
    assert table.assumed


@pytest.mark.parametrize(
    ("cell", "text", "low", "high"),
    [
        ("<0.0001", "<0.0001", 0, 0.0001),
        ("p < .001", "<.001", 0, 0.001),
        ("≤ 0.05", "<0.05", 0, 0.05),
        ("p = 0.03*", "0.03", 0.025, 0.035),
        (">0.05", ">0.05", 0.05, 1),
        (r"$<10^{-4}$", "<1e-4", 0, 1e-4),
        (r"$3.2\times 10^{-5}$", "3.2e-5", 3.15e-5, 3.25e-5),
        ("3.2 × 10^-5", "3.2e-5", 3.15e-5, 3.25e-5),
        ("1.2e-05", "1.2e-05", 1.15e-5, 1.25e-5),
    ],
)
def test_p_values_are_read_as_they_are_printed(read, cell, text, low, high):
    rows = read(f"name;mean;sd;n;p-value\nrelu;87.1;0.5;5;-\nmish;87.4;0.4;5;{cell}\n").rows

    assert rows[0].p is None
    assert rows[1].p.text == text
    assert rows[1].p[2:] == pytest.approx((low, high), rel=1e-6)


@pytest.mark.parametrize("column", ["sd", "Std. Dev.", "standard_deviation", "SE", "Std. Error", "sem", "CI"])
def test_the_name_of_the_column_says_what_the_spread_is(read, column):
    text = f"Model;Test accuracy;{column};Runs\nrelu;87,10 %;0,50 %;5\nmish;87,40 %;0,40 %;5\n"
    kind = {"SE": "se", "Std. Error": "se", "sem": "se", "CI": "ci"}.get(column, "sd")

    table = read(text)

    assert numbers(table.rows)[0] == ("relu", "87.10", "0.50", "5", None, None)
    assert [row.kind for row in table.rows] == [kind] * 2
    assert not table.assumed
    assert [row.kind for row in read(text, spread="se").rows] == ["se"] * 2


def test_rows_without_a_spread_are_read_and_unknown_columns_named(read):
    table = read("Method,MNIST,Fashion,Year\nReLU,99.1 ± 0.1,90.1 ± 0.3,-\nMaxout,99.55,-,2013\n", runs=5)

    assert numbers(table.rows) == [
        ("ReLU", "99.1", "0.1", "5", None, None),
        ("Maxout", "99.55", None, None, None, None),
        ("ReLU", "90.1", "0.3", "5", None, None),
    ]
    assert table.unread == ["Year"]


def test_the_number_of_runs_in_the_table_counts(read):
    table = read("name,mean,sd,n\na,1,1,3\nb,1,1,\n", runs=5)

    assert [row.runs for row in table.rows] == [3, 5]


def test_two_lines_of_latex_may_stand_in_one_of_the_file(read):
    rows = read(r"Model & Acc \\ a & 87{,}48 $\pm$ 0{,}40 \\ b & 86{,}10 $\pm$ 0{,}35 \\", runs=3).rows

    assert [row[:2] for row in numbers(rows)] == [("a", "87.48"), ("b", "86.10")]


def test_one_column_of_scores_leaves_p_to_its_rows(read):
    rows = read("Method,Accuracy (%),p\na,87 ± 1,\nb,88 ± 1,<0.05\n", runs=5).rows

    assert [row.dataset for row in rows] == ["", ""]
    assert rows[1].p.text == "<0.05"
    assert all(row.percent for row in rows)


LINE = "name,mean,n\na,87.10 ± 0.50,5\n"
WRONG = [
    (
        LINE + "b,87.40 (40),5\n",
        "line 3, column mean: the brackets of '87.40 (40)' may hold a count",
    ),
    (LINE + "b,87.40 (+0.30),5\n", "line 3, column mean: '87.40 (+0.30)' is not a number"),
    (LINE + 'b,"87,40 ± 0,40",5\n', "line 3, column mean: '87,40 ± 0,40' has a comma, and '87.10 ± 0.50' a point"),
    (
        "name;mean;sd;n\na;1,024;12;5\nb;1,100;12;5\n",
        "line 2, column mean: '1,024' may have a decimal comma",
    ),
    (
        "name,mean,n\na,87.1% ± 0.5%,5\nb,0.874 ± 0.004,5\n",
        "line 3: 'b' has a mean of 0.874, and 'a' one of 87.1",
    ),
    (
        "name,mean,sd,n\na,0.871,0.5%,5\nb,0.874,0.4%,5\n",
        "line 2: its spread 0.5% is in per cent, its mean 0.871",
    ),
    (
        "name,mean,sd,n\na,87.1 ± 1,0.5,5\nb,87.1,0.4,5\n",
        "line 2, column mean: '87.1 ± 1' has a spread, and so",
    ),
    ("name,mean,sd,Runs\na,87.1,0.5,five\n", "line 2, column Runs: 'five' is not a number"),
    ("name,mean,sd,n,p\na,87.1,0.5,5,-\nb,87.1,0.5,5,n.s.\n", "line 3, column p: 'n.s.' is not a number"),
    ("Method,MNIST,MNIST\na,1 ± 1,1 ± 1\nb,1 ± 1,1 ± 1\n", "two columns are named 'MNIST'"),
    ("Method,Data,x,y\na,m,1 ± 1,1 ± 1\n", "datasets are named in a column, and by the columns x, y"),
    ("Method,Year\na,2013\nb,2014\n", "or columns have cells such as 87.48 ± 0.40"),
    ("name,runs,n,mean,sd\na,1,1,1,1\n", "must name a column 'n', once"),
    (MARKDOWN.replace("| 1.2 M |", "|"), "line 6 has 3 cells, the first line 4"),
    (LATEX.replace(r"& 96.3\,$\pm$\,0.1", ""), "line 10 has 2 cells, the first line 3"),
    ("name,mean,sd,n\na,1,1,5\nb,1," + "1" * 1001 + ",5\n", "line 3 has a cell of more than 1,000 characters"),
]


@pytest.mark.parametrize(("text", "message"), WRONG)
def test_what_cannot_be_read_for_sure_is_refused_with_its_place(read, text, message):
    with pytest.raises(TableError) as error:
        read(text)

    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_number_of_runs_is_at_least_1(read):
    with pytest.raises(TableError, match="the number of runs must be at least 1, got 0"):
        read(LINE, runs=0)


def test_the_command_says_how_it_read_the_table(tmp_path, capsys):
    path = tmp_path / "table.csv"
    path.write_text("name,mean,p,n\nrelu,87.00 ± 0.10,,16\nmish,87.48 ± 0.10,0.0020,16\nmaxout,87.3,,\n")

    assert main(["audit", str(path)]) == 0

    lines = capsys.readouterr().out.splitlines()
    # By hand: with a standard error of .10, t is .48 / .1414 = 3.394 with 30 degrees of freedom.
    assert lines[-4].startswith("mish: p 0.0020, mean, sd and n imply 2.4e-14; it fits if 0.10 is a standard error")
    assert lines[-3] == "without a spread, taken as fixed numbers in tests of one sample: maxout"
    assert lines[-2].endswith("Rows that cannot be right: 0 of 3; right only if read otherwise: 1.")
    assert lines[-1] == "spreads are read as standard deviations; --spread says if they are not"

    assert main(["audit", str(path), "--spread", "se"]) == 0

    assert capsys.readouterr().out.splitlines()[-1].endswith("Rows that cannot be right: 0 of 3.")


def test_the_command_shows_every_dataset(tmp_path, capsys):
    path = tmp_path / "table.tex"
    path.write_text(LATEX)

    assert main(["audit", str(path), "--runs", "3", "--spread", "se", "--baseline", "Swish"]) == 0

    printed = capsys.readouterr().out
    assert printed.splitlines()[1].split()[:5] == ["dataset", "name", "mean", "se", "n"]
    assert "4 comparisons with Swish, unpaired" in printed


@pytest.mark.parametrize(
    ("cell", "mean", "spread"),
    [
        (r"75\std{3}", "75", "3"),
        (r"$75_{\pm 3}$", "75", "3"),
        (r"75.1\textsuperscript{2}", "75.1", None),
        (r"75.1\footnotemark[2]", "75.1", None),
        (r"\textbf{75.1} $\pm$ 0.2\tablefootnote{of 3 runs}", "75.1", "0.2"),
    ],
)
def test_what_a_command_of_latex_prints_is_no_digit_of_the_number(tmp_path, cell, mean, spread):
    path = tmp_path / "table.tex"
    path.write_text(f"Method & A \\\\\nReLU & $94.5 \\pm 0.2$ \\\\\nSwish & {cell} \\\\\n")

    _, row = read_table(path).rows

    assert row.mean.text == mean
    assert (row.spread and row.spread.text) == spread


def test_a_number_that_an_unknown_command_goes_on_with_is_refused(tmp_path):
    path = tmp_path / "table.tex"
    path.write_text("Method & A \\\\\nReLU & $94.5 \\pm 0.2$ \\\\\nSwish & 75\\mine{3} \\\\\n")

    with pytest.raises(TableError, match="'75 3' is not a number"):
        read_table(path)


def test_columns_named_like_activations_are_rows(tmp_path):
    path = tmp_path / "table.md"
    path.write_text(
        "| | ReLU | Leaky ReLU |\n|---|---|---|\n| A | 94.5 ± 0.1 | 94.8 ± 0.1 |\n| B | 74.5 ± 0.1 | 74.8 ± 0.1 |"
    )

    rows = read_table(path).rows

    assert [(row.dataset, row.name) for row in rows] == [
        (dataset, name) for dataset in "AB" for name in ("ReLU", "Leaky ReLU")
    ]


GROUPS = r"""
\begin{tabular}{lcccc}
\toprule
\multirow{2}{*}{Activation} & \multicolumn{2}{c}{\textbf{CIFAR-10}} & \multicolumn{2}{c|}{SVHN} & Params \\
\cmidrule(lr){2-3} \cmidrule(lr){4-5}
 & Acc. (\%) & Std & Acc. (\%) & Std & \\
\midrule
ReLU & 93.12 & 0.21 & 96.1 & 0.1 & 1.1 M \\
Swish & \textbf{93.55} & 0.18 & -- & -- & 1.1 M \\
\bottomrule
\end{tabular}
"""
SHEET = """\
Activation,CIFAR-10,,SVHN,,Params
,Acc. (%),Std,Acc. (%),Std,
ReLU,93.12,0.21,96.1,0.1,1.1 M
Swish,93.55,0.18,,,1.1 M
"""


@pytest.mark.parametrize("text", [GROUPS, SHEET], ids=["latex", "spreadsheet"])
def test_names_over_means_and_spreads_are_datasets(read, text):
    table = read(text, runs=5)

    assert [(row.dataset, row.percent) for row in table.rows] == [("CIFAR-10", True)] * 2 + [("SVHN", True)]
    assert [row[:3] for row in numbers(table.rows)] == [
        ("ReLU", "93.12", "0.21"),
        ("Swish", "93.55", "0.18"),
        ("ReLU", "96.1", "0.1"),
    ]
    assert table.unread == ["Params"]
    assert not table.assumed


@pytest.mark.parametrize(
    ("head", "datasets"),
    [
        (r"& \multicolumn{2}{c}{Accuracy} \\ Activation & CIFAR-10 & SVHN \\", ["CIFAR-10", "SVHN"]),
        (r"\multirow{2}{*}{Activation} & \multicolumn{2}{c}{Accuracy} \\ & {CIFAR-10} & SVHN \\", ["CIFAR-10", "SVHN"]),
        (
            r"& \multicolumn{1}{c}{Big} & \multicolumn{1}{c}{Small} \\ & VGG & VGG \\",
            ["Big VGG", "Small VGG"],
        ),
        (
            r"& \multicolumn{2}{c}{Accuracy} \\ & Big & Small \\ & VGG & VGG \\",
            ["Big VGG", "Small VGG"],
        ),
    ],
)
def test_names_in_several_lines_are_joined(read, head, datasets):
    rows = read(head + "\nReLU & $93.1 \\pm 0.2$ & $96.1 \\pm 0.1$ \\\\\n", runs=5).rows

    assert [(row.dataset, row.mean.text) for row in rows] == list(zip(datasets, ("93.1", "96.1"), strict=True))


def test_a_cell_of_several_lines_stands_in_each(read):
    text = r"""
Data & Activation & Accuracy & Std \\ \hline
\multirow{2}{*}{SVHN} & ReLU & 96.1 & 0.1 \\
 & Swish & 96.4 & 0.1 \\ \hline
\multirow{2}*{\textbf{MNIST}} & ReLU & 99.1 & 0.1 \\
 & Swish & 99.2 & 0.1 \\
"""

    rows = read(text, runs=5).rows

    assert [(row.dataset, row.name, row.mean.text) for row in rows] == [
        ("SVHN", "ReLU", "96.1"),
        ("SVHN", "Swish", "96.4"),
        ("MNIST", "ReLU", "99.1"),
        ("MNIST", "Swish", "99.2"),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (GROUPS.replace("SVHN}", "CIFAR-10}"), "two columns below 'CIFAR-10' have the same name"),
        (SHEET.replace("Params", "Dataset"), "must name a column 'dataset', once"),
        (r"a & \multicolumn{2}{c}{A} \\ b & 1 & 2 \\", "two columns are named 'A'"),
        (r"a & \multicolumn{3}{c}{A} \\ & B & C \\ b & 1 & 2 \\", "line 1 has 3 cells, the first line 4"),
    ],
)
def test_merged_cells_that_leave_a_doubt_are_refused(read, text, message):
    with pytest.raises(TableError) as error:
        read(text.replace("b & 1 & 2", "b & 1 $\\pm$ 1 & 2 $\\pm$ 1"))

    assert message in str(error.value)
    assert "\n" not in str(error.value)

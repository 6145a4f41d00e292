"""``judge``: whether an activation is better than the baseline, for programs that try many."""

from argparse import RawDescriptionHelpFormatter
from collections.abc import Sequence
from pathlib import Path

from actbench.cli.main import CommandParser, fail, printable, shown_path
from actbench.judging import EXIT_STATUS, EndedError, WrongInputError, as_json, judge, read_or_restore
from actbench.records import RecordError

FAULT = 1
USAGE = """\
main.py judge CANDIDATE [--config STUDY] [--ledger FILE] [options of compare]
       main.py judge --list [--ledger FILE]"""
EPILOG = f"""\
CANDIDATE is a name, a class path, or a class path with arguments in YAML, and comes first.

The study's file names the baseline, the data and the rule: see main.py compare --help. Of its arms, only the baseline
is trained. Any option of compare may follow, such as --study.replicates.

One line of JSON is printed: the verdict, the difference in test accuracy with its interval, how often candidate and
baseline failed to train, the time of a training step over the baseline's, the level that was spent and what is left,
how many candidates were judged before, notes, and the path of the page. Progress goes to standard error.

The ledger holds every candidate that was ever judged in the series, and controls the error over all of them. Each is
trained with seeds that nobody has seen before. If the same candidate comes again, under this name or another, it is
answered from the ledger. An interrupted candidate resumes.

exit status:
{chr(10).join(f"  {status:>2}  {verdict}" for verdict, status in EXIT_STATUS.items())}, or wrong input
   {FAULT}  a fault that is not the candidate's; the same command tries again
 130  interrupted; the same command resumes

examples:
  python main.py judge my_acts.Candidate --config configs/studies/judge.yaml --ledger ledger.json
  python main.py judge '{{class_path: Swish, init_args: {{beta: 1.2}}}}' --ledger ledger.json
  python main.py judge --list --ledger ledger.json
"""


def run_judge(options: Sequence[str]) -> int:
    """Judge a candidate, or list a ledger; returns the exit status."""
    parser = CommandParser("judge", usage=USAGE, epilog=EPILOG, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument(
        "--ledger", type=Path, default=Path("ledger.json"), help="File of the series (default: ledger.json)."
    )
    parser.add_argument(
        "--control",
        choices=("fwer", "fdr"),
        help="Of a new ledger. fwer: the chance of any false verdict of a difference (default); fdr: the share of "
        "false ones among the candidates that are better. At most the study's alpha.",
    )
    parser.add_argument(
        "--limit_s",
        type=float,
        help="Most seconds of training, after which the candidate is undecided; it resumes if given more time.",
    )
    parser.add_argument("--list", action="store_true", help="Print the ledger as a table, and write it as a page.")
    first = options[0] if options and not options[0].startswith("-") else None
    chosen, others = parser.parse_known_args(options[1:] if first else options)
    try:
        if chosen.list:
            if first or others:
                return fail("judge: --list takes --ledger alone")
            return list_ledger(chosen.ledger)
        if first is None:
            return fail("judge: which candidate? Name it first, before the options")
        answer = judge(first, others, chosen.ledger, control=chosen.control, limit_s=chosen.limit_s)
    except (WrongInputError, RecordError) as error:
        return fail(f"judge: {error}")
    except (EndedError, RuntimeError, OSError) as error:
        fail(f"judge: {error}; the same command goes on")
        return FAULT
    print(as_json(answer))
    return answer.exit_status


def list_ledger(path: Path) -> int:
    """Print a ledger, and write its page; returns the exit status."""
    from actbench.cli.console import table_console
    from actbench.cli.report import print_table
    from actbench.judging.page import ledger_sentences, ledger_table, write_ledger_page

    ledger = read_or_restore(path)
    console = table_console()
    print_table(console, ledger_table(ledger))
    print(*map(printable, ledger_sentences(ledger)), sep="\n")
    print(f"page: {shown_path(write_ledger_page(ledger))}")
    return 0

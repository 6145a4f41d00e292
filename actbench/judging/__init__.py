"""Judging candidates one after the other, as programs propose them, with one error rate for the whole series.

`judge` answers for one candidate. The `Ledger` holds all that were ever judged in
the series. Candidates run in a process of their own, the `Child`, which is the
only part that imports torch.
"""

from actbench.judging.answer import EXIT_STATUS as EXIT_STATUS
from actbench.judging.answer import Answer as Answer
from actbench.judging.child import EndedError as EndedError
from actbench.judging.child import WrongInputError as WrongInputError
from actbench.judging.ledger import Ledger as Ledger
from actbench.judging.ledger import read_or_restore as read_or_restore
from actbench.judging.series import as_json as as_json
from actbench.judging.series import judge as judge

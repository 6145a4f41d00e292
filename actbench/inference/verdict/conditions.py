"""Whether the winner of a study, and each verdict, is the same under other conditions."""

import math
from collections.abc import Mapping
from typing import NamedTuple

from actbench.inference.stats import Verdict
from actbench.inference.verdict.findings import Conclusion
from actbench.inference.verdict.phrases import listed
from actbench.inference.verdict.question import condition_name


class ByCondition(NamedTuple):
    """The arm of highest mean test accuracy, and the verdict on every comparison, under each condition.

    The condition "" is the study's usual one. Comparisons are pairs of arm and baseline.
    """

    dataset: str
    network: str
    winners: Mapping[str, str]
    verdicts: Mapping[tuple[str, str], Mapping[str, Verdict]]

    @property
    def depends(self) -> bool:
        """Whether the winner is another arm under some condition."""
        return len(set(self.winners.values())) > 1


def by_condition(conclusion: Conclusion) -> list[ByCondition]:
    """The findings of each dataset and network beside those under other conditions; none if a study has none."""
    question = conclusion.question
    conditions = ["", *question.conditions]
    found = {finding.comparison: finding for finding in conclusion.findings}
    results = []
    for dataset in question.datasets if question.conditions else []:
        for network in question.usual_networks:
            winners, verdicts = dict[str, str](), dict[tuple[str, str], dict[str, Verdict]]()
            for condition in conditions:
                name = condition_name(network, condition)
                findings = [finding for key, finding in found.items() if (key.dataset, key.network) == (dataset, name)]
                means = {arm: mean for each in findings for arm, mean in each.means.items() if math.isfinite(mean)}
                if means:
                    winners[condition] = max(means, key=lambda arm: means[arm])
                for finding in findings:
                    pair = finding.comparison.arm, finding.comparison.baseline
                    verdicts.setdefault(pair, {})[condition] = finding.judgement.verdict
            if len(winners) == len(conditions):  # not while a condition has no records
                results.append(ByCondition(dataset, network, winners, verdicts))
    return results


def condition_sentences(result: ByCondition) -> list[str]:
    """Whether the winner changes, and which verdicts do."""
    where, winner = f"On {result.dataset} with {result.network}", result.winners[""]
    lines = [f"{where}, {winner} has the highest mean accuracy; {changes(result.winners, 'the winner')}."]
    for (arm, baseline), verdicts in result.verdicts.items():
        lines.append(f"The verdict on {arm} against {baseline} is {verdicts['']}; {changes(verdicts, 'it')}.")
    return lines


def changes(values: Mapping[str, str], what: str) -> str:
    """Under which conditions a value is another one than the usual."""
    same = [condition for condition in values if condition and values[condition] == values[""]]
    other = [f"{condition} ({values[condition]})" for condition in values if values[condition] != values[""]]
    if not other:
        return f"{what} does not change under {listed(same)}"
    if not same:
        return f"{what} changes under {listed(other)}"
    return f"{what} does not change under {listed(same)}, but changes under {listed(other)}"

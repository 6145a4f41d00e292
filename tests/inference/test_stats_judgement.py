import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from statsmodels.stats.multitest import multipletests

from actbench.inference.stats import Design, equivalence, holm, judge_family, pairs_needed, sign_flip, stops

STABLE = settings(derandomize=True, deadline=None, max_examples=15)
DESIGN = Design(4, 12, 4)
COUNTS = arrays(int, (3, 12), elements=st.integers(250, 270)).map(lambda counts: counts / 270)
EFFECTS = st.sampled_from([0.0, 0.01, 0.03])
LOOKING = pytest.mark.parametrize("design", [None, DESIGN], ids=["fixed", "looking"])
MIRROR = {"better": "worse", "worse": "better"}


def scored(scores, effect):
    """Two arms, the first one better by an effect, beside a baseline."""
    return [scores[0] + effect, scores[1]], scores[2]


def differences(arms, baseline):
    return [arm - baseline for arm in arms]


def verdicts(judgements):
    return [judgement.verdict for judgement in judgements]


def test_verdicts_by_hand():
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 0.001, 30)
    family = [0.02 + noise, -0.02 + noise, 0.002 + noise, rng.normal(0, 0.02, 30), 0.0001 + noise - noise.mean()]

    judgements = judge_family(family)

    assert verdicts(judgements) == ["better", "worse", "better", "undecided", "equivalent"]
    assert [judgement.inside_margin for judgement in judgements] == [False, False, True, False, True]
    assert all(judgement.pairs == 30 for judgement in judgements)
    assert judgements[0].difference.estimate == pytest.approx(family[0].mean())
    assert judgements[0].superiority.estimate == 1


def test_p_values_are_adjusted_over_the_family():
    rng = np.random.default_rng(1)
    family = [rng.normal(effect, 1, 12) for effect in (0.9, 0.7, 0.1)]

    judgements = judge_family(family, margin=1.2)

    p, inside = [sign_flip(values) for values in family], [equivalence(values, margin=1.2) for values in family]
    assert [judgement.p for judgement in judgements] == p
    assert [judgement.adjusted_p for judgement in judgements] == pytest.approx(list(multipletests(p, method="holm")[1]))
    assert [judgement.adjusted_equivalence_p for judgement in judgements] == holm(inside)
    needed = [pairs_needed(judgement.effect, alpha=0.05 / 3) for judgement in judgements]
    assert [judgement.pairs_needed for judgement in judgements] == needed


@pytest.mark.parametrize("pairs", [0, 1, 5])
@LOOKING
def test_below_six_pairs_nothing_is_decided(pairs, design):
    family = [np.full(pairs, 0.1) + np.arange(pairs) / 100]

    (judgement,) = judge_family(family, design=design)

    assert judgement.verdict == "undecided"
    assert judgement.pairs == pairs
    assert (judgement.difference is None) == (pairs < 2)
    assert (judgement.superiority is None) == (pairs < 1)


def test_differences_without_spread_are_judged():
    (judgement,) = judge_family([np.full(8, 0.3 - 0.2)])

    assert judgement.verdict == "better"
    assert np.isnan(judgement.effect)
    assert judgement.pairs_needed is None


def test_a_family_of_none_has_no_verdicts():
    assert judge_family([]) == []
    assert stops([], DESIGN) == ([], [])


@pytest.mark.parametrize(("alpha", "margin"), [(0.0, 0.005), (1.0, 0.005), (0.05, 0.0), (0.05, -1.0)])
def test_levels_and_margins_out_of_range_are_refused(alpha, margin):
    with pytest.raises(ValueError, match=f"got {alpha} and {margin}"):
        judge_family([np.ones(6)], alpha=alpha, margin=margin)


@LOOKING
@STABLE
@given(COUNTS, EFFECTS)
def test_swapping_arms_mirrors_the_verdict(design, scores, effect):
    arms, baseline = scored(scores, effect)

    there = judge_family(differences(arms, baseline), design=design)
    back = judge_family([baseline - arm for arm in arms], design=design)

    assert verdicts(back) == [MIRROR.get(verdict, verdict) for verdict in verdicts(there)]
    for one, other in zip(there, back, strict=True):
        assert (one.adjusted_p, one.adjusted_equivalence_p) == (other.adjusted_p, other.adjusted_equivalence_p)
        assert one.difference == pytest.approx([-bound for bound in np.array(other.difference)[[0, 2, 1]]], abs=1e-12)


@LOOKING
@STABLE
@given(COUNTS, EFFECTS, st.floats(-1, 1))
def test_shifting_all_scores_changes_nothing(design, scores, effect, shift):
    arms, baseline = scored(scores, effect)

    before = judge_family(differences(arms, baseline), design=design)
    after = judge_family(differences([arm + shift for arm in arms], baseline + shift), design=design)

    assert verdicts(after) == verdicts(before)
    assert [judgement.p for judgement in after] == [judgement.p for judgement in before]


@LOOKING
@STABLE
@given(COUNTS, EFFECTS, st.floats(0.01, 100))
def test_scaling_scores_and_margin_changes_nothing(design, scores, effect, factor):
    family = differences(*scored(scores, effect))

    before = judge_family(family, design=design)
    after = judge_family([factor * values for values in family], margin=factor * 0.005, design=design)

    assert verdicts(after) == verdicts(before)
    for one, other in zip(before, after, strict=True):
        assert (one.p, one.equivalence_p, one.pairs_needed) == (other.p, other.equivalence_p, other.pairs_needed)


@STABLE
@given(COUNTS, EFFECTS, st.permutations(range(12)))
def test_the_order_of_seeds_does_not_matter(scores, effect, order):
    family = differences(*scored(scores, effect))

    before, after = judge_family(family), judge_family([values[order] for values in family])

    assert verdicts(after) == verdicts(before)
    assert [judgement.adjusted_p for judgement in after] == [judgement.adjusted_p for judgement in before]


@STABLE
@given(COUNTS, EFFECTS, st.permutations(range(4)))
def test_the_order_of_seeds_within_a_batch_does_not_matter(scores, effect, order):
    family = differences(*scored(scores, effect))
    order = [batch + place for batch in (0, 4, 8) for place in order]

    before, after = (
        judge_family(family, design=DESIGN),
        judge_family([values[order] for values in family], design=DESIGN),
    )

    assert verdicts(after) == verdicts(before)
    assert [judgement.adjusted_p for judgement in after] == [judgement.adjusted_p for judgement in before]


@STABLE
@given(COUNTS, EFFECTS)
def test_a_study_that_is_recomputed_stops_where_it_stopped(scores, effect):
    family = differences(*scored(scores, effect))

    pairs, running = stops(family, DESIGN)

    # From the pairs that counted alone, and one batch after another, as the study saw them.
    assert stops([values[:count] for values, count in zip(family, pairs, strict=True)], DESIGN) == (pairs, running)
    for look in DESIGN.looks:
        seen, going = stops([values[:look] for values in family], DESIGN)
        assert seen == [min(count, look) for count in pairs]
        assert {place for place, count in enumerate(pairs) if count > look} <= set(going)
    assert running == []


def test_a_comparison_stops_when_it_is_decided_and_the_others_go_on():
    rng = np.random.default_rng(0)
    design = Design(6, 30, 6)
    family = [rng.normal(effect, 0.01, 30) for effect in (0.05, 0)]

    pairs, running = stops(family, design, margin=0.001)

    assert pairs == [12, 30]
    assert running == []
    judgements = judge_family([values[:count] for values, count in zip(family, pairs, strict=True)], design=design)
    assert verdicts(judgements) == ["better", "undecided"]


def test_pairs_that_a_comparison_has_after_its_stop_help_no_other_one():
    rng = np.random.default_rng(157)
    # The first is equivalent, and stops; with more pairs it would also be found better, which would leave the second
    # a lower hurdle.
    family, design = [rng.normal(0.002, 0.001, 16), rng.normal(0, 0.004, 16)], Design(4, 16, 4)

    pairs, _ = stops(family, design)

    assert pairs == [8, 16]
    assert stops([family[0][:8], family[1]], design) == (pairs, [])
    assert verdicts(judge_family([family[0][:8], family[1][:12]], design=design)) == ["equivalent", "undecided"]
    assert verdicts(judge_family([values[:12] for values in family], design=design)) == ["better", "worse"]


def test_none_goes_on_before_all_have_the_pairs_for_the_next_look():
    rng = np.random.default_rng(0)
    family = [rng.normal(0, 1, pairs) for pairs in (12, 11)]

    assert stops(family, Design(6, 30, 6)) == ([6, 6], [0, 1])


def test_a_design_of_one_look_is_no_looking():
    drawn = np.random.default_rng(0).normal(0.7, 1, (6, 12))

    found = [judge_family([values])[0].verdict for values in drawn]

    assert [judge_family([values], design=Design(12, 12, 1))[0].verdict for values in drawn] == found


def test_a_verdict_over_looks_has_the_direction_that_it_was_reached_in():
    rng = np.random.default_rng(0)
    difference = np.concatenate([rng.normal(0.02, 0.002, 12), rng.normal(-0.02, 0.002, 24)])

    (judgement,) = judge_family([difference], design=Design(6, 60, 6))

    assert difference.mean() < 0
    assert judgement.verdict == "better"

"""Components of variance of crossed sources."""

import numpy as np
import pytest
from scipy import stats

from actbench.inference.stats import REST, variance_components
from actbench.seeding import levels

SOURCES = ("init", "split", "order", "augmentation", "dropout")


def design(sources):
    return {source: np.array(levels(column)) for column, source in enumerate(SOURCES[:sources])}


def simulated(rng, variances):
    crossed = design(len(variances))
    effects = [
        rng.normal(0, np.sqrt(variance), 5)[of] for variance, of in zip(variances, crossed.values(), strict=True)
    ]
    return rng.normal(size=25) + sum(effects), crossed


def least_squares(scores, crossed):
    """Mean squares by the fall of the residual sum of squares, in a model with an indicator for each level."""

    def residual(columns):
        return np.sum((scores - columns @ np.linalg.lstsq(columns, scores, rcond=None)[0]) ** 2)

    indicators = {source: np.eye(5)[of] for source, of in crossed.items()}
    whole = residual(np.hstack([np.ones((25, 1)), *indicators.values()]))
    without = {
        source: residual(np.hstack([np.ones((25, 1)), *(i for name, i in indicators.items() if name != source)]))
        for source in indicators
    }
    return {source: (rss - whole) / 4 for source, rss in without.items()}, whole / (24 - 4 * len(crossed))


@pytest.mark.parametrize("sources", [1, 2, 3, 5])
def test_mean_squares_are_those_of_least_squares(sources):
    rng = np.random.default_rng(sources)
    scores, crossed = simulated(rng, (1.0,) * sources)

    found = variance_components(scores, crossed)

    expected, rest = least_squares(scores, crossed)
    assert {source: found.parts[source].mean_square for source in crossed} == pytest.approx(expected)
    assert found.parts[REST].mean_square == pytest.approx(rest)
    assert found.parts[REST].freedom == 24 - 4 * sources
    for source, mean_square in expected.items():
        assert found.parts[source].variance.estimate == pytest.approx(max(0, (mean_square - rest) / 5))
    assert found.total.estimate == pytest.approx(sum(expected.values()) / 5 + rest * (1 - sources / 5))


def test_components_of_a_table_by_hand():
    # Effects of rows -1, 0, 1 and of columns -3, 0, 3, and residuals that sum to 0 in both.
    scores = np.array([-1, 0, 1])[:, None] + np.array([-3, 0, 3]) + np.array([[1, -1, 0], [-1, 1, 0], [0, 0, 0]])
    rows, columns = np.divmod(np.arange(9), 3)

    found = variance_components(scores.ravel().astype(float), {"rows": rows, "columns": columns})

    # Sums of squares 3 x 2 = 6, 3 x 18 = 54 and 4, with 2, 2 and 4 degrees of freedom.
    assert {name: part.mean_square for name, part in found.parts.items()} == pytest.approx(
        {"rows": 3, "columns": 27, REST: 1}
    )
    assert {name: part.variance.estimate for name, part in found.parts.items()} == pytest.approx(
        {"rows": 2 / 3, "columns": 26 / 3, REST: 1}
    )
    assert found.total.estimate == pytest.approx(31 / 3)
    assert found.parts["columns"].share.estimate == pytest.approx(26 / 31)


def test_a_lower_bound_is_above_0_where_the_f_test_is_significant():
    rng = np.random.default_rng(3)

    for _ in range(50):
        scores, crossed = simulated(rng, (0.5, 0.0))
        parts = variance_components(scores, crossed).parts
        for source in crossed:
            p = stats.f.sf(parts[source].mean_square / parts[REST].mean_square, 4, 16)
            if abs(p - 0.025) > 0.005:  # the bound is known to the precision of the draws
                assert (parts[source].variance.low > 0) == (p < 0.025)


def test_the_interval_of_the_rest_is_that_of_a_variance():
    scores, crossed = simulated(np.random.default_rng(4), (1.0, 1.0))

    rest = variance_components(scores, crossed, level=0.9).parts[REST]

    exact = 16 * rest.mean_square / stats.chi2.ppf([0.95, 0.05], 16)
    assert [*rest.variance[1:]] == pytest.approx(exact.tolist(), rel=0.02)


def test_estimates_stay_inside_what_is_possible():
    scores, crossed = simulated(np.random.default_rng(5), (0.0,) * 5)

    found = variance_components(scores, crossed)

    assert min(part.variance.low for part in found.parts.values()) == 0
    assert any(part.variance.estimate == 0 for part in found.parts.values())
    assert all(0 <= bound <= 1 for part in found.parts.values() for bound in part.share)


def test_equal_scores_have_no_shares():
    found = variance_components(np.full(25, 0.1), design(2))

    assert found.total == (0, 0, 0)
    assert np.isnan(found.parts["init"].share.estimate)


def test_interactions_are_part_of_the_rest_and_bias_nothing():
    rng, crossed = np.random.default_rng(6), design(3)
    estimates = []
    for _ in range(100):
        interaction = rng.normal(0, 1, (5, 5))[crossed["init"], crossed["split"]]
        found = variance_components(rng.normal(0, 1, 25) + interaction, crossed)
        order, rest = found.parts["order"].mean_square, found.parts[REST].mean_square
        estimates.append([order, rest])

    means, errors = np.mean(estimates, axis=0), np.std(estimates, axis=0) / np.sqrt(100)
    assert np.all(np.abs(means - 2) < 4 * errors)  # both expect 1 + 1


@pytest.mark.parametrize(
    ("crossed", "message"),
    [
        ({"init": np.arange(25) // 6}, "levels of init"),
        ({"init": np.arange(25) // 5, "split": np.arange(25) // 5}, "levels of init and split"),
        ({f"source{column}": np.array(levels(column)) for column in range(6)}, "no degree of freedom"),
    ],
)
def test_an_unbalanced_design_is_refused(crossed, message):
    with pytest.raises(ValueError, match=message):
        variance_components(np.arange(25.0), crossed)

"""Intervals, exact tests, corrections and verdicts: pure functions of arrays, which know nothing of networks."""

from actbench.inference.stats.judgement import Judgement as Judgement
from actbench.inference.stats.judgement import Verdict as Verdict
from actbench.inference.stats.judgement import judge as judge
from actbench.inference.stats.judgement import stops as stops
from actbench.inference.stats.paired import Interval as Interval
from actbench.inference.stats.paired import bootstrap as bootstrap
from actbench.inference.stats.paired import effect_size as effect_size
from actbench.inference.stats.paired import equivalence as equivalence
from actbench.inference.stats.paired import holm as holm
from actbench.inference.stats.paired import mean_interval as mean_interval
from actbench.inference.stats.paired import mean_with_bounds as mean_with_bounds
from actbench.inference.stats.paired import pareto as pareto
from actbench.inference.stats.paired import sign_flip as sign_flip
from actbench.inference.stats.paired import smallest_p as smallest_p
from actbench.inference.stats.paired import superiority as superiority
from actbench.inference.stats.power import detectable as detectable
from actbench.inference.stats.power import noise_of_test_set as noise_of_test_set
from actbench.inference.stats.power import pairs_for_margin as pairs_for_margin
from actbench.inference.stats.power import pairs_needed as pairs_needed
from actbench.inference.stats.power import power as power
from actbench.inference.stats.sequential import Design as Design
from actbench.inference.stats.sequential import boundaries as boundaries
from actbench.inference.stats.sequential import crosses as crosses
from actbench.inference.stats.sequential import histories as histories
from actbench.inference.stats.sequential import nominal_level as nominal_level
from actbench.inference.stats.sequential import sequential_p as sequential_p

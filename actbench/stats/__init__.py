"""Intervals, exact tests, corrections and verdicts. Pure functions of arrays; nothing here knows of networks."""

from actbench.stats.judgement import Judgement as Judgement
from actbench.stats.judgement import Verdict as Verdict
from actbench.stats.judgement import judge as judge
from actbench.stats.judgement import stops as stops
from actbench.stats.paired import Interval as Interval
from actbench.stats.paired import bootstrap as bootstrap
from actbench.stats.paired import effect_size as effect_size
from actbench.stats.paired import equivalence as equivalence
from actbench.stats.paired import holm as holm
from actbench.stats.paired import mean_interval as mean_interval
from actbench.stats.paired import mean_with_bounds as mean_with_bounds
from actbench.stats.paired import pareto as pareto
from actbench.stats.paired import sign_flip as sign_flip
from actbench.stats.paired import superiority as superiority
from actbench.stats.power import detectable as detectable
from actbench.stats.power import noise_of_test_set as noise_of_test_set
from actbench.stats.power import pairs_for_margin as pairs_for_margin
from actbench.stats.power import pairs_needed as pairs_needed
from actbench.stats.power import power as power
from actbench.stats.sequential import Design as Design
from actbench.stats.sequential import boundaries as boundaries
from actbench.stats.sequential import crosses as crosses
from actbench.stats.sequential import histories as histories
from actbench.stats.sequential import nominal_level as nominal_level
from actbench.stats.sequential import sequential_p as sequential_p

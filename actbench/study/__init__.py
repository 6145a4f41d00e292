"""A study: activations compared on datasets and networks, seed by seed. What is finished is never done twice."""

from actbench.study.definition import FLAGS as FLAGS
from actbench.study.definition import Study as Study
from actbench.study.definition import StudyError as StudyError
from actbench.study.definition import study_parser as study_parser
from actbench.study.grid import arms as arms
from actbench.study.grid import entries as entries
from actbench.study.plan import Wanted as Wanted
from actbench.study.plan import collect as collect
from actbench.study.plan import make_plan as make_plan
from actbench.study.plan import question_of as question_of
from actbench.study.plan import test_images as test_images
from actbench.study.rehearsal import rehearse as rehearse
from actbench.study.run import compare as compare
from actbench.study.run import pilot as pilot
from actbench.study.run import run_study as run_study
from actbench.study.training import MissingError as MissingError
from actbench.study.training import train as train

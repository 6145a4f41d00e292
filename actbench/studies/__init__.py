"""A study: activations compared on datasets and networks, seed by seed. Finished cells never run twice."""

from actbench.studies.crossing import crossed_wanted as crossed_wanted
from actbench.studies.definition import FLAGS as FLAGS
from actbench.studies.definition import Study as Study
from actbench.studies.definition import StudyError as StudyError
from actbench.studies.definition import large_margin as large_margin
from actbench.studies.definition import study_parser as study_parser
from actbench.studies.grid import arms as arms
from actbench.studies.grid import planned_cells as planned_cells
from actbench.studies.plan import Wanted as Wanted
from actbench.studies.plan import make_plan as make_plan
from actbench.studies.plan import make_question as make_question
from actbench.studies.plan import read_wanted as read_wanted
from actbench.studies.plan import test_images as test_images
from actbench.studies.rehearsal import rehearse as rehearse
from actbench.studies.run import compare as compare
from actbench.studies.run import pilot as pilot
from actbench.studies.training import MissingError as MissingError
from actbench.studies.training import train as train

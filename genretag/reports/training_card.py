"""The model card that training leaves beside the bundle, `report.html`: of the test posters that it has just scored."""

import numpy as np

from genretag.evaluation.choosing import Candidate
from genretag.evaluation.job import Answers, measured
from genretag.evaluation.measuring import Said
from genretag.evaluation.settings import EvaluateSettings
from genretag.profiles import TOP
from genretag.reports.model_card import REPORT, write_model_card
from genretag.storage import Storage, join
from genretag.training.finishing import Finished

RESAMPLES = 200  # enough for an interval to be drawn; `genretag evaluate --html` takes more


def card_of_training(finished: Finished, output: str, storage: Storage) -> str:
    """Measures, draws and writes; returns where."""
    bundle, posters = finished.bundle, finished.test_posters
    profiles = {name: bundle.profile(name) for name in [*bundle.thresholds, TOP]}
    said = Said(posters.labelled.multi_hot, finished.test_probabilities, profiles)
    null = np.array(bundle.facts["null"]["prevalence"]), "the bundle's training posters"
    settings = EvaluateSettings(bootstrap=RESAMPLES)
    found = measured([Candidate(output, bundle)], posters, [said], {}, null, settings)
    return write_model_card(join(output, REPORT), found, Answers(bundle, posters, said), storage)

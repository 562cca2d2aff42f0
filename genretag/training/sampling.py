"""Which training posters an epoch shows: each once, or those of rare labels more often."""

from genretag.modeling.balance import balanced_rows
from genretag.training.labelled_posters import LabelledPosters
from genretag.training.settings import TrainSettings


def shown_posters(training: LabelledPosters, settings: TrainSettings) -> LabelledPosters:
    """As many rows as there are training posters; with balanced sampling some posters come more than once."""
    if not settings.balanced_sampling:
        return training
    return training.at(balanced_rows(training.labelled.multi_hot, settings.seed))

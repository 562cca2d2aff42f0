"""Which training posters an epoch shows: each once, or those of rare labels more often."""

from genretag.labels import LabelledSet
from genretag.modeling.balance import balanced_rows
from genretag.training.labelled_posters import LabelledPosters
from genretag.training.settings import TrainSettings


def shown_posters(training: LabelledPosters, settings: TrainSettings) -> LabelledPosters:
    """As many rows as there are training posters; with balanced sampling some posters come more than once."""
    if not settings.balanced_sampling:
        return training
    labelled, rows = training.labelled, balanced_rows(training.labelled.multi_hot, settings.seed)
    drawn = LabelledSet(tuple(labelled.ids[row] for row in rows), labelled.labels, labelled.multi_hot[rows])
    uris, etags = ([of[row] for row in rows] for of in (training.uris, training.etags))
    return LabelledPosters(drawn, uris, etags, None if training.targets is None else training.targets[rows])

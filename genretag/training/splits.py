"""Training, validation and test posters of a training run.

The network learns from the training posters. The validation posters decide every choice, such as the thresholds. The
test posters decide nothing: the final bundle is measured on them.
"""

from genretag.data.splits import SplitRule, Splits
from genretag.errors import UsageError
from genretag.scoring.labelled_posters import LabelledPosters, find_posters, read_label_file
from genretag.storage import Storage
from genretag.training.settings import TrainSettings


def split_rule(settings: TrainSettings) -> SplitRule:
    """Return the rule that divides the posters of a training run: the seed, the validation share and the test share."""
    return SplitRule(settings.seed, settings.validation_share, settings.test_share)


def read_labelled_posters(
    labels: str, images: str, settings: TrainSettings, storage: Storage
) -> Splits[LabelledPosters]:
    """Read the CSV at `labels`, match its ids with the file names of the images at `images`, and divide the posters.

    A hash of the id decides the split. Identical pictures stay in the same split. The log counts the rows, images and
    posters that are left out. Raises `UsageError` if a split is empty, or if training has fewer posters than a batch.
    Also raises `UsageError` if the CSV or the images cannot be read or do not match.
    """
    content = read_label_file(labels, storage)
    found = find_posters(content, labels, images, storage, settings, min_positives=settings.min_positives)
    splits = found.split(split_rule(settings), storage)
    for name, part in splits.parts().items():
        if not len(part):
            raise UsageError(f"{len(found.labelled)} posters leave none for the {name} split: label more of them")
    if len(splits.train) < settings.batch_size:
        raise UsageError(
            f"{len(splits.train)} training posters are less than one batch of {settings.batch_size}: "
            "label more of them or lower --batch-size"
        )
    return splits

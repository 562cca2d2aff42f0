"""Named ways to train: settings that stand behind flags, environment and file, and before the defaults.

Each was measured on the same test split of the 7,242 research posters, two workers on 2 virtual CPUs, by

    genretag train --recipe NAME --labels films.csv --images posters --output model
    genretag evaluate model --labels films.csv --images posters

| recipe      | what                                                   | minutes    | macro mAP  | micro AP   |
|-------------|--------------------------------------------------------|------------|------------|------------|
| (null)      | every poster gets each label's share of the posters    | 0          | [measure]  | [measure]  |
| tutorial    | the tutorial's network, from nothing, all labels       | [measure]  | [measure]  | [measure]  |
| frozen      | a linear head on frozen ImageNet features of Lite0     | [measure]  | [measure]  | [measure]  |
| fine-tune   | the default: Lite0, all but its depthwise kernels      | [measure]  | [measure]  | [measure]  |
| lite2       | the same with Lite2, two sizes up                      | [measure]  | [measure]  | [measure]  |
"""

import difflib
from collections.abc import Mapping
from typing import Any

from genretag.errors import UsageError, quoted
from genretag.training.settings import TrainSettings

DEFAULT_RECIPE = "fine-tune"

RECIPES: Mapping[str, Mapping[str, Any]] = {
    # As published, but for the split by a hash of the id, and a test part beside the validation part.
    "tutorial": {
        "backbone": "tutorial",
        "height": 400,
        "width": 300,
        "min_positives": 1,  # all 25 labels, the pseudo label N/A among them
        "head_epochs": 0,
        "epochs": 10,
        "batch_size": 64,
        "learning_rate": 1e-3,  # Keras's default for Adam, at any size of batch
        "scale_learning_rate": False,
        "schedule": "constant",
        "weight_decay": 0.0,  # which makes AdamW Adam
        "clip_norm": 0.0,
        "average_momentum": 0.0,
        "dropout": 0.5,
        "min_crop": 1.0,
        "colour": 0.0,
        "flip": False,
        "validation_share": 0.1,
        "summary": True,
    },
    "frozen": {"head_epochs": 6, "epochs": 0},
    "fine-tune": {},
    "lite2": {"backbone": "lite2"},
}


def recipe(name: str) -> dict[str, Any]:
    """The settings that a recipe changes, by name; `UsageError` for one that there is not."""
    if name not in RECIPES:
        close = difflib.get_close_matches(name, RECIPES, n=3)
        hint = f"did you mean {' or '.join(close)}?" if close else f"known are {', '.join(RECIPES)}"
        raise UsageError(f"there is no recipe {quoted(name)}: {hint}")
    return dict(RECIPES[name])


def settings_of(name: str, **changes: Any) -> TrainSettings:
    """A recipe's settings with `changes`, such as `settings_of("tutorial", epochs=3)`."""
    return TrainSettings(**{**recipe(name), **changes})

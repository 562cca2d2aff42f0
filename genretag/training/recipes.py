"""Named ways to train: settings that stand behind flags, environment and file, and before the defaults.

`tests/benchmarks/recipes.py` measures each on the same test split beside the null model; the README has the table.
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
    "large": {"height": 384, "width": 256},
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

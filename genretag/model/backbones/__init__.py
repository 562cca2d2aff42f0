"""Backbones by name: networks up to their features, for the linear head of `genretag.model.networks`."""

import difflib

from genretag.errors import UsageError, quoted
from genretag.model.backbones.base import NO_LEARNING, RANDOM, Backbone, Learning
from genretag.model.backbones.clip import Clip
from genretag.model.backbones.efficientnet_lite import VARIANTS, EfficientNetLite
from genretag.model.backbones.keras_applications import application_named
from genretag.model.backbones.keras_hub_presets import preset_named
from genretag.model.backbones.tutorial import Tutorial

__all__ = ["NO_LEARNING", "RANDOM", "Backbone", "Learning", "backbone_named"]

OWN: dict[str, Backbone] = {
    **{name: EfficientNetLite(name) for name in VARIANTS},
    "clip": Clip(),
    "tutorial": Tutorial(),
}


def backbone_named(name: str) -> Backbone:
    """Return the backbone `name`: one of `OWN`, a network of `keras.applications`, or a preset of KerasHub.

    Raises `UsageError` if there is none.
    """
    found = OWN.get(name) or application_named(name) or preset_named(name)
    if found is None:
        close = difflib.get_close_matches(name, OWN, n=2)
        hint = f"did you mean {' or '.join(close)}? Others are" if close else f"choose {', '.join(OWN)},"
        raise UsageError(
            f"there is no backbone {quoted(name)}: {hint} the networks of keras.applications, such as "
            "EfficientNetV2B0, and with the extra hub the presets of KerasHub, such as siglip_base_patch16_224"
        )
    return found

"""Settings of a recipe override the defaults. Flags, environment and file override the recipe."""

import pytest

from genretag.cli import app, settings_sources
from genretag.errors import UsageError
from genretag.training.settings import DEFAULT_RECIPE, RECIPES, TrainSettings, settings_of

NEEDED = ["train", "--labels", "films.csv", "--images", "posters", "--output", "model"]


def parsed(*flags, file=None):
    """Return the settings that `genretag train` would run with."""
    app.config = settings_sources(app, file)
    _, bound, _ = app.parse_args([*NEEDED, *flags], print_error=False, exit_on_error=False)
    return bound.arguments.get("settings", TrainSettings())


@pytest.fixture
def file(tmp_path):
    """Return a function that writes a settings file with these lines for `train`."""

    def write(*lines):
        path = tmp_path / "nightly.toml"
        path.write_text("\n".join(["[train]", *lines]))
        return path

    return write


def test_without_a_recipe_the_settings_are_the_defaults():
    assert parsed() == TrainSettings() == settings_of(DEFAULT_RECIPE)


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_gives_the_same_settings_on_the_command_line_and_in_the_library(name):
    assert parsed("--recipe", name) == settings_of(name)


def test_flags_override_environment_then_file_then_recipe_then_default(file, monkeypatch):
    learning_rate = [parsed().learning_rate, parsed("--recipe", "tutorial").learning_rate]
    both = file("learning_rate = 0.3", "epochs = 7", 'recipe = "tutorial"')
    learning_rate.append(parsed(file=both).learning_rate)
    monkeypatch.setenv("GENRETAG_TRAIN_LEARNING_RATE", "0.4")
    learning_rate.append(parsed(file=both).learning_rate)
    learning_rate.append(parsed("--learning-rate", "0.5", file=both).learning_rate)

    assert learning_rate == [2e-4, 1e-3, 0.3, 0.4, 0.5]
    assert parsed(file=both) == settings_of("tutorial", epochs=7, learning_rate=0.4), "the rest is the recipe's"


@pytest.mark.parametrize(("flags", "flip"), [((), False), (("--flip",), True), (("--no-flip",), False)])
def test_a_switch_that_a_recipe_turns_off_can_be_turned_on(flags, flip):
    assert parsed("--recipe", "tutorial", *flags).flip is flip


def test_the_recipes_name_comes_from_flag_environment_or_file(file, monkeypatch):
    in_file = file('recipe = "lite2"')
    assert parsed(file=in_file).backbone == "lite2"
    monkeypatch.setenv("GENRETAG_TRAIN_RECIPE", "tutorial")
    assert parsed(file=in_file).backbone == "tutorial"
    assert parsed("--recipe", "frozen", file=in_file) == settings_of("frozen")


def test_an_unknown_recipe_names_the_nearest():
    with pytest.raises(UsageError, match=r"^there is no recipe 'tutorail': did you mean tutorial\?$"):
        parsed("--recipe", "tutorail")
    with pytest.raises(UsageError, match=r"known are tutorial, frozen, fine-tune, lite2, clip, large$"):
        settings_of("x")


def test_an_unknown_setting_next_to_a_recipe_is_refused():
    with pytest.raises(TypeError, match="batchsize"):
        settings_of("frozen", batchsize=3)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"resize": "stretch"}, "no resize 'stretch': choose from squash, letterbox, crop"),
        ({"loss": "hinge"}, "no loss 'hinge': choose from bce, asymmetric, focal"),
        ({"label_weights": "full"}, "no weighting of labels 'full': choose from none, sqrt"),
        ({"schedule": "step"}, "no schedule 'step': choose from cosine, constant"),
        ({"backbone": "tutorial", "height": 70}, "the tutorial network needs at least 76 x 76 pixels, not 70 x 300"),
        ({"min_crop": 1.1}, "min_crop must be above 0 and at most 1, not 1.1"),
        ({"label_smoothing": 1.0}, "label_smoothing must be at least 0 and below 1, not 1.0"),
        ({"gamma_negative": 0.5}, "gamma_negative must be 0, or at least 1, not 0.5"),
        ({"patience": -1}, "patience must not be negative, but is -1"),
    ],
)
def test_a_setting_that_cannot_work_says_so(changes, says):
    with pytest.raises(UsageError, match=f"{says}$"):
        TrainSettings(**changes)

"""Command-line options and help of `train`, `requantize`, `bundle`, `calibrate`, `evaluate`, `bench` and `submit`."""

import logging
from typing import TYPE_CHECKING, Annotated

from genretag.cli_commands import Flat, app, start_logging
from genretag.commands.submit import command_line
from genretag.importing.settings import ImportSettings
from genretag.runtime import logs
from genretag.runtime.session import Session
from genretag.scoring.settings import TagSettings
from genretag.settings import BenchSettings, CalibrateSettings, EvaluateSettings, Location, SubmitSettings
from genretag.training.settings import TrainRunSettings, TrainSettings

if TYPE_CHECKING:
    from genretag.model.bundle import Bundle

logger = logging.getLogger(__name__)


@app.command
def train(
    *,
    labels: Location,
    images: Location,
    output: Location,
    run: Annotated[TrainRunSettings | None, Flat] = None,
    settings: Annotated[TrainSettings | None, Flat] = None,
    session: Annotated[Session | None, Flat] = None,
) -> None:
    """Train a multi-label classifier on data-parallel workers, and write a model bundle.

    Example: genretag train --labels films.csv --images s3://films/posters --output s3://films/models/1

    Parameters
    ----------
    labels
        A CSV with an id column, and either one column of 0 and 1 per label or one column with all labels. The log
        says how `train` read the CSV.
    images
        A folder or a prefix of a bucket. The id of an image is its file name without the extension.
    output
        The folder or prefix of a bucket to write the bundle to.
    """
    from genretag.commands.train import train as train_bundle

    run, settings, session = run or TrainRunSettings(), settings or TrainSettings(), session or Session()
    start_logging(session)
    logger.info("recipe %s", run.recipe)
    bundle = train_bundle(labels, images, output, settings, session, run)
    _print_bundle(bundle, output)


@app.command
def requantize(
    model: Location,
    *,
    labels: Location,
    images: Location,
    output: Location,
    overwrite: bool = False,
    session: Annotated[Session | None, Flat] = None,
) -> None:
    """Quantize the network of a bundle to int8 again, with its training posters. The float network does not change.

    Example: genretag requantize model --labels films.csv --images posters --output model-2

    Parameters
    ----------
    model
        The model bundle: a folder or a prefix of a bucket.
    labels
        The CSV that the bundle was trained with.
    images
        The posters that the bundle was trained with.
    output
        The folder or prefix of a bucket to write the new bundle to.
    overwrite
        Replace a bundle that is already at OUTPUT.
    """
    from genretag.commands.requantize import requantize as run

    session = session or Session()
    start_logging(session)
    bundle = run(model, labels, images, output, session, overwrite=overwrite)
    _print_bundle(bundle, output)


@app.command
def bundle(
    model: Location,
    *,
    labels: Location,
    output: Location,
    images: Location | None = None,
    settings: Annotated[ImportSettings | None, Flat] = None,
    session: Annotated[Session | None, Flat] = None,
) -> None:
    """Make a bundle of a model that genretag did not train, such as an ONNX file with a list of labels.

    The bundle and the model's own runtime predict some pictures. If they differ, nothing is written.

    Example: genretag bundle tagger.onnx --labels tags.csv --scale 1/255 --output s3://films/models/tagger

    Parameters
    ----------
    model
        A .onnx or .keras file, the .xml file of an OpenVINO IR, or the folder of a TensorFlow SavedModel.
    labels
        The model's labels in the order of its outputs: a text file with one label per line, a CSV, or a JSON list.
    output
        The folder or prefix of a bucket to write the bundle to.
    images
        A few pictures to try the bundle on: a folder or a prefix of a bucket. Default: posters that are drawn.
    """
    from genretag.commands.bundle import bundle as run

    settings, session = settings or ImportSettings(), session or Session()
    start_logging(session)
    made, lines = run(model, labels, output, settings, session, images)
    place = "nothing was written (--dry-run)" if settings.dry_run else output
    print("\n".join([*lines, f"model {made.model_version}: {place}"]))  # noqa: T201


@app.command
def calibrate(
    model: Location,
    *,
    labels: Location,
    images: Location,
    output: Location,
    settings: Annotated[CalibrateSettings | None, Flat] = None,
    session: Annotated[Session | None, Flat] = None,
) -> None:
    """Calibrate a bundle on labelled posters: probabilities that mean what they say, thresholds and an int8 network.

    Use posters that the model did not learn from. They need not cover all labels of the bundle.

    Example: genretag calibrate tagger --labels films.csv --images posters --output tagger-2

    Parameters
    ----------
    model
        The model bundle: a folder or a prefix of a bucket.
    labels
        A CSV, as for `train`.
    images
        A folder or a prefix of a bucket. The id of an image is its file name without the extension.
    output
        The folder or prefix of a bucket to write the new bundle to.
    """
    from genretag.commands.calibrate import calibrate as run

    settings, session = settings or CalibrateSettings(), session or Session()
    start_logging(session)
    _print_bundle(run(model, labels, images, output, settings, session), output)


@app.command
def evaluate(
    bundle: Location,
    *,
    labels: Location,
    images: Location,
    against: Location | None = None,
    settings: Annotated[EvaluateSettings | None, Flat] = None,
    session: Annotated[Session | None, Flat] = None,
) -> None:
    """Measure a model bundle on labelled posters that it was not trained on, and compare it with the null model.

    The null model never looks at a poster: it gives every poster the same probabilities.

    Example: genretag evaluate model --labels films.csv --images posters --against other-model

    Parameters
    ----------
    bundle
        The model bundle: a folder or a prefix of a bucket.
    labels
        A CSV, as for `train`.
    images
        A folder or a prefix of a bucket. The id of an image is its file name without the extension.
    against
        Another bundle to compare with, on the same posters.
    """
    from genretag.commands.evaluate import evaluate_with_answers as run
    from genretag.reports.evaluation_table import print_report, to_json
    from genretag.reports.model_card import write_model_card

    settings, session = settings or EvaluateSettings(), session or Session()
    start_logging(session)
    found, answers = run(bundle, labels, images, settings, session, against)
    print_report(found)
    if settings.json:
        settings.json.write_text(to_json(found))
    if settings.html:
        place = write_model_card(settings.html, found, answers, session.storage, with_posters=settings.posters)
        print(f"model card: {place}")  # noqa: T201


@app.command
def bench(
    images: Location | None = None,
    *,
    output: Location | None = None,
    model: Location | None = None,
    settings: Annotated[BenchSettings | None, Flat] = None,
    tagging: Annotated[TagSettings | None, Flat] = None,
    session: Annotated[Session | None, Flat] = None,
) -> None:
    """Measure the speed of `tag`, compare it with plain loops without Ray, and name the bottleneck.

    Two plain loops do the work of `tag` on the same posters: one in threads of one process, and one in a process for
    each CPU. The rate of the faster loop is called the ceiling.

    Example: genretag bench s3://films/posters --posters 10000

    Parameters
    ----------
    images
        A folder, a prefix of a bucket or a manifest, as for `tag`. Default: synthetic posters that `bench` draws.
    output
        A folder or a prefix of a bucket for the rows that `tag` writes. `bench` removes them at its end. Default: a
        local temporary folder.
    model
        A model bundle. Default: the bundle that ships with genretag.
    """
    from genretag.commands.bench import bench as run
    from genretag.reports.bench_table import print_report, to_json

    settings, tagging, session = settings or BenchSettings(), tagging or TagSettings(), session or Session()
    start_logging(session)
    found = run(images, output, settings, tagging, session, model)
    print_report(found)
    if settings.json:
        settings.json.write_text(to_json(found))


@app.command
def submit(*command: str, settings: Annotated[SubmitSettings | None, Flat] = None) -> None:
    """Run a command on a Ray cluster once, even if it is submitted twice.

    If the same command of the same day is running or has succeeded, nothing is submitted. If that command failed, it is
    submitted again.

    Example: genretag submit --address http://head:8265 --wait tag s3://films/posters s3://films/genres

    Parameters
    ----------
    command
        tag, train, requantize, calibrate, evaluate, compact, retag or bench, with its arguments and options. Options
        of submit come before the command.
    """
    from genretag.commands.submit import submit as run

    settings = settings or SubmitSettings()
    start_logging(Session())
    code = run(command_line(app, command), settings)
    if code:
        logs.tell(f"the job ended with exit code {code}", code)
        raise SystemExit(code)


def _print_bundle(bundle: "Bundle", output: str) -> None:
    """Print the metrics, the version and the number of labels of a bundle, and its location `output`."""
    from genretag.reports.evaluation_table import print_metrics

    print_metrics(bundle.facts["metrics"])
    print(f"model {bundle.model_version} with {len(bundle.labels)} labels: {output}")  # noqa: T201

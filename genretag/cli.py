"""The `genretag` command: reads settings, calls the library, turns its errors into one line and an exit code.

Exit codes: 0 done, 1 failed and worth a retry, 2 a person must act, 3 another run holds the
output, 130 interrupted (Ctrl-C), 143 told to end (SIGTERM).
"""

import logging
import os
import sys
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, CycloptsError, Parameter

from genretag import logs, noise
from genretag.bench.settings import BenchSettings
from genretag.cli_settings import settings_sources
from genretag.compaction.settings import CompactSettings
from genretag.errors import JobError, OutputHeldError, UsageError, one_line
from genretag.evaluation.settings import EvaluateSettings
from genretag.iceberg.settings import TableSettings
from genretag.reports.gallery_settings import GallerySettings
from genretag.retagging.settings import RetagSettings
from genretag.run_id import new_run_id
from genretag.session import Session
from genretag.stopping import Terminated, end_on_sigterm, how_to_go_on
from genretag.submission.command_line import command_line, separated
from genretag.submission.settings import SubmitSettings
from genretag.tagging.settings import TagSettings
from genretag.training.recipes import DEFAULT_RECIPE
from genretag.training.settings import TrainSettings
from genretag.warehouse.settings import WarehouseSettings

EXIT_FAILED, EXIT_USAGE, EXIT_HELD, EXIT_INTERRUPTED, EXIT_TERMINATED = 1, 2, 3, 130, 143
TOP = 3  # genres that `predict` prints of each poster

logger = logging.getLogger(__name__)
app = App(
    name="genretag",
    help="Tag images at scale: train a multi-label classifier, score an image bucket, query the Parquet.",
    exit_on_error=False,
    print_error=False,
    result_action="return_value",
    suppress_keyboard_interrupt=False,
    default_parameter=Parameter(negative_iterable=()),  # no --empty-slice beside --slice
)
Flat = Parameter(name="*")


@app.command
def tag(
    images: str,
    output: str,
    *,
    model: str | None = None,
    settings: Annotated[TagSettings | None, Flat] = None,
    table: Annotated[TableSettings | None, Flat] = None,
    session: Annotated[Session | None, Flat] = None,
) -> None:
    """Score all images that OUTPUT does not hold yet, and write predictions as Parquet.

    Example: genretag tag s3://films/posters s3://films/genres

    Parameters
    ----------
    images
        A folder, an s3:// prefix, or a .csv or .parquet manifest with a `uri` column.
    output
        A folder or an s3:// prefix; `predictions/`, `failures/` and `runs/` appear in it.
    model
        A model bundle; the one that ships with genretag when not given.
    """
    from genretag.other_files import other_files_in_words
    from genretag.tagging.night import tag as run

    settings, table, session = settings or TagSettings(), table or TableSettings(), session or Session()
    _start_logging(session)
    record = run(images, output, settings, session, model, table)
    print(  # noqa: T201
        f"{record.scored} posters scored, {record.failed_posters} failed, {record.already_scored} already scored, "
        f"{record.already_failed} failed before, {record.listed} listed: {record.output}/runs/{record.run_id}/run.json"
    )
    for reason, count in record.failures.items():
        print(f"  {count} x {reason}")  # noqa: T201
    if record.other_files:
        print(f"  {other_files_in_words(record.other_files)} and do not count as failed")  # noqa: T201


@app.command
def compact(
    output: str,
    *,
    settings: Annotated[CompactSettings | None, Flat] = None,
    table: Annotated[TableSettings | None, Flat] = None,
    session: Annotated[Session | None, Flat] = None,
) -> None:
    """Merge the small files of past nights into large ones, which warehouses read faster.

    Example: genretag compact s3://films/genres --before 2026-11-01

    Parameters
    ----------
    output
        What `genretag tag` wrote.
    """
    from genretag.compaction.job import compact as run

    settings, table, session = settings or CompactSettings(), table or TableSettings(), session or Session()
    _start_logging(session)
    done = run(output, settings, session, table)
    if not done.files:
        print("nothing to merge")  # noqa: T201
        return
    verb = "would become" if settings.dry_run else "became"
    nights = "1 night" if done.nights == 1 else f"{done.nights:,} nights"
    print(f"{done.files:,} files {verb} {done.merged:,} in {nights} ({done.rows:,} rows)")  # noqa: T201


@app.command
def retag(
    output: str,
    *,
    model: str | None = None,
    settings: Annotated[RetagSettings | None, Flat] = None,
    table: Annotated[TableSettings | None, Flat] = None,
    session: Annotated[Session | None, Flat] = None,
) -> None:
    """Apply another threshold profile to the probabilities that OUTPUT holds. Reads no image, starts no Ray.

    Example: genretag retag s3://films/genres --profile precise

    Parameters
    ----------
    output
        What `genretag tag` wrote.
    model
        The bundle that made the predictions; the one that ships with genretag when not given.
    """
    from genretag.retagging.job import retag as run

    settings, table, session = settings or RetagSettings(), table or TableSettings(), session or Session()
    _start_logging(session)
    done = run(output, settings, session, model, table)
    verb = "would get" if settings.dry_run else "got"
    files = f"{done.rows:,} rows in {done.files:,} files"
    print(f"{files} {verb} the profile {settings.profile}, {done.unchanged:,} rows had it already")  # noqa: T201
    if done.of_other_models:
        print(f"{done.of_other_models:,} rows of other models stay as they are")  # noqa: T201
    if done.outside_table:
        print(f"{done.outside_table:,} rows that the table has not taken yet stay as they are")  # noqa: T201


@app.command
def train(
    *,
    labels: str,
    images: str,
    output: str,
    recipe: str = DEFAULT_RECIPE,
    teacher: list[str] | None = None,
    checkpoints: str | None = None,
    resume: bool = False,
    overwrite: bool = False,
    settings: Annotated[TrainSettings | None, Flat] = None,
    session: Annotated[Session | None, Flat] = None,
) -> None:
    """Train a multi-label classifier data-parallel, and write a model bundle.

    Example: genretag train --labels films.csv --images s3://films/posters --output s3://films/models/1

    Parameters
    ----------
    labels
        A CSV: an id column, and either one column of 0 and 1 per label or one column with all labels. The log says
        how it was read.
    images
        A folder or an s3:// prefix; an image's name less its ending is its id.
    output
        Where the bundle goes: a folder or an s3:// prefix.
    recipe
        Settings under one name: tutorial, frozen, fine-tune, lite2 or large. What else you give comes before its own.
    teacher
        A bundle whose probabilities the network learns beside the labels; may be given several times.
    checkpoints
        Where workers leave checkpoints, shared by all nodes; a local temporary folder when not given.
    resume
        Go on with the run that was interrupted and left its checkpoints there.
    overwrite
        Replace a bundle that is there already.
    """
    from genretag.training.job import train as run

    settings, session = settings or TrainSettings(), session or Session()
    _start_logging(session)
    logger.info("recipe %s", recipe)
    bundle = run(
        labels,
        images,
        output,
        settings,
        session,
        teachers=teacher or (),
        checkpoints=checkpoints,
        resume=resume,
        overwrite=overwrite,
    )
    _print_metrics(bundle.facts["metrics"])
    print(f"model {bundle.model_version} with {len(bundle.labels)} labels: {output}")  # noqa: T201


@app.command
def requantize(
    model: str,
    *,
    labels: str,
    images: str,
    output: str,
    overwrite: bool = False,
    session: Annotated[Session | None, Flat] = None,
) -> None:
    """Make a bundle's int8 network anew, on the posters it was trained with; the network itself stays as it is.

    Example: genretag requantize model --labels films.csv --images posters --output model-2

    Parameters
    ----------
    model
        The model bundle: a folder or an s3:// prefix.
    labels
        The CSV that it was trained with.
    images
        The posters that it was trained with.
    output
        Where the new bundle goes: a folder or an s3:// prefix.
    overwrite
        Replace a bundle that is there already.
    """
    from genretag.training.requantizing import requantize as run

    session = session or Session()
    _start_logging(session)
    bundle = run(model, labels, images, output, session, overwrite=overwrite)
    _print_metrics(bundle.facts["metrics"])
    print(f"model {bundle.model_version} with {len(bundle.labels)} labels: {output}")  # noqa: T201


@app.command
def evaluate(
    bundle: str,
    *,
    labels: str,
    images: str,
    against: str | None = None,
    settings: Annotated[EvaluateSettings | None, Flat] = None,
    session: Annotated[Session | None, Flat] = None,
) -> None:
    """Measure a model bundle on labelled posters that it was not trained on, beside a model that never looks.

    Example: genretag evaluate model --labels films.csv --images posters --against other-model

    Parameters
    ----------
    bundle
        The model bundle: a folder or an s3:// prefix.
    labels
        A CSV, as for `train`.
    images
        A folder or an s3:// prefix; an image's name less its ending is its id.
    against
        Another bundle to compare with, on the same posters.
    """
    from genretag.evaluation.job import evaluate_with_answers as run
    from genretag.evaluation.report import print_report, to_json
    from genretag.reports.model_card import write_model_card

    settings, session = settings or EvaluateSettings(), session or Session()
    _start_logging(session)
    found, answers = run(bundle, labels, images, settings, session, against)
    print_report(found)
    if settings.json:
        settings.json.write_text(to_json(found))
    if settings.html:
        place = write_model_card(settings.html, found, answers, session.storage, with_posters=settings.posters)
        print(f"model card: {place}")  # noqa: T201


@app.command
def report(
    output: str,
    *,
    run: str | None = None,
    drift_limit: float = 0.1,
    session: Annotated[Session | None, Flat] = None,
) -> None:
    """Draw the page of a night again: what happened, what failed, and whether its genres look like those before.

    Example: genretag report s3://films/genres

    Parameters
    ----------
    output
        What `genretag tag` wrote.
    run
        Which run, by its id; the newest when not given.
    drift_limit
        The population stability index of the genres from which on the page warns.
    """
    from genretag.reports.morning_report import describe
    from genretag.reports.morning_report import report as draw

    session = session or Session()
    _start_logging(session)
    print(describe(draw(output, run, session.storage, drift_limit)))  # noqa: T201


@app.command
def gallery(
    output: str,
    *,
    settings: Annotated[GallerySettings | None, Flat] = None,
    session: Annotated[Session | None, Flat] = None,
) -> None:
    """Make a page to leaf through tagged posters, filter and sort them, and mark what is wrong.

    Example: genretag gallery s3://films/genres --genre Western --html westerns.html

    Parameters
    ----------
    output
        What `genretag tag` wrote.
    """
    from genretag.reports.gallery import describe
    from genretag.reports.gallery import gallery as draw

    settings, session = settings or GallerySettings(), session or Session()
    _start_logging(session)
    print(describe(draw(output, settings, session)))  # noqa: T201


@app.command
def bench(
    images: str | None = None,
    *,
    output: str | None = None,
    model: str | None = None,
    settings: Annotated[BenchSettings | None, Flat] = None,
    tagging: Annotated[TagSettings | None, Flat] = None,
    session: Annotated[Session | None, Flat] = None,
) -> None:
    """Measure how fast `tag` is here, beside what the machine can do at most, and say what bounds it.

    Example: genretag bench s3://films/posters --posters 10000

    Parameters
    ----------
    images
        As for `tag`; posters are drawn when not given.
    output
        Where the rows go for as long as it runs; a local temporary folder when not given.
    model
        A model bundle; the one that ships with genretag when not given.
    """
    from genretag.bench.job import bench as run
    from genretag.bench.report import print_report, to_json

    settings, tagging, session = settings or BenchSettings(), tagging or TagSettings(), session or Session()
    _start_logging(session)
    found = run(images, output, settings, tagging, session, model)
    print_report(found)
    if settings.json:
        settings.json.write_text(to_json(found))


@app.command
def submit(*command: str, settings: Annotated[SubmitSettings | None, Flat] = None) -> None:
    """Run a command on a Ray cluster, once: submitted twice, it runs once; failed, it may be submitted again.

    Example: genretag submit --address http://head:8265 --wait tag s3://films/posters s3://films/genres

    Parameters
    ----------
    command
        tag, train, evaluate, compact, retag or bench, with all that belongs to it. Options of submit come before it.
    """
    from genretag.submission.job import submit as run

    settings = settings or SubmitSettings()
    _start_logging(Session())
    code = run(command_line(app, command), settings)
    if code:
        logs.tell(f"the job ended with exit code {code}", code)
        raise SystemExit(code)


@app.command
def predict(*posters: str, model: str | None = None, session: Annotated[Session | None, Flat] = None) -> None:
    """Print the three most probable genres of a few posters.

    Example: genretag predict endgame.jpg fast.jpg

    Parameters
    ----------
    posters
        Image files or s3:// objects.
    model
        A model bundle; the one that ships with genretag when not given.
    """
    from genretag.prediction import predict as run

    session = session or Session()
    if not posters:
        raise UsageError("name at least one poster: genretag predict POSTER...")
    results = run(list(posters), session.storage, model=model, top=TOP)
    for poster, result in zip(posters, results, strict=True):
        if isinstance(result, str):
            print(f"{poster}: {result}", file=sys.stderr)  # noqa: T201
        else:
            print(f"{poster}: " + ", ".join(f"{genre} {p:.2f}" for genre, p in result))  # noqa: T201
    if any(isinstance(result, str) for result in results):
        raise SystemExit(EXIT_USAGE)


@app.command
def warehouse(
    *,
    dialect: str,
    location: str,
    output: Path | None = None,
    model: str | None = None,
    settings: Annotated[WarehouseSettings | None, Flat] = None,
    session: Annotated[Session | None, Flat] = None,
) -> None:
    """Print SQL for the warehouse: tables, views, checks and queries for what `tag` wrote with this model.

    Example: genretag warehouse --dialect athena --location s3://films/genres --output sql

    Parameters
    ----------
    dialect
        athena, bigquery, databricks (and Spark), duckdb, redshift (Spectrum), snowflake or trino.
    location
        The output of `genretag tag`, as the warehouse addresses it.
    output
        A folder for one file each, and a dbt source, instead of printing.
    model
        The model bundle whose labels are the columns; the one that ships with genretag when not given.
    """
    from genretag.warehouse.job import as_script, warehouse_files, write_files

    settings, session = settings or WarehouseSettings(), session or Session()
    files = warehouse_files(dialect, location, settings, session.storage, model)
    if output is None:
        print(as_script(files), end="")  # noqa: T201
        return
    write_files(files, output)
    print(f"{', '.join(files)}: {output}")  # noqa: T201


app.meta.suppress_keyboard_interrupt = False


@app.meta.default
def launch(
    *tokens: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)], config: Path | None = None
) -> Any:
    """Read the settings file and run the command.

    Parameters
    ----------
    config
        A TOML file with a table for each command, such as [tag]; flags and GENRETAG_* come first.
    """
    app.config = settings_sources(app, config)
    return app(separated(tokens) if tokens[:1] == ("submit",) else tokens)


def _start_logging(session: Session) -> None:
    logs.start_logging(session.quiet, session.log_format)
    new_run_id()
    if not session.verbose:
        noise.quieten()


def _print_metrics(metrics: dict[str, dict[str, dict[str, float]]]) -> None:
    from rich.console import Console
    from rich.table import Table

    columns = [(split, name) for split in metrics for name in ("null", "model")]
    table = Table("", *(f"{split}: {name}" for split, name in columns))
    for figure in metrics["test"]["model"]:
        table.add_row(figure, *(str(metrics[split][name][figure]) for split, name in columns))
    Console().print(table)


def _have_a_home() -> None:
    """Sets HOME to / for a user who has none, as Docker does: libraries (OpenVINO, Ray) ask for it and fail without."""
    if os.path.expanduser("~") == "~":  # noqa: PTH111 - Path.home raises where there is none
        os.environ["HOME"] = "/"


def main(arguments: list[str] | None = None) -> None:
    """Runs the command line (the process's own when not given) and exits with its code where it is not 0."""
    end_on_sigterm()
    _have_a_home()
    try:
        app.meta(arguments)
    except (CycloptsError, UsageError) as error:
        code, message = EXIT_USAGE, str(error)
    except JobError as error:
        code, message = EXIT_FAILED, str(error)
    except OutputHeldError as error:
        code, message = EXIT_HELD, str(error)
    except KeyboardInterrupt as stop:
        code = EXIT_TERMINATED if isinstance(stop, Terminated) else EXIT_INTERRUPTED
        message = f"stopped; {how_to_go_on(stop)}"
    else:
        return
    logs.tell(one_line(message, 2_000), code)
    raise SystemExit(code)


if __name__ == "__main__":
    main()

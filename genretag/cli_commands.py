"""Command-line options and help of the commands on images and outputs, such as `tag`, `gallery` and `warehouse`.

Each command calls a function in `commands/` or `reports/`. Large libraries are imported inside a command, so that
`--help` answers at once.
"""

from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from genretag.errors import EXIT_USAGE, UsageError, one_line
from genretag.runtime import logs
from genretag.runtime.session import Session, new_run_id
from genretag.scoring.settings import TagSettings
from genretag.settings import (
    CompactSettings,
    GallerySettings,
    Location,
    RetagSettings,
    TableSettings,
    WarehouseSettings,
)

app = App(
    name="genretag",
    help="Tag images at scale: train a multi-label classifier, score an image bucket, query the Parquet.",
    exit_on_error=False,
    print_error=False,
    result_action="return_value",
    suppress_keyboard_interrupt=False,
    default_parameter=Parameter(negative_iterable=()),  # otherwise `--slice` would bring a flag `--empty-slice`
)
Flat = Parameter(name="*")


@app.command
def tag(
    images: Location,
    output: Location,
    *,
    model: Location | None = None,
    settings: Annotated[TagSettings | None, Flat] = None,
    table: Annotated[TableSettings | None, Flat] = None,
    session: Annotated[Session | None, Flat] = None,
) -> None:
    """Score all images that have no row in OUTPUT yet, and write the predictions as Parquet.

    Example: genretag tag s3://films/posters s3://films/genres

    Parameters
    ----------
    images
        A folder, a prefix of a bucket, or a .csv or .parquet manifest with a `uri` column.
    output
        A folder or a prefix of a bucket. `tag` writes `predictions/`, `failures/` and `runs/` there.
    model
        A model bundle. Default: the bundle that ships with genretag.
    """
    from genretag.commands.tag import describe
    from genretag.commands.tag import tag as run

    settings, table, session = settings or TagSettings(), table or TableSettings(), session or Session()
    start_logging(session)
    record = run(images, output, settings, session, model, table)
    print(describe(record))  # noqa: T201


@app.command
def compact(
    output: Location,
    *,
    settings: Annotated[CompactSettings | None, Flat] = None,
    table: Annotated[TableSettings | None, Flat] = None,
    session: Annotated[Session | None, Flat] = None,
) -> None:
    """Merge the small Parquet files of past days into large files, which warehouses read faster.

    Example: genretag compact s3://films/genres --before 2026-11-01

    Parameters
    ----------
    output
        The output of `genretag tag`.
    """
    from genretag.commands.compact import compact as run
    from genretag.commands.compact import describe

    settings, table, session = settings or CompactSettings(), table or TableSettings(), session or Session()
    start_logging(session)
    done = run(output, settings, session, table)
    print(describe(done, dry_run=settings.dry_run))  # noqa: T201


@app.command
def retag(
    output: Location,
    *,
    model: Location | None = None,
    settings: Annotated[RetagSettings | None, Flat] = None,
    table: Annotated[TableSettings | None, Flat] = None,
    session: Annotated[Session | None, Flat] = None,
) -> None:
    """Apply another threshold profile to the probabilities in OUTPUT, without reading images or starting Ray.

    Example: genretag retag s3://films/genres --profile precise

    Parameters
    ----------
    output
        The output of `genretag tag`.
    model
        The bundle that made the predictions. Default: the bundle that ships with genretag.
    """
    from genretag.commands.retag import describe
    from genretag.commands.retag import retag as run

    settings, table, session = settings or RetagSettings(), table or TableSettings(), session or Session()
    start_logging(session)
    done = run(output, settings, session, model, table)
    print(describe(done, settings))  # noqa: T201


@app.command
def report(
    output: Location,
    *,
    run: str | None = None,
    drift_limit: float = 0.1,
    session: Annotated[Session | None, Flat] = None,
) -> None:
    """Draw the page of a run again: its counts, its failures, and the drift of its genres since earlier runs.

    Example: genretag report s3://films/genres

    Parameters
    ----------
    output
        The output of `genretag tag`.
    run
        Id of the run. Default: the newest run.
    drift_limit
        The page warns if the population stability index of the genres is above this limit. The index must also be
        larger than chance explains.
    """
    from genretag.reports.run_report import describe
    from genretag.reports.run_report import report as draw

    session = session or Session()
    start_logging(session)
    print(describe(draw(output, run, session.owning(output).storage, drift_limit)))  # noqa: T201


@app.command
def gallery(
    output: Location,
    *,
    settings: Annotated[GallerySettings | None, Flat] = None,
    session: Annotated[Session | None, Flat] = None,
) -> None:
    """Make a page to browse tagged posters, filter and sort them, and mark wrong genres.

    Example: genretag gallery s3://films/genres --genre Western --html westerns.html

    Parameters
    ----------
    output
        The output of `genretag tag`.
    """
    from genretag.reports.gallery import describe
    from genretag.reports.gallery import gallery as draw

    settings, session = settings or GallerySettings(), session or Session()
    start_logging(session)
    print(describe(draw(output, settings, session)))  # noqa: T201


@app.command
def predict(*posters: str, model: str | None = None, session: Annotated[Session | None, Flat] = None) -> None:
    """Print the three most probable genres of a few posters.

    Example: genretag predict endgame.jpg fast.jpg

    Parameters
    ----------
    posters
        Image files or objects of a bucket.
    model
        A model bundle. Default: the bundle that ships with genretag.
    """
    from genretag.commands.predict import predict as run
    from genretag.commands.predict import print_genres

    session = session or Session()
    if not posters:
        raise UsageError("name at least one poster: genretag predict POSTER...")
    if not print_genres(posters, run(list(posters), session.storage, model=model)):
        raise SystemExit(EXIT_USAGE)  # `print_genres` has written the reasons to the error output


@app.command
def explain(
    poster: str,
    *,
    model: Location | None = None,
    genre: str | None = None,
    output: Path = Path("explained.png"),
    session: Annotated[Session | None, Flat] = None,
) -> None:
    """Show which part of a poster supports its most probable genres, as a picture.

    Networks that `train` makes end in global pooling and one linear layer, so the parts are exact.

    Example: genretag explain endgame.jpg --output why.png

    Parameters
    ----------
    poster
        An image file or an object of a bucket.
    model
        A model bundle. Default: the bundle that ships with genretag.
    genre
        Explain this genre. Default: the three most probable ones.
    output
        The picture to write: .png, .jpg or .webp.
    """
    from genretag.commands.explain import explain as run
    from genretag.commands.explain import write_picture

    session = session or Session()
    found, picture = run(poster, session.storage, model, genre)
    write_picture(picture, output)
    print("\n".join([*(f"{one.genre} {one.probability:.2f}: {one.place}" for one in found), str(output)]))  # noqa: T201


@app.command
def similar(
    poster: str,
    output: Location,
    *,
    count: int = 10,
    model: Location | None = None,
    session: Annotated[Session | None, Flat] = None,
) -> None:
    """Print the posters of OUTPUT that are most like a poster, with their similarity from -1 to 1.

    OUTPUT must have embeddings: tag with --embeddings.

    Example: genretag similar endgame.jpg s3://films/genres

    Parameters
    ----------
    poster
        The URI or id of a poster in OUTPUT, an image file, or an object of a bucket.
    output
        The output of `genretag tag --embeddings`.
    count
        Number of posters to print.
    model
        The bundle that made the predictions, for a poster that is not in OUTPUT. Default: the bundle that ships with
        genretag.
    """
    from genretag.commands.similar import similar as run

    session = session or Session()
    for one in run(poster, output, session.storage, count=count, model=model):
        print(f"{one.similarity:.3f} {one_line(one.uri, 1000)} {', '.join(one.genres)}".rstrip())  # noqa: T201


@app.command
def duplicates(output: Location, *, least: float = 0.85, session: Annotated[Session | None, Flat] = None) -> None:
    """Print pairs of posters of OUTPUT that show the same picture, also in another size or crop.

    OUTPUT must have embeddings: tag with --embeddings. The time grows with the square of the number of posters.

    Example: genretag duplicates s3://films/genres

    Parameters
    ----------
    output
        The output of `genretag tag --embeddings`.
    least
        Similarity from which two posters are a pair, above 0 and up to 1.
    """
    from genretag.commands.duplicates import duplicates as run

    session = session or Session()
    start_logging(session)
    pairs = run(output, session, least)
    lines = [f"{one.similarity:.4f} {one_line(one.first, 1000)} {one_line(one.second, 1000)}" for one in pairs]
    print("\n".join(lines) or f"no two posters have a similarity of {least:g} or more")  # noqa: T201


@app.command
def warehouse(
    *,
    dialect: str,
    location: Location,
    output: Path | None = None,
    model: Location | None = None,
    settings: Annotated[WarehouseSettings | None, Flat] = None,
    session: Annotated[Session | None, Flat] = None,
) -> None:
    """Print SQL for a warehouse: tables, views, checks and queries for the output of `tag`.

    Example: genretag warehouse --dialect athena --location s3://films/genres --output sql

    Parameters
    ----------
    dialect
        athena, bigquery, databricks (and Spark), duckdb, redshift (Spectrum), snowflake or trino.
    location
        The output of `genretag tag`, as a URI or path that the warehouse can read.
    output
        A folder for the SQL files and a dbt source. Default: print the SQL.
    model
        The model bundle whose labels name the columns. Default: the bundle that ships with genretag.
    """
    from genretag.commands.warehouse import as_script, warehouse_files, write_files

    settings, session = settings or WarehouseSettings(), session or Session()
    files = warehouse_files(dialect, location, settings, session.storage, model)
    if output is None:
        print(as_script(files), end="")  # noqa: T201
        return
    write_files(files, output)
    print(f"{', '.join(files)}: {output}")  # noqa: T201


def start_logging(session: Session) -> None:
    """Start logging for a command, and make a new run id for its log lines.

    Without `--verbose`, most messages of the libraries are suppressed.
    """
    logs.start_logging(session.quiet, session.log_format)
    new_run_id()
    if not session.verbose:
        logs.quieten_libraries()

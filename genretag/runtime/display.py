"""The progress that a command shows: a live line on a terminal, or a plain log line every 5 s elsewhere.

A command goes through phases, one after the other. On a terminal, the running phase is a line with a bar, and a
finished phase leaves a line that stays. Log lines and everything else that Python prints appear above the live line.
"""

import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import Progress, ProgressColumn, SpinnerColumn, Task
from rich.progress_bar import ProgressBar
from rich.table import Column
from rich.text import Text

from genretag.runtime import logs
from genretag.runtime.progress import read_board
from genretag.runtime.session import Session

logger = logging.getLogger(__name__)


TERMINAL_EVERY_S, LOG_EVERY_S = 0.5, 5.0
RATE_OVER_S = 60.0  # window of the rate; an average since the start would mislead after an epoch ends or a node joins
TITLE_WIDTH, BAR_WIDTH = 12, 20


@dataclass
class _Followed:
    """A `Board` (progress actor) that the display reads, and the function that shows its values.

    `events_seen` is the number of the board's events that are logged already.
    """

    board: Any
    show: Callable[[dict[str, Any]], None]
    events_seen: int = 0


class Display:
    """The phases of one command, shown within a `with` block.

    With `--quiet`, nothing is shown. With `--verbose`, phases are log lines even on a terminal, because Ray draws its
    own bars there.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._progress: Progress | None = None
        self._task: Task | None = None
        self._followed: _Followed | None = None
        # The watcher thread and the main thread both change the display. Code that holds this lock never waits and
        # never logs. If Ctrl-C interrupts a log call, the main thread may keep the lock of `logging` for ever.
        self._lock = threading.RLock()
        self._reading = threading.Lock()  # held while a thread reads a board
        self._stopped = threading.Event()

    def __enter__(self) -> "Display":
        if not self._session.quiet:
            self._live = sys.stderr.isatty() and not logs.is_json() and not self._session.verbose
            self._progress = _on_terminal() if self._live else _unseen()
            self._progress.start()
            self._watcher = threading.Thread(target=self._watch, daemon=True)
            self._watcher.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _error: BaseException | None, _where: TracebackType | None
    ) -> None:
        if self._progress is None:
            return
        self._stopped.set()
        self._watcher.join(timeout=5)
        with self._lock:
            self._end_phase(well=kind is None)
            self._progress.stop()
            if self._live:
                self._progress.console.file.close()
            self._progress = None

    def phase(self, title: str, total: int | None = None, unit: str = "posters") -> None:
        """Begin a phase and end the previous phase. If the current phase has this title already, do nothing.

        `total` is the amount of work in `unit`, or None if the amount is unknown.
        """
        with self._lock:
            if self._progress is None or (self._task is not None and self._task.description == title):
                return
            self._end_phase(well=True)
            number = self._progress.add_task(title, total=total, unit=unit, note="", step=None)
            self._task = next(task for task in self._progress.tasks if task.id == number)

    def count(self, done: int, note: str = "", step: tuple[str, int, int] | None = None) -> None:
        """Set how much work of the current phase is done, and a note such as `3 failed`. Without a phase, do nothing.

        `step` is a part of the phase: its title, the work done and the total, such as `("epoch 2/5", 320, 5747)`. If
        `step` is given, the display shows the step's title and counts instead of the phase's. The displayed rate and
        remaining time are always those of the whole phase.
        """
        with self._lock:
            if self._progress is not None and self._task is not None:
                self._progress.update(self._task.id, completed=done, note=note, step=step)

    def advance(self, more: int) -> None:
        """Add `more` to the work done in the current phase. Without a phase, do nothing.

        The phase's note, such as `3 failed`, stays.
        """
        with self._lock:
            self.count(self.done + more, self._task.fields["note"] if self._task else "")

    @property
    def done(self) -> int:
        """The work done in the current phase; 0 without a phase."""
        with self._lock:
            return int(self._task.completed) if self._task else 0

    @contextmanager
    def following(self, board: Any, show: Callable[[dict[str, Any]], None]) -> Iterator[None]:
        """Call `show` with the values of a `Board` at intervals during the block, and once after the block.

        `board` is the handle of the `Board`, a Ray actor with the progress of a job. Each new event of the board is
        logged. With `--quiet`, the board is not read, and `show` is not called. After the block, no thread reads the
        board, because a thread that uses Ray after `ray.shutdown` would end the process.
        """
        if self._progress is None:
            yield
            return
        followed = self._followed = _Followed(board, show)
        try:
            yield
        finally:
            with self._lock:
                self._followed = None  # if the watcher is reading the board now, it drops the answer
            self._look(followed)

    def _watch(self) -> None:
        """Read the job's `Board` (progress actor) at intervals until the display ends.

        If there is no live line on a terminal, log the progress of the current phase after each read.
        """
        while not self._stopped.wait(TERMINAL_EVERY_S if self._live else LOG_EVERY_S):
            followed, task = self._followed, self._task
            if followed is not None:
                self._look(followed, followed)
            if task is not None and not self._live:
                logger.info("%s: %s", _title(task), _figures(task))

    def _look(self, at: _Followed, expected: _Followed | None = None) -> None:
        """Read the board (progress actor) of `at`, show its values and log its new events.

        `expected` is what `self._followed` must be: `at`, or None if the block of `following` has ended. If it is
        anything else before the read, do not read. If it is anything else afterwards, drop the values and the events.
        """
        with self._reading:
            if self._followed is not expected:
                return
            answer = read_board(at.board, at.events_seen)
        if answer is None:
            return
        values, events = answer
        with self._lock:
            if self._followed is not expected:
                return
            at.events_seen += len(events)
            at.show(values)
        for event in events:
            logger.info(event)

    def _end_phase(self, *, well: bool) -> None:
        """End the current phase, if there is one.

        If `well` is true (no error), the terminal keeps a line with a tick for the phase.
        """
        if self._progress is None or self._task is None:
            return
        task, self._task = self._task, None
        self._progress.stop_task(task.id)
        self._progress.remove_task(task.id)
        if well and self._live:
            task.fields["step"] = None
            line = Text.assemble(("✓ ", "green"), f"{_title(task):<{TITLE_WIDTH}} {_figures(task)}")
            self._progress.console.print(line, no_wrap=True, overflow="ellipsis")


QUIET = Display(Session(quiet=True))


def _unseen() -> Progress:
    """Return a rich `Progress` that counts and computes rates, but prints nothing."""
    return Progress(disable=True, speed_estimate_period=RATE_OVER_S)


def _on_terminal() -> Progress:
    """Return a rich `Progress` that draws the live line on the error output."""
    # a separate descriptor, because the error output is muted while libraries start
    file = open(os.dup(sys.stderr.fileno()), "w", encoding=sys.stderr.encoding, errors=sys.stderr.errors)  # noqa: PTH123, SIM115
    return Progress(
        SpinnerColumn(finished_text="[green]✓[/]"),
        _TitleColumn(table_column=Column(no_wrap=True, min_width=TITLE_WIDTH)),
        _StepBarColumn(table_column=Column(max_width=BAR_WIDTH)),
        _FiguresColumn(table_column=Column(no_wrap=True)),
        console=Console(file=file, highlight=False),
        speed_estimate_period=RATE_OVER_S,
        transient=True,
        redirect_stdout=sys.stdout.isatty(),
    )


class _TitleColumn(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(_title(task))


class _StepBarColumn(ProgressColumn):
    def render(self, task: Task) -> ProgressBar:
        done, total = _share(task)
        return ProgressBar(total, done, animation_time=task.get_time())


class _FiguresColumn(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(_figures(task))


def _title(task: Task) -> str:
    return task.fields["step"][0] if task.fields["step"] else task.description


def _share(task: Task) -> tuple[float, float | None]:
    """Return the work done and the total: of the current step, such as an epoch, or of the phase if it has no steps."""
    return task.fields["step"][1:] if task.fields["step"] else (task.completed, task.total)


def _figures(task: Task) -> str:
    """Return the figures of a phase, such as `5,200/12,000, 3 failed, 212 posters/s, 0:00:32 left`.

    Unknown figures are left out. If the remaining time is unknown or the phase has ended, the elapsed time is last.
    """
    (done, total), rate, left = _share(task), task.speed, task.time_remaining
    words = [f"{done:,.0f}/{total:,.0f}"] if total else []
    words += [task.fields["note"]] if task.fields["note"] and (total or task.stop_time is None) else []
    words += [f"{rate:,.{0 if rate >= 10 else 1}f} {task.fields['unit']}/s"] if rate else []
    if left and task.stop_time is None:
        return ", ".join([*words, f"{timedelta(seconds=int(left))} left"])
    return ", ".join([*words, str(timedelta(seconds=int(task.elapsed or 0)))])

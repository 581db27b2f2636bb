"""The terminal: live progress and tables for a person, plain lines for a file or a pipe."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, TextIO

from tinsmith.domain.errors import OutputClosedError, TinsmithError, WorldError
from tinsmith.domain.metrics import key_metrics, number

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as Bar
    from rich.progress import TaskID

LINE_EVERY = 5.0
"""Seconds between two lines of progress where nobody watches live."""
WIDE = 48
READABLE = 24
"""Columns below which text in a cell is a ribbon, and is better told below its row."""
NUMBER = 16
"""Columns that a number, or the word for one, takes at most."""
BAR_WIDTH = 52
"""Columns of a live line that are not metrics: count, bar, time gone and left."""


class Terminal:
    """Shows progress (see `ports.progress`) and tables. `with` ends the live display, also after Ctrl-C."""

    def __init__(self, console: Console | None = None) -> None:
        if console is None:
            from rich.console import Console

            console = Console(highlight=False)
        self.console = console
        console.on_broken_pipe = self._closed  # type: ignore[method-assign]
        self.directory: Path | None = None
        self._bar: Bar | None = None
        self._steps: TaskID | None = None
        self._beside: TaskID | None = None
        self._waited = ("", 0.0)
        """What is done beside the steps, and since when, or since it was last said."""
        self._first = (0, 0.0)
        self._shown_at = float("-inf")
        self._done = -1

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stop()

    def update(self, done: int, total: int | None, metrics: Mapping[str, float]) -> None:
        self._idle()
        if done <= self._done or self._done < 0:
            self._stop()
            self._first = (done, time.monotonic())
        self._done = done
        shown = "  ".join(f"{name} {number(metrics[name])}" for name in key_metrics(metrics))
        if self.console.is_terminal:
            self._live(done, total, fitting(metrics, self.console.width - BAR_WIDTH))
        elif time.monotonic() - self._shown_at >= LINE_EVERY or done == total:
            self._shown_at = time.monotonic()
            of = "" if total is None else f"/{total}"
            self.note("  ".join(part for part in (f"step {done}{of}", shown, self._left(done, total)) if part))
        if done == total:
            self._stop()

    def doing(self, what: str, done: int = 0, total: int | None = None) -> None:
        if self.console.is_terminal:
            bar = self._made_bar()
            if self._beside is not None and self._waited[0] != what:
                bar.remove_task(self._beside)
                self._beside = None
            if self._beside is None:
                self._beside = bar.add_task("", total=total, completed=done, shown=what)
                self._waited = (what, time.monotonic())
            bar.update(self._beside, completed=done, total=total)
            return
        now = time.monotonic()
        if self._waited[0] != what:
            self._waited = (what, now)
        elif now - self._waited[1] >= LINE_EVERY and total is not None:
            self._waited = (what, now)
            self.note(f"{what}  {done:,}/{total:,}")

    def _idle(self) -> None:
        """What was done beside the steps is over."""
        self._waited = ("", 0.0)
        if self._bar is not None and self._beside is not None:
            self._bar.remove_task(self._beside)
            self._beside = None
            if self._steps is None:
                self._stop()

    def note(self, text: str) -> None:
        self._print(text, markup=False, highlight=False, soft_wrap=True)

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        self._idle()
        if title:
            self.note(f"\n{title}")
        self.grid([[cell if isinstance(cell, str) else number(cell) for cell in row] for row in rows], columns)

    def run_directory(self, path: Path) -> None:
        self._idle()
        self.directory = path

    def grid(self, rows: Sequence[Sequence[str]], columns: Sequence[str] = ()) -> None:
        """Rows in columns: wrapped to the terminal, or one line a row for a file or a pipe, for grep."""
        if not self.console.is_terminal:
            for line in aligned([*([columns] if columns else []), *rows]):
                self.note(line)
            return
        from rich.padding import Padding
        from rich.table import Table
        from rich.text import Text

        whole = [*([columns] if columns else []), *rows]
        beside, folded, below = fitted(whole, self.console.width)
        if not below:
            table = Table(box=None, show_header=bool(columns), pad_edge=False, padding=(0, 2, 0, 0))
            table.header_style = "bold"
            for i in beside:
                style = "cyan" if i == 0 else ""
                table.add_column(columns[i] if columns else "", no_wrap=i != folded, overflow="fold", style=style)
            for row in rows:
                table.add_row(*(Text(cell) for cell in row))
            self._print(table)
            return
        widths = {i: max(Text(row[i]).cell_len for row in whole) + 2 for i in beside}
        for n, row in enumerate(whole):
            head = bool(columns) and n == 0
            text = Text("", style="bold" if head else "", no_wrap=True, overflow="fold")
            for i in beside:
                cell = Text(row[i], style="cyan" if i == 0 and not head else "")
                cell.pad_right(widths[i] - cell.cell_len)
                text.append_text(cell)
            text.rstrip()
            self._print(text)
            under = "" if head else "  ".join(row[i] for i in below if row[i])
            if under:
                self._print(Padding(Text(under, overflow="fold"), (0, 0, 0, 4)))

    def show(self, what: Any) -> None:
        """A text as it is, or anything that rich can draw."""
        if isinstance(what, str):
            self.note(what)
        else:
            self._print(what)

    def _print(self, *what: Any, **how: Any) -> None:
        try:
            self.console.print(*what, **how)
        except TinsmithError:
            raise
        except OSError as error:
            raise WorldError(f"standard output cannot be written: {error.strerror or error}") from error

    def _closed(self) -> NoReturn:
        """The reader of a pipe is gone. What follows goes nowhere, so that ending does not fail again."""
        self.console.quiet = True
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise OutputClosedError("nobody reads standard output any more")

    def _live(self, done: int, total: int | None, shown: str) -> None:
        bar = self._made_bar()
        if self._steps is None:
            self._steps = bar.add_task("", total=total, completed=done, shown=shown)
        bar.update(self._steps, completed=done, total=total, shown=shown)

    def _made_bar(self) -> Bar:
        if self._bar is None:
            from rich import progress
            from rich.table import Column

            self._bar = progress.Progress(
                progress.MofNCompleteColumn(),
                progress.BarColumn(bar_width=20),
                progress.TextColumn("{task.fields[shown]}", markup=False, table_column=Column(no_wrap=True)),
                progress.TimeElapsedColumn(),
                progress.TextColumn("left"),
                progress.TimeRemainingColumn(),
                console=self.console,
                refresh_per_second=4,
            )
            self._bar.start()
        return self._bar

    def _left(self, done: int, total: int | None) -> str:
        steps, seconds = done - self._first[0], time.monotonic() - self._first[1]
        if total is None or steps <= 0 or done >= total:
            return ""
        return f"{duration(seconds / steps * (total - done))} left"

    def _stop(self) -> None:
        if self._bar is not None:
            if self._beside is not None:
                self._bar.remove_task(self._beside)  # it leaves no line behind
            self._bar.live.transient = self._steps is None
            self._bar.stop()
            self._bar = self._steps = self._beside = None


def fitting(metrics: Mapping[str, float], width: int) -> str:
    """As many key metrics as fit, under short names; one at least."""
    line = ""
    for name in key_metrics(metrics):
        short = name.removeprefix("env/all/").removeprefix("optim/").removesuffix("/total")
        longer = f"{line}  {short} {number(metrics[name])}".strip()
        if line and len(longer) > width:
            break
        line = longer
    return line


def duration(seconds: float) -> str:
    """E.g. "0:42", "1:02:03"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """The rows as lines, each column as wide as its widest cell; a cell wider than WIDE moves its own line alone."""
    widths = [0] * max(map(len, rows), default=0)
    for row in rows:
        for i, cell in enumerate(row):
            if len(cell) <= WIDE:
                widths[i] = max(widths[i], len(cell))
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)).rstrip() for row in rows]


def fitted(rows: Sequence[Sequence[str]], width: int) -> tuple[list[int], int | None, list[int]]:
    """How a table fits a terminal: the columns side by side, the one of them that is folded (where one is), and those
    that are told below their row. The widest column gives way, in its place as long as it stays READABLE there. The
    first column, names, is never told below, and is folded only beside numbers, which are never."""
    from rich.cells import cell_len

    count = max(map(len, rows), default=0)
    widths = [max((cell_len(row[i]) for row in rows if i < len(row)), default=0) + 2 for i in range(count)]
    beside = list(range(count))
    below: list[int] = []
    while sum(widths[i] for i in beside) - 2 > width and len(beside) > 1:
        widest = max(beside[1:], key=lambda i: widths[i])
        if not below and widths[widest] <= NUMBER:
            return beside, 0, []
        if not below and width - sum(widths[i] for i in beside if i != widest) >= READABLE:
            return beside, widest, []
        beside.remove(widest)
        below.append(widest)
    return beside, None if len(beside) > 1 else 0, sorted(below)


def plain_stream(stream: TextIO) -> None:
    """Write what a stream's encoding lacks as escapes: no character in a path or a message is worth a traceback."""
    if hasattr(stream, "reconfigure"):
        stream.reconfigure(errors="backslashreplace")

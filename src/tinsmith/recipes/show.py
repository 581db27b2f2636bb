"""`tinsmith show RUN`: a run as one page of HTML."""

from __future__ import annotations

import time
import webbrowser
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from attrs import frozen

from tinsmith import bootstrap
from tinsmith.bootstrap.models import hub_name
from tinsmith.config import option
from tinsmith.domain.errors import ConfigError, TinsmithError
from tinsmith.ports.files import FileSystem, exists, write_atomic
from tinsmith.ports.progress import Progress
from tinsmith.ports.tokenizer import Tokenizer
from tinsmith.rendering.show import visible
from tinsmith.workflows.evals.reading import is_evaluation, summarize_evaluation
from tinsmith.workflows.journal.reading import summarize
from tinsmith.workflows.journal.rundir import JOURNAL
from tinsmith.workflows.show import show_run

PAGE = "show.html"


@frozen(kw_only=True)
class Config:
    run: Path = option(help="run directory, which may be running, or directory of an evaluation")
    out: Path | None = option(None, help=f"file for the page; none: {PAGE} in the run directory")
    tokenizer: str | None = option(
        None, help="spells the tokens: a path or a name on the hub; none takes the run's own, which final/ may hold"
    )
    limit_mb: int = option(512, help="megabytes of rollouts read at most; beyond, steps are left out evenly", min=1)
    open: bool = option(False, help="open the page in a browser")


def run(config: Config, ui: Progress) -> int:
    began = time.perf_counter()
    ui.doing(f"reading {config.run}")
    files = bootstrap.local_files()
    path = config.run.expanduser().absolute()
    evaluation = is_evaluation(path, files)
    settings = (summarize_evaluation if evaluation else summarize)(path, files).config
    trained = path.parent.parent.parent  # an evaluation of a run's weights lies in that run's evals/NAME/STEPS
    if evaluation and "model" not in settings and exists(files, trained / JOURNAL):
        tokenizer, why = _tokenizer(config, trained, summarize(trained, files).config)
    else:
        tokenizer, why = _tokenizer(config, path, settings)
    page = show_run(
        path,
        files,
        tokenizer=tokenizer,
        why_no_tokenizer=why,
        now=bootstrap.system_clock().now(),
        limit_bytes=config.limit_mb * 1_000_000,
    )
    out = (path / PAGE) if config.out is None else config.out.expanduser().absolute()
    _write(files, out, page.data)
    for note in page.notes:
        ui.note(visible(note))
    ui.note(
        f"{visible(str(out))}: {page.steps} {page.unit}, {page.episodes:,} episodes, {page.tokens:,} tokens; "
        f"{_size(len(page.data))} in {time.perf_counter() - began:.1f} s"
    )
    if config.open:
        webbrowser.open(out.as_uri())
    return 0


def _size(num_bytes: int) -> str:
    """E.g. "12 kB", "3.4 MB"."""
    return f"{num_bytes / 1e6:.1f} MB" if num_bytes >= 1e6 else f"{num_bytes / 1e3:.0f} kB"


def check(config: Config) -> Iterable[Any]:
    return ()


def _write(files: FileSystem, out: Path, data: bytes) -> None:
    try:
        write_atomic(files, out, data)
    except OSError as error:
        raise ConfigError(
            f"{out} cannot be written ({error.strerror or error}); out=FILE names another place"
        ) from error


def _tokenizer(config: Config, path: Path, settings: dict[str, Any]) -> tuple[Tokenizer | None, str]:
    """The tokenizer that the run used, else why there is none. What was asked for by name must be there."""
    if config.tokenizer is not None:
        return bootstrap.load_tokenizer(config.tokenizer)[0], ""
    why = ["its config names no model"]
    if (path / "final" / "tokenizer.json").is_file():
        names = [str(path / "final")]
    else:
        names = []
    for key in ("tokenizer", "model"):
        if isinstance(settings.get(key), str):
            served = key == "model" and settings.get("backend") == "tinker"
            names.append(hub_name(settings[key]) if served else settings[key])
    for name in names:
        try:
            return bootstrap.load_tokenizer(name)[0], ""
        except (TinsmithError, OSError) as error:
            why = [str(error)]
    return None, why[0]

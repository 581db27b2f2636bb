"""The page of a run. Its HTML is fixed: everything that a run says lies in blocks of base64, which are no markup and no
program, and the page's own program turns them into text nodes."""

from __future__ import annotations

import base64
import hashlib
import json
import zlib
from collections.abc import Iterable, Mapping
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from attrs import frozen

from tinsmith.domain.metrics import KEY_METRICS
from tinsmith.ports.files import FileSystem
from tinsmith.ports.tokenizer import Tokenizer
from tinsmith.workflows.evals.reading import is_evaluation, summarize_evaluation
from tinsmith.workflows.journal.reading import Reading, Summary, read_journal, summarize
from tinsmith.workflows.journal.records import (
    Checkpoint,
    Deleted,
    Finished,
    Resumed,
    Started,
    Stopped,
    metric_lines,
    to_json,
)
from tinsmith.workflows.show.episodes import Episodes, read_episodes

FORMAT = 1
STEPS = 4000
"""Points of a curve at most."""
FINAL = "final/"
_NO_NUMBERS = ("NaN", "Infinity", "-Infinity")


@frozen(kw_only=True)
class Shown:
    """A page and what is in it."""

    data: bytes
    episodes: int
    tokens: int
    steps: int
    unit: str
    """What is counted as steps."""
    notes: list[str]
    """What is wrong with the run directory, or was left out."""


def show_run(
    path: Path,
    files: FileSystem,
    *,
    tokenizer: Tokenizer | None,
    why_no_tokenizer: str = "",
    now: float,
    limit_bytes: int = 512_000_000,
) -> Shown:
    """The page of the run directory at `path`, which may be running, or of an evaluation.

    tokenizer: spells the tokens; without one their logged text and their ids are shown, and `why_no_tokenizer` is said.
    now: seconds since the epoch. limit_bytes: of rollouts read at most.
    Raises what `summarize` raises.
    """
    evaluation = is_evaluation(path, files)
    summary = summarize_evaluation(path, files) if evaluation else summarize(path, files)
    journal = Reading(records=[], all_records=[], notes=[]) if evaluation else read_journal(path, files)
    episodes = read_episodes(path, files, limit_bytes=limit_bytes, texts=tokenizer is None)
    notes = [*journal.notes, *[note for note in summary.notes if not journal.notes], *episodes.notes]
    if why_no_tokenizer and episodes.count:
        notes.append(f"tokens are shown by their ids: {why_no_tokenizer}")
    if tokenizer is not None and episodes.sample is not None:
        ids, text = episodes.sample
        if ids.max() >= tokenizer.vocab_size or tokenizer.decode(ids.tolist()) != text:
            notes.append(
                f"the tokenizer {tokenizer.name} reads these tokens otherwise than the run logged them: it is another "
                "one (tokenizer= names the right one)"
            )
    index = {
        "format": FORMAT,
        "made": now,
        "run": _about(summary),
        "notes": notes,
        "config": [[key, value] for key, value in _leaves(summary.config)],
        "checkpoints": _checkpoints(journal),
        "events": _of_evaluation(summary) if evaluation else _events(journal),
        "metrics": _columns({0: summary.metrics}, notes) if evaluation else _metrics(journal, notes),
        "episodes": _index(episodes),
        "vocabulary": _vocabulary(episodes, tokenizer),
    }
    return Shown(
        data=_html(index, [chunk.result() for chunk in episodes.chunks]),
        episodes=episodes.count,
        tokens=sum(episodes.columns["tokens"]),
        steps=summary.steps,
        unit=summary.unit,
        notes=notes,
    )


def _about(summary: Summary) -> dict[str, Any]:
    return {
        "path": str(summary.path),
        "name": summary.path.name,
        "state": summary.state,
        "reason": summary.reason,
        "recipe": summary.recipe,
        "model": summary.model,
        "steps": summary.steps,
        "total": summary.total,
        "unit": summary.unit,
        "began": summary.began,
        "changed": summary.changed,
    }


def _leaves(value: Any, key: str = "") -> Iterable[tuple[str, str]]:
    """Dotted keys with their values as JSON text."""
    if isinstance(value, Mapping) and (value or not key):
        for name, item in value.items():
            yield from _leaves(item, f"{key}.{name}" if key else str(name))
    else:
        yield key, json.dumps(value, ensure_ascii=False)


def _checkpoints(journal: Reading) -> list[list[Any]]:
    """[name, keep, step, time, bytes or None, handle] of those that are there."""
    deleted = {r.event.name for r in journal.all_records if isinstance(r.event, Deleted)}
    return [
        [e.name, e.keep, e.step, r.time, e.size, e.handle]
        for r in journal.records
        if isinstance(e := r.event, Checkpoint) and e.name not in deleted
    ]


def _events(journal: Reading) -> list[list[Any]]:
    """[time, what, step, texts] of each beginning and end."""
    out: list[list[Any]] = []
    for record in journal.all_records:
        event = record.event
        if isinstance(event, Started):
            out.append([record.time, "started", 0, []])
        elif isinstance(event, Resumed):
            where = f"from checkpoint {event.checkpoint}" if event.checkpoint else "from the beginning"
            out.append([record.time, "resumed", event.step, [where, *event.notes]])
        elif isinstance(event, Stopped | Finished):
            what = "finished" if isinstance(event, Finished) else f"stopped ({event.cause})"
            out.append([record.time, what, event.step, [event.reason]])
    return out


def _of_evaluation(summary: Summary) -> list[list[Any]]:
    said = [f"{summary.steps} problems", summary.reason]
    return [
        [summary.began, "started", 0, []],
        [summary.changed, summary.state, 0, [text for text in said if text]],
    ]


def _metrics(journal: Reading, notes: list[str]) -> dict[str, Any]:
    lines = metric_lines(journal.records)
    for step in list(lines):  # what the last step tells of the final weights ends the curve of a test
        for name in [name for name in lines[step] if name.startswith(FINAL)]:
            lines.setdefault(step + 1, {})[name.removeprefix(FINAL)] = lines[step].pop(name)
    return _columns(lines, notes)


def _columns(lines: dict[int, dict[str, Any]], notes: list[str]) -> dict[str, Any]:
    """Steps, names, and a column of values a name: numbers, the words for those that are none, None where absent."""
    steps = sorted(lines)
    if len(steps) > STEPS:
        every = -(-len(steps) // STEPS)
        notes.append(f"curves show every {every}th of {len(steps)} steps, the last, and steps with evaluations")
        usual = set(lines[steps[len(steps) // 2]])
        steps = [
            step for i, step in enumerate(steps) if i % every == 0 or step == steps[-1] or set(lines[step]) - usual
        ][-2 * STEPS :]
    names = {name: None for step in steps for name in lines[step] if name != "step"}
    columns = [[_number(lines[step].get(name)) for step in steps] for name in names]
    kept = [i for i, column in enumerate(columns) if any(value is not None for value in column)]
    listed = list(names)
    return {
        "steps": steps,
        "names": [listed[i] for i in kept],
        "values": [columns[i] for i in kept],
        "first": [name for name in KEY_METRICS if name in names],
    }


def _number(value: Any) -> Any:
    if isinstance(value, bool):
        return int(value)
    return value if isinstance(value, int | float) or value in _NO_NUMBERS else None


def _index(episodes: Episodes) -> dict[str, Any]:
    return {
        "files": episodes.files,
        "problems": list(episodes.problems),
        "tags": list(episodes.tags),
        "stops": list(episodes.stops),
        "columns": episodes.columns,
    }


def _vocabulary(episodes: Episodes, tokenizer: Tokenizer | None) -> dict[str, Any]:
    """Of the ids that occur: the bytes of each, a character a byte, and which are control tokens."""
    ids = sorted(episodes.ids)
    if tokenizer is None:
        return {"ids": ids, "bytes": None, "control": []}
    table = tokenizer.token_bytes()
    control = set(tokenizer.special_tokens.values())
    return {
        "ids": ids,
        "bytes": [table[i].decode("latin-1") if i < len(table) else "" for i in ids],
        "control": [i for i in ids if i in control],
    }


@cache
def _own(name: str) -> str:
    return (resources.files(__package__) / name).read_text(encoding="utf-8")


SCRIPTS = ("data.js", "curves.js", "episodes.js", "page.js")


def _digest(text: str) -> str:
    return "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"


def _block(name: str, data: bytes) -> bytes:
    begin = f'<script type="application/octet-stream" id="{name}">'.encode()
    return begin + base64.b64encode(data) + b"</script>\n"


def _html(index: Mapping[str, Any], chunks: Iterable[bytes]) -> bytes:
    """The bytes of the page. Only its own style and program may run, and it may load nothing."""
    style = _own("page.css")
    script = '"use strict";\n' + "\n".join(_own(name) for name in SCRIPTS)
    policy = (
        f"default-src 'none'; script-src {_digest(script)}; style-src {_digest(style)}; base-uri 'none'; "
        "form-action 'none'"
    )
    packed = zlib.compress(to_json(index).encode("utf-8", "surrogatepass"), 6)
    blocks = [("index", packed), *((f"chunk-{i}", chunk) for i, chunk in enumerate(chunks))]
    return b"".join(
        [
            b'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n',
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'.encode(),
            b'<meta name="viewport" content="width=device-width, initial-scale=1">\n',
            b'<meta name="referrer" content="no-referrer">\n<title>tinsmith show</title>\n',
            f"<style>{style}</style></head><body>\n".encode(),
            b"<noscript>This page shows its data with a program of its own: allow scripts.</noscript>\n",
            b'<main id="page"><p>opening ...</p></main>\n',
            *(_block(name, data) for name, data in blocks),
            f"<script>{script}</script></body></html>\n".encode(),
        ]
    )

"""Asking a teacher, and keeping what it answered as a file of conversations that any recipe can learn from.

Answers are kept in the order of the questions, some at a time, so that a stage that was killed goes on with the next
question; the file appears when it is complete. Each answer is fixed by (seed, question, sample) where the teacher's
sampler is.
"""

from __future__ import annotations

import json
import re
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from attrs import frozen

from tinsmith.domain.errors import ConfigError, DataError
from tinsmith.domain.messages import Conversation, Message
from tinsmith.ports.files import FileSystem, exists, make_directories, read, write_atomic
from tinsmith.ports.pending import DEADLINE_S, Pending
from tinsmith.ports.progress import Progress
from tinsmith.ports.sampler import FinishReason, Sampler, SampleResult, SamplingParams
from tinsmith.rendering import Renderer
from tinsmith.rendering.templates import as_template_sees
from tinsmith.workflows.rollout_plan import draw_seed
from tinsmith.workflows.waiting import wait

CUT, UNREADABLE, UNMATCHED = "were cut by max_tokens", "could not be read", "have no answer in the form asked for"


@frozen(kw_only=True)
class Question:
    asked: Conversation
    """What the teacher reads."""
    kept: Conversation
    """What the student reads before the answer."""


@frozen(kw_only=True)
class AskSettings:
    max_tokens: int
    temperature: float = 1.0
    samples: int = 1
    """Answers to each question."""
    seed: int = 0
    in_flight: int = 64
    """Questions asked at once."""
    extract: re.Pattern[str] | None = None
    """What of an answer is kept: the one group of its one match. An answer without exactly one is left out."""
    timeout_s: float = DEADLINE_S


@frozen(kw_only=True)
class Answers:
    """What became of the questions."""

    path: Path
    """Lines of `{"messages": [...]}`."""
    kept: int
    left_out: Mapping[str, int]
    """Answers that were not kept, by why."""


def ask(
    sampler: Sampler,
    renderer: Renderer,
    questions: Sequence[Question],
    settings: AskSettings,
    *,
    path: Path,
    of: str,
    files: FileSystem,
    progress: Progress,
) -> Answers:
    """Ask what was not asked yet, and write `path`; what was made of the same (`of`) stays. Raises DataError when there
    is no answer to learn from."""
    about, part = path.with_suffix(".json"), path.with_suffix(".part")
    found = _about(files, about, path, of)
    if found is None:
        make_directories(files, path.parent)
        done = _done(files, part, of)
        _go_on(sampler, renderer, questions, settings, part, done, files, progress)
        lines = [json.loads(line) for line in read(files, part).splitlines()[1:]]
        rows = [row for line in lines for row in line["rows"]]
        left_out = sum((Counter(line["left_out"]) for line in lines), Counter[str]())
        write_atomic(files, path, "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows).encode())
        found = Answers(path=path, kept=len(rows), left_out=left_out)
        write_atomic(files, about, json.dumps({"of": of, "kept": len(rows), "left_out": left_out}).encode() + b"\n")
        files.remove(part)
    for why, number in found.left_out.items():
        progress.note(f"{path.name}: {number} of {number + found.kept} answers {why} and were left out")
    if not found.kept:
        raise DataError("the teacher gave no answer to learn from", source=str(path))
    return found


def _about(files: FileSystem, about: Path, path: Path, of: str) -> Answers | None:
    if not (exists(files, about) and exists(files, path)):
        return None
    told = json.loads(read(files, about))
    return Answers(path=path, kept=told["kept"], left_out=told["left_out"]) if told["of"] == of else None


def _done(files: FileSystem, part: Path, of: str) -> int:
    """Questions that were answered already; what a crash tore off is cut, and answers to others are removed."""
    head = json.dumps({"of": of}).encode() + b"\n"
    if exists(files, part):
        # Of a torn line, or blocks of zeros, which JSON never holds, nothing is kept.
        before = read(files, part).partition(b"\0")[0]
        if before.startswith(head):
            whole = before[: before.rfind(b"\n") + 1]
            files.truncate(part, len(whole))
            return whole.count(b"\n") - 1
        files.remove(part)
    files.append(part, head)
    return 0


def _go_on(
    sampler: Sampler,
    renderer: Renderer,
    questions: Sequence[Question],
    settings: AskSettings,
    part: Path,
    done: int,
    files: FileSystem,
    progress: Progress,
) -> None:
    waiting: deque[tuple[Question, Any, Pending[SampleResult]]] = deque()
    asked = kept = 0

    def take() -> None:
        nonlocal kept, done
        question, prompt, pending = waiting.popleft()
        result = wait(pending, "the teacher's answer", settings.timeout_s)
        line = _line(question, prompt, result, renderer, settings)
        files.append(part, json.dumps(line, ensure_ascii=False).encode() + b"\n")
        done, kept = done + 1, kept + len(line["rows"])
        if done % settings.in_flight == 0 or done == len(questions):
            files.sync(part)
        progress.update(done, len(questions), {"answers": float(kept)})

    for asked in range(done, len(questions)):
        if len(waiting) == settings.in_flight:
            take()
        question = questions[asked]
        prompt = renderer.generation_prompt(question.asked.messages, tools=question.asked.tools).ids
        params = SamplingParams(
            max_tokens=min(settings.max_tokens, sampler.context - len(prompt)),
            temperature=settings.temperature,
            stop_ids=renderer.stop.ids,
            stop=renderer.stop.strings,
            seed=draw_seed(settings.seed, "teacher", asked),
        )
        waiting.append((question, prompt, sampler.sample(prompt, params, settings.samples)))
    while waiting:
        take()


def _line(
    question: Question, prompt: Any, result: SampleResult, renderer: Renderer, settings: AskSettings
) -> dict[str, Any]:
    rows: list[dict[str, Any]] = []
    left_out: Counter[str] = Counter()
    for completion in result.completions:
        if completion.finish is not FinishReason.STOP:
            left_out[CUT] += 1
            continue
        parsed = renderer.parse(completion.tokens, prompt=prompt, tools=question.asked.tools)
        answer = parsed.message if parsed.is_clean and not parsed.failures else None
        if answer is None or not (answer.text or answer.tool_calls):
            left_out[UNREADABLE] += 1
            continue
        if settings.extract is not None:
            matches = settings.extract.findall(answer.text)
            if len(matches) != 1 or not matches[0].strip():
                left_out[UNMATCHED] += 1
                continue
            answer = Message.assistant(matches[0].strip())
        messages = [as_template_sees(m) for m in (*question.kept.messages, answer)]
        tools = [tool.definition for tool in question.kept.tools]
        rows.append({"messages": messages, **({"tools": tools} if tools else {})})
    return {"rows": rows, "left_out": dict(left_out)}


def pattern(text: str) -> re.Pattern[str]:
    """A pattern with one group. ConfigError for another."""
    try:
        made = re.compile(text, re.DOTALL)
    except re.error as error:
        raise ConfigError(f"{text!r} is no regular expression: {error}") from error
    if made.groups != 1:
        raise ConfigError(f"{text!r} has {made.groups} groups: the one that holds the answer is needed")
    return made

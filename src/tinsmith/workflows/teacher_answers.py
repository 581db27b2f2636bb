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

from tinsmith.domain.cost import Spending, Tokens
from tinsmith.domain.errors import BudgetError, ConfigError, DataError
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
NO_ROOM = "would be to prompts that leave no room in the teacher's context"


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
    tokens: Tokens
    """What they took."""


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
    spending: Spending = Spending(),  # noqa: B008 - frozen
) -> Answers:
    """Ask what was not asked yet, and write `path`; what was made of the same (`of`) stays. Raises DataError when there
    is no answer to learn from, BudgetError where the next question would exceed the budget."""
    about, part = path.with_suffix(".json"), path.with_suffix(".part")
    found = _about(files, about, path, of)
    if found is None:
        make_directories(files, path.parent)
        done = _done(files, part, of)
        _go_on(sampler, renderer, questions, settings, part, done, files, progress, spending)
        lines = _lines(read(files, part))
        rows = [row for line in lines for row in line["rows"]]
        left_out = sum((Counter(line["left_out"]) for line in lines), Counter[str]())
        write_atomic(files, path, "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows).encode())
        told = {"of": of, "kept": len(rows), "left_out": left_out, **_tokens(lines).metrics()}
        write_atomic(files, about, json.dumps(told).encode() + b"\n")
        files.remove(part)
        found = _answers(path, told)
    for why, number in found.left_out.items():
        progress.note(f"{path.name}: {number} of {number + found.kept} answers {why} and were left out")
    if not found.kept:
        raise DataError("the teacher gave no answer to learn from", source=str(path))
    return found


def tokens_used(path: Path, files: FileSystem) -> Tokens:
    """What the answers that are kept at `path`, or on their way there, took."""
    if exists(files, path.with_suffix(".json")):
        return Tokens.of_metrics(json.loads(read(files, path.with_suffix(".json"))))
    part = path.with_suffix(".part")
    return _tokens(_lines(_sound(read(files, part)))) if exists(files, part) else Tokens()


def _about(files: FileSystem, about: Path, path: Path, of: str) -> Answers | None:
    if not (exists(files, about) and exists(files, path)):
        return None
    told = json.loads(read(files, about))
    return _answers(path, told) if told["of"] == of else None


def _answers(path: Path, told: Mapping[str, Any]) -> Answers:
    return Answers(path=path, kept=told["kept"], left_out=told["left_out"], tokens=Tokens.of_metrics(told))


def _sound(data: bytes) -> bytes:
    """The whole lines before what a crash left: a torn line, or blocks of zeros, which JSON never holds."""
    before = data.partition(b"\0")[0]
    return before[: before.rfind(b"\n") + 1]


def _lines(data: bytes) -> list[dict[str, Any]]:
    """The answered questions."""
    return [json.loads(line) for line in data.splitlines()[1:]]


def _tokens(lines: Sequence[Mapping[str, Any]]) -> Tokens:
    return sum((Tokens.of_metrics(line) for line in lines), Tokens())


def _done(files: FileSystem, part: Path, of: str) -> list[dict[str, Any]]:
    """The questions that were answered already; what a crash tore off is cut, and answers to others are removed."""
    head = json.dumps({"of": of}).encode() + b"\n"
    if exists(files, part):
        whole = _sound(read(files, part))
        if whole.startswith(head):
            files.truncate(part, len(whole))
            return _lines(whole)
        files.remove(part)
    files.append(part, head)
    return []


def _go_on(
    sampler: Sampler,
    renderer: Renderer,
    questions: Sequence[Question],
    settings: AskSettings,
    part: Path,
    before: Sequence[Mapping[str, Any]],
    files: FileSystem,
    progress: Progress,
    spending: Spending,
) -> None:
    waiting: deque[tuple[Question, Any, Pending[SampleResult] | None]] = deque()
    done, spent = len(before), _tokens(before)
    prices, budget = spending.prices, spending.budget
    dearest = max((_tokens([line]) for line in before), key=lambda t: t.prefill + t.sample, default=Tokens())

    def take() -> None:
        nonlocal done, spent, dearest
        question, prompt, pending = waiting.popleft()
        if pending is None:
            line: dict[str, Any] = {"rows": [], "left_out": {NO_ROOM: settings.samples}, **Tokens().metrics()}
        else:
            result = wait(pending, "the teacher's answer", settings.timeout_s)
            line = _line(question, prompt, result, renderer, settings)
        files.append(part, json.dumps(line, ensure_ascii=False).encode() + b"\n")
        done, used = done + 1, _tokens([line])
        spent, dearest = spent + used, max(dearest, used, key=lambda t: t.prefill + t.sample)
        if done % settings.in_flight == 0 or done == len(questions):
            files.sync(part)
        progress.doing("asking the teacher", done, len(questions))

    def after(more: int) -> float:
        """Money that is spent when so many more are answered, each like the dearest so far."""
        assert prices is not None
        return prices.cost(spent) + more * prices.cost(dearest)

    for asked in range(len(before), len(questions)):
        if len(waiting) == settings.in_flight:
            take()
        if prices is not None and budget is not None:
            while waiting and (not dearest.prefill or after(len(waiting) + 1) > budget):
                take()  # then it is known what those cost
            if after(1) > budget:
                files.sync(part)
                raise BudgetError(
                    f"stopped by its budget: {done} answers took {prices.cost(spent):.6g} of the {budget:g} that were "
                    "left. The same command with a larger budget= goes on"
                )
        question = questions[asked]
        prompt = renderer.generation_prompt(question.asked.messages, tools=question.asked.tools).ids
        room = sampler.context - len(prompt)
        if room < 1:
            waiting.append((question, prompt, None))
            continue
        params = SamplingParams(
            max_tokens=min(settings.max_tokens, room),
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
    used = Tokens(prefill=len(prompt), sample=sum(len(c.tokens) for c in result.completions))
    return {"rows": rows, "left_out": dict(left_out), **used.metrics()}


def pattern(text: str) -> re.Pattern[str]:
    """A pattern with one group. ConfigError for another."""
    try:
        made = re.compile(text, re.DOTALL)
    except re.error as error:
        raise ConfigError(f"{text!r} is no regular expression: {error}") from error
    if made.groups != 1:
        raise ConfigError(f"{text!r} has {made.groups} groups: the one that holds the answer is needed")
    return made

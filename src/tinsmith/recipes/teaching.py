"""What recipes with a teacher share: naming or training it, and the prompts that it is asked."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any, Protocol

import attrs
from attrs import frozen

from tinsmith import bootstrap
from tinsmith.bootstrap import Backend, Model
from tinsmith.config import option
from tinsmith.domain.errors import ConfigError, DataError
from tinsmith.domain.messages import Conversation
from tinsmith.envs import prompt
from tinsmith.envs.base import ProblemSource
from tinsmith.envs.problem import ProblemGroup
from tinsmith.ports.data import IndexedRows, Row
from tinsmith.ports.progress import Progress
from tinsmith.ports.sampler import Sampler
from tinsmith.recipes import chat_sl, common, costs, math_rl, small_sets
from tinsmith.recipes.common import RunConfig
from tinsmith.recipes.sources import NamedSet, Part
from tinsmith.workflows.teacher_answers import tokens_used

SETS: Mapping[str, NamedSet] = {
    **chat_sl.SETS,
    "recite": NamedSet(train=small_sets.RECITE, test_size=64),
    "sums": NamedSet(train=small_sets.SUMS, test_size=128),
}
"""Conversations whose prompts are asked, beside the problems of `math_rl`."""


@frozen(kw_only=True)
class TeacherSettings:
    """Where teachers are, and how one is trained where none is named."""

    backend: Backend | None = option(None, help="where the teachers are: embedded or tinker; none: as the student")
    base_url: str | None = option(None, help="the server of teachers with backend=tinker; none: as the student's")
    tokenizer: str | None = option(None, help="as tokenizer=, of the teachers; none: as the student's")
    max_steps: int = option(40, help="steps of a teacher that is trained first", min=1)


MADE_HERE = ("arithmetic", "recite")
"""Sources that a teacher is trained for where none is named."""


def check_teachers(
    sources: Sequence[str], teachers: Sequence[str], settings: TeacherSettings, made: Sequence[str] = MADE_HERE
) -> None:
    """Refuse what does not fit together, before anything is loaded."""
    if not sources:
        raise ConfigError("data names no source")
    if len(teachers) not in (0, 1, len(sources)):
        raise ConfigError(f"{len(teachers)} teachers for {len(sources)} sources: give one for all, or one for each")
    if teachers:
        return
    if unknown := [source for source in sources if source not in made]:
        raise ConfigError(
            f"no teacher is named, and one is trained here for {' and '.join(made)} alone: name the teacher of "
            f"{', '.join(unknown)} with teachers=MODEL"
        )
    if (settings.backend, settings.base_url, settings.tokenizer) != (None, None, None):
        raise ConfigError("teacher.backend, base_url and tokenizer are of a teacher that is named: teachers=MODEL")


@frozen(eq=False)
class Teacher:
    model: Model
    sampler: Sampler


@contextmanager
def open_teachers(
    config: Any, student: Model, sources: Sequence[str], root: Path, progress: Progress, *, scores: bool = True
) -> Iterator[list[Teacher]]:
    """The teacher of each source, the same object where it is the same. `config` is a RunConfig with `teachers` and
    `teacher`. Where none is named they are trained first, below `root`. scores: they read the student's tokens, which
    then must be theirs."""
    with ExitStack() as open_:
        if config.teachers:
            names = list(config.teachers) * (len(sources) if len(config.teachers) == 1 else 1)
            made: dict[str, Teacher] = {}
            for name in dict.fromkeys(names):
                teacher = open_other(config, config.teacher, name)
                if scores:
                    check_tokens(student, teacher)
                made[name] = Teacher(teacher, open_.enter_context(teacher.sampler()))
            yield [made[name] for name in names]
            return
        teachers = []
        for source in sources:
            progress.note(f"no teacher is named: one for {source} is trained first")
            handle = _train(source, config, root / f"teacher-{source}", progress)
            teachers.append(Teacher(student, common.open_state(open_, student, config, handle, "teacher")))
        yield teachers


def left(config: RunConfig, root: Path, *, but: Path | None = None) -> float | None:
    """What teachers trained below `root`, and their answers, left of the budget; `but`: what goes on, and counts for
    itself."""
    prices, files = costs.spending(config).prices, bootstrap.local_files()
    answers = {path.with_suffix(".jsonl") for path in root.glob("answers-*")} - {but}
    besides = 0.0 if prices is None else sum(prices.cost(tokens_used(a.absolute(), files)) for a in answers)
    trained = [path for path in sorted(root.glob("teacher-*")) if path != but]
    return costs.left(config, *trained, besides=besides)


class Elsewhere(Protocol):
    """Settings that say where another model is; None: where the student or policy is."""

    @property
    def backend(self) -> Backend | None: ...
    @property
    def base_url(self) -> str | None: ...
    @property
    def tokenizer(self) -> str | None: ...


def open_other(config: RunConfig, settings: Elsewhere, name: str) -> Model:
    """A model beside the one that is trained, on its own backend or the same."""
    backend = settings.backend or config.backend
    same = backend == config.backend
    return bootstrap.open_model(
        name,
        backend=backend,
        base_url=settings.base_url or (config.base_url if same and backend == "tinker" else None),
        tokenizer=settings.tokenizer or (config.tokenizer if same and backend == "tinker" else None),
        threads=config.threads if backend == "embedded" else None,
        timeout_s=config.timeout_s,
    )


def check_tokens(student: Model, teacher: Model) -> None:
    """Refuse a teacher that reads other tokens than the student writes: its opinion would be of another text."""
    ours, theirs = student.tokenizer.token_bytes(), teacher.tokenizer.token_bytes()
    if len(theirs) < len(ours) or theirs[: len(ours)] != ours:
        first = next((i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), len(theirs))
        raise ConfigError(
            f"{teacher.name} and {student.name} have other tokens (the first at id {first}): a teacher scores the "
            "student's own tokens, so take one of the same family"
        )


_TAUGHT = {"recite": small_sets.RECITE, "sums": small_sets.RULED_SUMS}
"""What a teacher of conversations learns first."""


def _train(source: str, config: RunConfig, path: Path, progress: Progress) -> str:
    """The handle of a teacher's last state."""
    own = {"log_path": path, "export": "none", "evals": ()}
    shared = {a.name: getattr(config, a.name) for a in attrs.fields(RunConfig)} | own
    steps = config.teacher.max_steps  # type: ignore[attr-defined]
    if (learned := _TAUGHT.get(source)) is not None:
        sets = {source: NamedSet(train=learned)}
        chats = chat_sl.Config(
            **shared, data=(source,), max_steps=steps, test_size=0, num_epochs=10, learning_rate=2e-3
        )
        return chat_sl.train(chats, progress, sets=sets)
    return math_rl.train(math_rl.Config(**shared, max_steps=steps, groups_per_batch=64, test_size=0), progress)


# Prompts


def questions_of(source: ProblemSource, rows: int | None = None) -> list[Conversation]:
    """What a source asks, in its own order."""
    asked = []
    for i in range(len(source) if rows is None else min(rows, len(source))):
        group = source[i]
        if isinstance(group, ProblemGroup):
            asked.append(Conversation(group.task.messages(group.source)))
        else:
            assert isinstance(group, prompt.PromptGroup)
            asked.append(group.prompt)
    return asked


def names_of(sources: Sequence[str]) -> list[str]:
    """A name for each source, no two alike: tags and metrics go by it."""
    short = [source.rsplit("/")[-1] for source in sources]
    return [name if short.count(name) == 1 else f"{name}-{i}" for i, name in enumerate(short)]


def is_math(source: str) -> bool:
    return source == "arithmetic" or source in math_rl.HUB


@contextmanager
def open_problems(
    config: Any, model: Model, note: Callable[[str], object], readers: Sequence[Teacher] = ()
) -> Iterator[tuple[list[ProblemSource], list[ProblemSource]]]:
    """Of each source in `config.data` what to train on, and what to test on, of those that have something. `config` is
    a RunConfig with `data`, `max_tokens`, `max_rows`, `test_size`, `too_long`. A group's first tag names its source.
    readers: of each source who is to read prompt and answer too."""
    contexts = [_shorter(config, model, reader) for reader in readers] or [(model.context, "context")] * len(
        config.data
    )
    with closing(bootstrap.open_grader()) as grader:
        train: list[ProblemSource] = []
        test: list[ProblemSource] = []
        for source, name, (context, whose) in zip(config.data, names_of(config.data), contexts, strict=True):
            if is_math(source):
                shared = {a.name: getattr(config, a.name) for a in attrs.fields(RunConfig)}
                problems = math_rl.Config(
                    **shared,
                    env=source,
                    max_tokens=config.max_tokens,
                    test_size=config.test_size,
                    too_long="raise" if config.too_long == "raise" else "skip",
                    fewshot=False,
                )
                some, held_out = math_rl.load_problems(problems, model, grader, note)
                if context < model.context:
                    room, skip = context - config.max_tokens, config.too_long != "raise"
                    some = some.within(room, skip=skip, context=whose)
                    held_out = None if held_out is None else held_out.within(room, skip=skip, context=whose)
                if config.max_rows is not None:
                    some = some.first(config.max_rows)
                train.append(some)
                test += [] if held_out is None else [held_out]
            else:
                rows, held_rows = prompt_rows(source, config, model, note, context, whose)
                made = _prompts(model, name, rows)
                train.append(prompt.RowSet(name=name, rows=rows, group=made))
                test += [prompt.RowSet(name=name, rows=held_rows, group=made)] if len(held_rows) else []
        yield train, test


def _shorter(config: Any, model: Model, reader: Teacher) -> tuple[int, str]:
    """The context of both, and how it is called."""
    context = reader.sampler.context
    if context >= model.context:
        return model.context, "context"
    if config.max_tokens >= context:
        raise ConfigError(
            f"max_tokens={config.max_tokens} leaves no room for a prompt: the teacher {reader.model.name} has a "
            f"context of {context} tokens"
        )
    return context, f"context of {context} of the teacher {reader.model.name}"


def prompt_rows(
    source: str,
    config: Any,
    model: Model,
    note: Callable[[str], object],
    context: int,
    whose: str = "context",
    *,
    sets: Mapping[str, NamedSet] = SETS,
    read: Callable[[Row, str, int], Conversation] = prompt.prompt_of,
) -> tuple[IndexedRows, IndexedRows]:
    """The rows of a source of conversations, and those set aside; all that have a prompt which leaves room for an
    answer in `context`. read: of a row, its source and its line, the longest prompt that somebody reads."""
    known = sets.get(source)
    where = source if known is None else known.train
    opened = bootstrap.open_source(where) if isinstance(where, str) else where
    room = context - config.max_tokens

    def keep(row: Row, line: int) -> str | None:
        asked = read(row, opened.name, line)
        if sum(len(m.text.encode()) + 32 for m in asked.messages) <= room:
            return None  # a token stands for a byte or more
        if len(prompt.observe(model.renderer, asked).tokens) <= room:
            return None
        if config.too_long != "raise":
            return f"have prompts of more than {room} tokens"
        raise DataError(
            f"its prompt has more than {room} tokens, which is the {whose} less max_tokens; or too_long=skip",
            source=opened.name,
            line=line,
        )

    rows = bootstrap.spool(opened, keep=keep, limit=config.max_rows)
    for why, number in rows.left_out.items():
        note(f"{opened.name}: {number} of {number + len(rows)} rows {why} and were left out")
    size = config.test_size if known is None or not known.test_size else min(config.test_size, known.test_size)
    if len(rows) <= size:
        raise ConfigError(f"{opened.name}: test_size={size} leaves nothing to train on of {len(rows)} rows")
    return Part(rows, size, len(rows)), Part(rows, 0, size)


def _prompts(model: Model, name: str, rows: IndexedRows) -> Callable[[str, Row, int], prompt.PromptGroup]:
    def group(problem: str, row: Row, line: int) -> prompt.PromptGroup:
        asked = prompt.prompt_of(row, rows.name, line)
        return prompt.PromptGroup(renderer=model.renderer, problem=problem, prompt=asked, tags=(name,))

    return group

"""sdft: self-distillation fine-tuning. A model learns demonstrations by its own samples: its teacher, the model as it
was at the start, is shown the demonstration and says what it makes of each token."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Literal

import attrs
from attrs import evolve, frozen

from tinsmith.bootstrap import Model
from tinsmith.config import option
from tinsmith.domain.distillation import check_coef
from tinsmith.domain.errors import ConfigError, DataError
from tinsmith.domain.messages import Conversation, Message
from tinsmith.envs import prompt
from tinsmith.envs.prompt import PromptGroup, RowSet
from tinsmith.ports.data import IndexedRows, Row
from tinsmith.ports.progress import Progress
from tinsmith.recipes import chat_sl, common, costs, reinforcement, small_sets, teaching
from tinsmith.recipes.common import RunConfig
from tinsmith.recipes.reinforcement import Environments, RLConfig
from tinsmith.recipes.sources import NamedSet

NAME = "sdft"

MADE_HERE = "sums"
SETS: Mapping[str, NamedSet] = {**chat_sl.SETS, MADE_HERE: NamedSet(train=small_sets.SHOWN_SUMS, test_size=256)}


@frozen(kw_only=True)
class Config(RLConfig):
    data: str = option(MADE_HERE, help="demonstrations: sums (made here), a set of conversations, a file, hf://NAME")
    template: str = option(
        small_sets.TEMPLATE, help="what the teacher reads in place of the last message: {question}, {demonstration}"
    )
    heed_steps: int = option(80, help="of sums: steps in which the model first learns to heed a demonstration", min=1)
    max_rows: int | None = option(None, help="demonstrations read at most", min=1)
    test_size: int = option(256, help="demonstrations set aside for evaluation", min=0)
    too_long: Literal["raise", "skip"] = option(
        "raise", help="what becomes of a demonstration that leaves no room for max_tokens"
    )
    kl_penalty_coef: float = option(1.0, help="weight of the teacher's opinion", min=0)
    kl_discount_factor: float = option(
        0.0, help="discount with which its opinion of a token reaches earlier ones", min=0, max=1
    )
    skip_first_tokens: int = option(
        0,
        help="tokens at the beginning of an answer that are not trained on, where a teacher speaks of what it read",
        min=0,
    )
    remove_constant_groups: bool = option(False, help="leave out groups whose attempts all earned the same")
    groups_per_batch: int = option(64, help="demonstrations a step", min=1)
    max_steps: int = option(30, help="steps: batches of rollouts", min=1)


def run(config: Config, progress: Progress) -> int:
    validate(config)
    model = common.open_model(config)
    root = config.log_path or common.default_path(NAME, config, config.data.rsplit("/")[-1])
    train, test = load(config, model, progress.note)
    with ExitStack() as open_:
        start = None
        if config.data == MADE_HERE:
            progress.note("no tiny model heeds a demonstration: first it learns to")
            start = chat_sl.train(heeding(config, root), progress, sets={"heeding": NamedSet(train=small_sets.HEEDING)})
            teacher = common.open_state(open_, model, config, start, "teacher")
        else:
            teacher = open_.enter_context(model.sampler())
        progress.note("the student learns")
        reinforcement.train(
            NAME,
            evolve(config, budget=costs.left(config, root / "heeding")),
            progress,
            model,
            train,
            test,
            root / "student",
            [("log(student / teacher) a token", "teacher_kl"), ("answers as demonstrated", "as_given")],
            start=start,
            teachers={NAME: teacher},
            reward_coef=0.0,
            skip_first_tokens=config.skip_first_tokens,
        )
    return 0


def heeding(config: Config, root: Path) -> chat_sl.Config:
    shared = {a.name: getattr(config, a.name) for a in attrs.fields(RunConfig)}
    shared |= {"log_path": root / "heeding", "export": "none", "evals": ()}
    return chat_sl.Config(
        **shared, data=("heeding",), max_steps=config.heed_steps, test_size=0, num_epochs=10, learning_rate=4e-3
    )


def load(config: Config, model: Model, note: Callable[[str], object]) -> tuple[RowSet, RowSet | None]:
    """Demonstrations to learn from, and those set aside."""
    reinforcement.check_room(config, model)

    def shown(row: Row, source: str, line: int) -> Conversation:
        return with_demonstration(config.template, *demonstrated(row, source, line))

    rows, held = teaching.prompt_rows(config.data, config, model, note, model.context, sets=SETS, read=shown)

    def made(some: IndexedRows) -> RowSet:
        def group(problem: str, row: Row, line: int) -> PromptGroup:
            asked, answer = demonstrated(row, some.name, line)
            return PromptGroup(
                renderer=model.renderer,
                problem=problem,
                prompt=asked,
                tags=(NAME,),
                given=answer,
                shown=with_demonstration(config.template, asked, answer),
            )

        return RowSet(name=config.data.rsplit("/")[-1], rows=some, group=group, seed=config.seed)

    return made(rows), made(held) if len(held) else None


def demonstrated(row: Row, source: str, line: int) -> tuple[Conversation, str]:
    """What a row asks, and the text of its answer. Raises DataError."""
    asked, answer = prompt.split_answer(row, source, line)
    if not answer or not answer[0].text.strip():
        raise DataError("does not end with an answer, which is what the teacher is shown", source=source, line=line)
    return asked, answer[0].text


def with_demonstration(template: str, asked: Conversation, answer: str) -> Conversation:
    """What the teacher reads."""
    *before, last = asked.messages
    values = {"question": last.text, "demonstration": answer}
    text = re.sub(r"\{(question|demonstration)\}", lambda found: values[found[1]], template)
    return Conversation((*before, Message(last.role, text)), asked.tools)


@contextmanager
def environments(config: Config, note: Callable[[str], object]) -> Iterator[Environments]:
    validate(config)
    model = common.open_model(config)
    yield Environments(model, *load(config, model, note))


def check(config: Config) -> Iterable[Any]:
    """What the student reads and what the teacher reads, and what the run would take; trains nothing."""
    validate(config)
    model = common.open_model(config)
    notes: list[str] = []
    train, test = load(config, model, notes.append)
    yield from notes
    group = train[0]
    assert isinstance(group, PromptGroup)
    assert group.teacher_prompt is not None
    tokens = reinforcement.first_prompt(train)
    for who, read in (("student", tokens), ("teacher", group.teacher_prompt)):
        yield f"one prompt as the {who} reads it, {len(read)} tokens:"
        yield model.tokenizer.decode(read)
    yield f"{len(train)} demonstrations, {0 if test is None else len(test)} set aside"
    if config.data == MADE_HERE:
        yield f"the model first learns to heed a demonstration, in {config.heed_steps} steps"
    yield from reinforcement.forecast(config, model, train, len(tokens), 0 if test is None else len(test))


def validate(config: Config) -> None:
    reinforcement.validate(config)
    check_coef(config.kl_penalty_coef, config.kl_discount_factor)
    if config.remove_constant_groups:
        raise ConfigError("remove_constant_groups compares rewards, and there are none here")
    if "{demonstration}" not in config.template or "{question}" not in config.template:
        raise ConfigError("template= has to hold {question} and {demonstration}, or the teacher knows no more")

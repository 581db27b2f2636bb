"""shorter: reinforcement learning by comparison, with the simplest judge there is: the shorter answer is better."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from attrs import frozen

from tinsmith import bootstrap
from tinsmith.bootstrap import Model
from tinsmith.config import option
from tinsmith.domain.errors import ConfigError
from tinsmith.envs.preference import ComparedTask, Judge, ShorterIsBetter, compared_rows
from tinsmith.envs.prompt import RowSet, split_answer
from tinsmith.ports.data import Row
from tinsmith.ports.progress import Progress
from tinsmith.recipes import chat_sl, common, reinforcement, small_sets
from tinsmith.recipes.reinforcement import Environments, RLConfig
from tinsmith.recipes.sources import NamedSet, Part

NAME = "shorter"

SETS = {**chat_sl.SETS, "small": NamedSet(train=small_sets.PROMPTS)}


@frozen(kw_only=True)
class ComparedConfig(RLConfig):
    """Options of recipes that pay answers by comparison."""

    data: str = option(
        "small", help="conversations whose prompts are answered: small (made here), a set, a file, hf://NAME"
    )
    max_rows: int | None = option(None, help="rows read at most", min=1)
    test_size: int = option(64, help="prompts set aside for evaluation", min=0)
    matchup_size: int = option(4, help="members of a group that meet each other", min=2)
    both_ways: bool = option(True, help="compare each pair in both orders")
    format_coef: float = option(1.0, help="what an answer that does not end loses", min=0)
    groups_per_batch: int = option(32, help="prompts a step", min=1)
    max_steps: int = option(20, help="steps: batches of rollouts", min=1)
    max_tokens: int = option(48, help="tokens an answer may have", min=1)
    learning_rate: float = option(1e-3, help="peak learning rate", exclusive_min=0)


@frozen(kw_only=True)
class Config(ComparedConfig):
    """All options are shared."""


def run(config: Config, progress: Progress) -> int:
    with environments(config, progress.note) as envs:
        path = config.log_path or common.default_path(NAME, config, config.data.rsplit("/")[-1])
        lines = (("characters of an answer", "answer_chars"), ("answers that end", "format"))
        reinforcement.train(NAME, config, progress, envs.model, envs.train, envs.test, path, lines)
    return 0


@contextmanager
def environments(config: Config, note: Callable[[str], object]) -> Iterator[Environments]:
    reinforcement.validate(config)
    model = common.open_model(config)
    yield Environments(model, *load_prompts(config, model, ShorterIsBetter()))


def check(config: Config) -> Iterable[Any]:
    """One prompt, and what the run would take; trains nothing."""
    reinforcement.validate(config)
    model = common.open_model(config)
    prompts, test = load_prompts(config, model, ShorterIsBetter())
    prompt = reinforcement.first_prompt(prompts)
    yield f"one prompt, {len(prompt)} tokens; of the policy's own answers to it the shorter one is better:"
    yield model.tokenizer.decode(prompt)
    num_tests = 0 if test is None else len(test)
    yield f"{len(prompts)} prompts, {num_tests} test prompts"
    yield from reinforcement.forecast(config, model, prompts, len(prompt), num_tests)


def load_prompts(
    config: ComparedConfig,
    model: Model,
    judge: Judge,
    sets: Mapping[str, NamedSet] = SETS,
    *,
    against_reference: bool = False,
) -> tuple[RowSet, RowSet | None]:
    """What to train on, and what to evaluate on: there, if so said, against the answers that the data give."""
    reinforcement.check_room(config, model)
    known = sets.get(config.data)
    train = config.data if known is None else known.train
    source = bootstrap.open_source(train) if isinstance(train, str) else train

    def keep(row: Row, line: int) -> None:
        split_answer(row, source.name, line)

    rows = bootstrap.spool(source, keep=keep, limit=config.max_rows)
    if len(rows) <= config.test_size:
        raise ConfigError(f"{source.name}: test_size={config.test_size} leaves nothing to train on of {len(rows)} rows")
    task = ComparedTask(
        renderer=model.renderer,
        judge=judge,
        matchup_size=config.matchup_size,
        both_ways=config.both_ways,
        format_coef=config.format_coef,
    )
    prompts = compared_rows("prompts", task, Part(rows, config.test_size, len(rows)), seed=config.seed)
    held_out = compared_rows("prompts", task, Part(rows, 0, config.test_size), against_reference=against_reference)
    for index in range(config.test_size if against_reference else 0):
        held_out[index]  # a row without an answer is told before anything is trained
    return prompts, held_out if config.test_size else None

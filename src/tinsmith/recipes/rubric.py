"""rubric: reinforcement learning by a judge that scores each answer by the items of its prompt's rubric."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Literal

import attrs
from attrs import evolve, frozen

from tinsmith import bootstrap
from tinsmith.bootstrap import Backend, Model
from tinsmith.config import option
from tinsmith.domain.errors import ConfigError, DataError
from tinsmith.domain.messages import Message
from tinsmith.domain.rubrics import question, rubric_from_row
from tinsmith.envs import prompt
from tinsmith.envs.rubric import Bound, ProbabilityJudge, RubricGroup, RubricJudge, RubricTask, TextJudge
from tinsmith.ports.data import Row
from tinsmith.ports.progress import Progress
from tinsmith.ports.sampler import Sampler
from tinsmith.recipes import chat_sl, common, costs, reinforcement, small_sets, teaching
from tinsmith.recipes.reinforcement import Environments, RLConfig
from tinsmith.recipes.sources import NamedSet, Part
from tinsmith.rendering import Renderer
from tinsmith.workflows.metering import Meter
from tinsmith.workflows.settings import FailureSettings

NAME = "rubric"


@frozen(kw_only=True)
class JudgeSettings:
    """Who judges, and how a verdict is had."""

    model: str | None = option(None, help="the judge, as model=; none: one that is trained first, for data=small")
    backend: Backend | None = option(None, help="where the judge is: embedded or tinker; none: as the policy")
    base_url: str | None = option(None, help="its server with backend=tinker; none: as the policy's")
    tokenizer: str | None = option(None, help="as tokenizer=, of the judge; none: as the policy's")
    reads: Literal["text", "probability"] | None = option(
        None,
        help="the score that it writes, or its probability of yes; none: text; of a judge trained here probability",
    )
    max_tokens: int = option(256, help="tokens that it may write for an item", min=1)
    temperature: float = option(1.0, help="of what it writes", min=0)
    tries: int = option(3, help="how often it is asked about an item before nothing is known", min=1)
    in_flight: int = option(64, help="questions that it is asked at once", min=1)
    max_steps: int = option(80, help="steps of a judge that is trained first", min=1)


@frozen(kw_only=True)
class Config(RLConfig):
    data: str = option("small", help="rows of convo and rubric_items: small (made here), a file, a URL, hf://NAME")
    test_data: str | None = option(None, help="rows to evaluate on; none sets test_size of the data aside")
    test_size: int = option(64, help="prompts to evaluate on, at most", min=0)
    max_rows: int | None = option(None, help="rows read at most", min=1)
    too_long: Literal["raise", "skip"] = option(
        "raise", help="what becomes of a prompt that leaves no room for max_tokens"
    )
    judge: JudgeSettings = option(factory=JudgeSettings, help="who judges")
    aggregate: Literal["mean", "sum"] = option("mean", help="what the weighted scores of the items become")
    format_coef: float = option(1.0, help="what an answer that does not end loses", min=0)
    failures: FailureSettings = option(
        factory=lambda: FailureSettings(retries=1, min_share=0.5),
        help="what becomes of an answer of which the judge gives no score, or that the world failed",
    )
    group_size: int = option(8, help="answers to each prompt", min=1)
    groups_per_batch: int = option(16, help="prompts a step", min=1)
    max_steps: int = option(20, help="steps: batches of rollouts", min=1)
    max_tokens: int = option(40, help="tokens an answer may have", min=1)
    learning_rate: float = option(1e-3, help="peak learning rate", exclusive_min=0)


def run(config: Config, progress: Progress) -> int:
    validate(config)
    model = common.open_model(config)
    root = config.log_path or common.default_path(NAME, config, config.data.rsplit("/")[-1])
    with ExitStack() as open_:
        made, renderer = judge_model(config, model, root, progress, open_)
        config = evolve(config, budget=costs.left(config, root / "judge"))
        meter = Meter(costs.spending(config))
        judge = judge_of(config, meter.sampler(made), renderer)
        problems, test = load(config, model, judge, progress.note)
        progress.note("the policy learns, paid by the judge")
        lines = [("score by the rubric", "score"), ("answers that end", "format"), ("reward", "reward/total")]
        reinforcement.train(NAME, config, progress, model, problems, test, root / "policy", lines, meter=meter)
    return 0


@contextmanager
def environments(config: Config, note: Callable[[str], object]) -> Iterator[Environments]:
    """Where a judge would be trained, the start model judges: what it says is a score all the same."""
    validate(config)
    model = common.open_model(config)
    with ExitStack() as open_:
        other = model if config.judge.model is None else teaching.open_other(config, config.judge, config.judge.model)
        judge = judge_of(config, open_.enter_context(other.sampler()), other.renderer)
        yield Environments(model, *load(config, model, judge, note))


def judge_model(
    config: Config, policy: Model, root: Path, progress: Progress, open_: ExitStack
) -> tuple[Sampler, Renderer]:
    """The judge, which `open_` closes; where none is named it is trained first, below `root`."""
    if config.judge.model is not None:
        model = teaching.open_other(config, config.judge, config.judge.model)
        return open_.enter_context(model.sampler()), model.renderer
    progress.note("no judge is named: one is trained first")
    handle = train_judge(config, root / "judge", progress)
    return common.open_state(open_, policy, config, handle, "judge"), policy.renderer


def reads(config: Config) -> Literal["text", "probability"]:
    return config.judge.reads or ("probability" if config.judge.model is None else "text")


def judge_of(config: Config, sampler: Sampler, renderer: Renderer) -> RubricJudge:
    settings, bound = config.judge, Bound(config.judge.in_flight)
    if reads(config) == "probability":
        return ProbabilityJudge(sampler=sampler, renderer=renderer, bound=bound)
    return TextJudge(
        sampler=sampler,
        renderer=renderer,
        bound=bound,
        max_tokens=settings.max_tokens,
        temperature=settings.temperature,
        tries=settings.tries,
        seed=config.seed,
    )


def train_judge(config: Config, path: Path, progress: Progress) -> str:
    """The handle of the last state of a judge of the small rubrics."""
    shared = {a.name: getattr(config, a.name) for a in attrs.fields(common.RunConfig)}
    shared |= {"log_path": path, "export": "none", "evals": ()}
    chats = chat_sl.Config(
        **shared, data=("judged",), max_steps=config.judge.max_steps, test_size=64, num_epochs=9, learning_rate=2e-3
    )
    return chat_sl.train(chats, progress, sets={"judged": NamedSet(train=small_sets.JUDGED)})


def load(
    config: Config, model: Model, judge: RubricJudge, note: Callable[[str], object]
) -> tuple[prompt.RowSet, prompt.RowSet | None]:
    """What to train on, and what to evaluate on."""
    reinforcement.check_room(config, model)
    task = RubricTask(renderer=model.renderer, judge=judge, aggregate=config.aggregate, format_coef=config.format_coef)
    room = model.context - config.max_tokens

    def read(where: str, limit: int | None) -> Any:
        source = small_sets.RUBRICS if where == "small" else bootstrap.open_source(where)

        def keep(row: Row, line: int) -> str | None:
            asked = rubric_from_row(row, source=source.name, line=line).prompt
            if (length := len(prompt.observe(model.renderer, asked).tokens)) <= room:
                return None
            if config.too_long == "skip":
                return f"have prompts of more than {room} tokens"
            raise DataError(
                f"its prompt has {length} tokens, context less max_tokens leaves {room}; or too_long=skip",
                source=source.name,
                line=line,
            )

        rows = bootstrap.spool(source, keep=keep, limit=limit)
        for why, number in rows.left_out.items():
            note(f"{source.name}: {number} of {number + len(rows)} rows {why} and were left out")
        return rows

    def made(rows: Any, seed: int | None) -> prompt.RowSet:
        def group(problem: str, row: Row, line: int) -> RubricGroup:
            whole = rubric_from_row(row, source=rows.name, line=line)
            return RubricGroup(task=task, problem=problem, row=whole, tags=("rubric",))

        return prompt.RowSet(name="rubric", rows=rows, group=group, seed=seed)

    rows = read(config.data, config.max_rows)
    if config.test_data is not None:
        if not len(rows):
            raise DataError("there is nothing in it to learn from", source=rows.name)
        return made(rows, config.seed), made(read(config.test_data, config.test_size or None), None)
    if len(rows) <= config.test_size:
        raise ConfigError(f"{rows.name}: test_size={config.test_size} leaves nothing to train on of {len(rows)} rows")
    held_out = made(Part(rows, 0, config.test_size), None) if config.test_size else None
    return made(Part(rows, config.test_size, len(rows)), config.seed), held_out


def check(config: Config) -> Iterable[Any]:
    """One prompt and what the judge is asked of an answer to it, and what the run would take; trains nothing."""
    validate(config)
    model = common.open_model(config)
    notes: list[str] = []
    problems, test = load(config, model, _Nobody(), notes.append)
    yield from notes
    group = problems[0]
    assert isinstance(group, RubricGroup)
    tokens = prompt.observe(model.renderer, group.row.prompt).tokens
    yield f"one prompt, {len(tokens)} tokens; the policy's own answers to it are trained:"
    yield model.tokenizer.decode(tokens)
    yield f"of each answer the judge is asked, for {len(group.row.items)} items:"
    yield question(group.row.prompt, Message.assistant("..."), group.row.items[0], reads(config)).text
    yield f"{len(problems)} prompts, {0 if test is None else len(test)} test prompts"
    if config.judge.model is None:
        yield f"a judge is trained first, in {config.judge.max_steps} steps"
    yield (
        f"{config.max_steps} steps of {config.groups_per_batch} prompts, {config.group_size} answers each, of at most "
        f"{config.max_tokens} tokens; the judge's tokens are not counted"
    )


class _Nobody:
    async def judge(self, *_: object) -> Any:
        raise NotImplementedError


def validate(config: Config) -> None:
    reinforcement.validate(config)
    settings = config.judge
    if settings.model is not None:
        return
    if config.data != "small":
        raise ConfigError("a judge is trained here for data=small alone: name one with judge.model=MODEL")
    if settings.reads == "text":
        raise ConfigError("judge.reads=text: the judge trained here gives a probability; judge.model= names another")
    if (settings.backend, settings.base_url, settings.tokenizer) != (None, None, None):
        raise ConfigError("judge.backend, base_url and tokenizer are of a judge that is named: judge.model=MODEL")

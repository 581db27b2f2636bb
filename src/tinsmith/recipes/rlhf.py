"""rlhf: fine-tune on chats, train a judge on preferences, then learn by reinforcement what the judge prefers."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import attrs
from attrs import evolve, frozen

from tinsmith.config import option
from tinsmith.envs.preference import ModelJudge
from tinsmith.ports.progress import Progress
from tinsmith.recipes import chat_sl, common, costs, reinforcement, reward_model
from tinsmith.recipes.chat_sl import SETS
from tinsmith.recipes.shorter import ComparedConfig, load_prompts
from tinsmith.workflows.metering import Meter

NAME = "rlhf"


@frozen(kw_only=True)
class StageSettings:
    """A stage of supervised learning."""

    max_steps: int | None = option(None, help="optimizer steps at most", min=1)
    batch_size: int = option(32, help="examples an optimizer step", min=1)
    learning_rate: float = option(2e-3, help="peak learning rate", exclusive_min=0)


@frozen(kw_only=True)
class Config(ComparedConfig):
    """What stands at the top is of the third stage, and what every run has (model, seed, adapters, ...) of all."""

    data: str = option(
        "mixed", help="conversations of the first and third stage: mixed (made here), a set, file, hf://NAME"
    )
    preferences: str = option("small", help="pairs of the second stage: small (made here), a set, a file, hf://NAME")
    sft: StageSettings = option(factory=StageSettings, help="the first stage: fine-tuning on the conversations")
    judge: StageSettings = option(factory=StageSettings, help="the second stage: the judge, from the start model")
    max_tokens: int = option(24, help="tokens an answer may have", min=1)


def run(config: Config, progress: Progress) -> int:
    validate(config)
    root = config.log_path or common.default_path(NAME, config, config.data.rsplit("/")[-1])
    chats, pairs = _stages(config, root)
    sft, judged = root / "sft", root / "judge"
    progress.note("stage 1 of 3: fine-tuning on conversations")
    start = chat_sl.train(chats, progress)
    progress.note("stage 2 of 3: a judge of answers")
    progress.doing("loading")
    verdicts = reward_model.train(evolve(pairs, budget=costs.left(config, sft)), progress)
    progress.note("stage 3 of 3: reinforcement learning, paid by the judge")
    progress.doing("loading")
    config = evolve(config, budget=costs.left(config, sft, judged))
    model = common.open_model(config)
    with ExitStack() as open_:
        meter = Meter(costs.spending(config))
        judging = meter.sampler(common.open_state(open_, model, config, verdicts, "judge"))
        judge = ModelJudge(judging, model.renderer)
        prompts, test = load_prompts(config, model, judge, SETS, against_reference=True)
        lines = (
            ("won against the answers given", "reward/total"),
            ("its standard error", "reward/stderr"),
            ("characters of an answer", "answer_chars"),
        )
        reinforcement.train(NAME, config, progress, model, prompts, test, root / "rl", lines, start=start, meter=meter)
    return 0


def check(config: Config) -> Iterable[Any]:
    """What each of the first two stages would do, and the third one's options; trains nothing."""
    validate(config)
    chats, pairs = _stages(config, Path("unused"))
    yield "stage 1 of 3: fine-tuning on conversations"
    yield from chat_sl.check(chats)
    yield "stage 2 of 3: a judge of answers"
    yield from reward_model.check(pairs)
    yield (
        f"stage 3 of 3: {config.max_steps} steps of {config.groups_per_batch} prompts with {config.group_size} answers "
        f"each, of at most {config.max_tokens} tokens"
    )


def validate(config: Config) -> None:
    reinforcement.validate(config)


def _stages(config: Config, root: Path) -> tuple[chat_sl.Config, reward_model.Config]:
    shared = {a.name: getattr(config, a.name) for a in attrs.fields(common.RunConfig)}
    shared |= {"export": "none", "max_rows": config.max_rows}
    chats = {**shared, **attrs.asdict(config.sft, recurse=False), "log_path": root / "sft"}
    pairs = {**shared, **attrs.asdict(config.judge, recurse=False), "log_path": root / "judge", "evals": ()}
    return (
        chat_sl.Config(**chats, data=(config.data,), test_size=config.test_size),
        reward_model.Config(**pairs, data=(config.preferences,), test_size=config.test_size),
    )

"""The recipes: a table of names, so that listing them imports none.

A recipe is a module with a `Config` (an attrs class of options), `run(config, ui)` and `check(config)`.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from typing import Any, NamedTuple, Protocol, cast

from tinsmith.ports.progress import Progress


class Entry(NamedTuple):
    module: str
    summary: str
    """What it does, in a line."""
    argument: str = ""
    """The option that a first word without `=` is the value of."""


class Recipe(Protocol):
    """What the module of a recipe has."""

    Config: type

    def run(self, config: Any, ui: Progress) -> int | None:
        """Do the job; None and 0 are success, other numbers the exit code."""
        ...

    def check(self, config: Any) -> Iterable[Any]:
        """Say what `run` would do, without training: texts or rich renderables. Raises what `run` would raise early."""
        ...


RECIPES: dict[str, Entry] = {
    "sl-basic": Entry("tinsmith.recipes.sl_basic", "supervised fine-tuning on conversations"),
    "rl-basic": Entry("tinsmith.recipes.rl_basic", "reinforcement learning on sums, to begin with, or GSM8K or MATH"),
    "chat-sl": Entry("tinsmith.recipes.chat_sl", "supervised fine-tuning on chats of several sources, streamed"),
    "dpo": Entry("tinsmith.recipes.dpo", "direct preference optimisation on pairs of answers"),
    "reward-model": Entry("tinsmith.recipes.reward_model", "a judge of answers, trained to label comparisons"),
    "rlhf": Entry("tinsmith.recipes.rlhf", "chats, then a judge of preferences, then reinforcement by that judge"),
    "shorter": Entry("tinsmith.recipes.shorter", "reinforcement learning by comparison: the shorter answer is better"),
    "math-rl": Entry("tinsmith.recipes.math_rl", "reinforcement learning on sums, GSM8K, MATH, Polaris or DeepMath"),
    "code-rl": Entry("tinsmith.recipes.code_rl", "programming problems, whose tests decide in a sandbox"),
    "search-tool": Entry("tinsmith.recipes.search_tool", "questions that are answered by searching a corpus, in turns"),
    "multiplayer": Entry("tinsmith.recipes.multiplayer", "games: against fixed opponents, or against oneself"),
    "verifiers-rl": Entry(
        "tinsmith.recipes.verifiers_rl", "reinforcement learning in an environment of the package verifiers"
    ),
    "on-policy-distillation": Entry(
        "tinsmith.recipes.on_policy_distillation", "a student learns from a teacher's opinion of its own samples"
    ),
    "multi-teacher-distillation": Entry("tinsmith.recipes.multi_teacher", "the same with a teacher for each source"),
    "off-policy-distillation": Entry(
        "tinsmith.recipes.off_policy_distillation", "a student learns a teacher's answers, or its likeliest tokens"
    ),
    "prompt-distillation": Entry(
        "tinsmith.recipes.prompt_distillation",
        "a student learns to answer without a long prompt as a teacher does with it",
    ),
    "sdft": Entry(
        "tinsmith.recipes.sdft", "a model learns demonstrations by its own samples, which itself judges when shown them"
    ),
    "rubric": Entry("tinsmith.recipes.rubric", "reinforcement learning by a judge that scores answers item by item"),
    "sl-loop": Entry("tinsmith.recipes.sl_loop", "the supervised job as one readable loop, to copy and change"),
    "rl-loop": Entry("tinsmith.recipes.rl_loop", "the RL job as one readable loop, to copy and change"),
}

WITH_ENVIRONMENTS = (
    *("rl-basic", "math-rl", "code-rl", "search-tool", "multiplayer", "verifiers-rl", "shorter"),
    *("on-policy-distillation", "multi-teacher-distillation", "sdft", "rubric"),
)
"""Recipes whose modules also have `environments(config, note)`, a context that gives what `tinsmith env` checks and
plays."""


def load_recipe(entry: Entry) -> Recipe:
    return cast(Recipe, import_module(entry.module))

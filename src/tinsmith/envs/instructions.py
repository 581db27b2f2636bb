"""Prompts whose instructions a program can check: IFEval (arXiv:2311.07911)."""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from attrs import evolve, frozen

from tinsmith.domain.episodes import Episode, StopReason
from tinsmith.domain.errors import DataError
from tinsmith.domain.messages import Conversation, Message
from tinsmith.envs.base import Action, Env, GroupBuilder, Observation, Step
from tinsmith.envs.instruction_checks import CHECKS, RELATIONS
from tinsmith.envs.prompt import observe
from tinsmith.ports.data import DatasetSource, Row
from tinsmith.ports.linguist import Linguist
from tinsmith.ports.sampler import FinishReason
from tinsmith.rendering import Renderer

_PATTERNS = ("keyword", "keywords", "forbidden_words", "section_spliter", "postscript_marker")
"""Arguments that are regular expressions."""


@frozen
class Instruction:
    kind: str
    """One of `CHECKS`."""
    arguments: Mapping[str, Any]

    def follows(self, text: str, linguist: Linguist | None) -> bool:
        return bool(text.strip()) and CHECKS[self.kind].follows(text, linguist, **self.arguments)

    def follows_loosely(self, text: str, linguist: Linguist | None) -> bool:
        """Whether the text does, or what is left of it without its first line, its last, both, or any stars."""
        lines = text.split("\n")
        kept = [text, *("\n".join(part).strip() for part in (lines[1:], lines[:-1], lines[1:-1]))]
        variants = dict.fromkeys([*kept, *(part.replace("*", "") for part in kept)])
        return any(self.follows(variant, linguist) for variant in variants)


@frozen
class Prompt:
    id: str
    text: str
    instructions: tuple[Instruction, ...]


def read_prompts(rows: DatasetSource) -> list[Prompt]:
    """Rows of google/IFEval: `prompt`, `instruction_id_list` and `kwargs`, of which those that are null are none.
    Raises DataError with the line of a row that is none."""
    prompts = []
    for line, row in enumerate(rows, 1):
        try:
            prompts.append(_prompt(row, line))
        except (KeyError, TypeError, ValueError, re.error) as error:
            why = str(error) if isinstance(error, ValueError | re.error) else f"{type(error).__name__} {error}"
            raise DataError(
                f'row needs "prompt", "instruction_id_list" and as many "kwargs": {why}', source=rows.name, line=line
            ) from None
    if not prompts:
        raise DataError("the file is empty: there is no prompt in it", source=rows.name)
    return prompts


def _prompt(row: Row, line: int) -> Prompt:
    text, kinds, given = row["prompt"], list(row["instruction_id_list"]), list(row["kwargs"])
    if not isinstance(text, str) or not text.strip() or not kinds or len(kinds) != len(given):
        raise ValueError(f"{len(kinds)} instructions and {len(given)} kwargs")
    return Prompt(f"ifeval/{row.get('key', line - 1)}", text, tuple(map(_instruction, kinds, given)))


def _instruction(kind: str, given: Mapping[str, Any]) -> Instruction:
    if kind not in CHECKS:
        raise ValueError(f"there is no instruction {kind!r}; there are {', '.join(CHECKS)}")
    arguments: dict[str, Any] = {}
    for name, of in CHECKS[kind].arguments.items():
        value = given.get(name)
        if of is int and isinstance(value, float) and value.is_integer():
            value = int(value)  # tables keep a column of numbers and nulls as floats
        if not isinstance(value, of) or isinstance(value, bool) or (of is not int and not value):
            raise ValueError(f"{kind} needs {name}, {of.__name__}, not {value!r:.40}")
        if name.endswith("relation") and value not in RELATIONS:
            raise ValueError(f"{kind}: {name} is {value!r}, not one of {', '.join(RELATIONS)}")
        patterns: list[str] = value if isinstance(value, list) else [str(value)]
        for pattern in patterns if name in _PATTERNS else ():
            re.compile(pattern)
        arguments[name] = value
    if kind == "keywords:letter_frequency" and len(arguments["letter"].strip()) != 1:
        raise ValueError(f"{kind}: letter is {arguments['letter']!r}")
    return Instruction(kind, arguments)


def needs_linguist(prompts: Sequence[Prompt]) -> bool:
    return any(CHECKS[i.kind].linguist for prompt in prompts for i in prompt.instructions)


@frozen(kw_only=True)
class InstructionTask:
    """How answers are judged: by their text without thinking, also where a limit cut it. The reward is 1 for one that
    follows every instruction to the letter (`correct`), else 0. `correct_loose` is the same loosely; `followed` and
    `followed_loose`, of `instructions`, are counts."""

    renderer: Renderer
    linguist: Linguist | None

    def judge(self, prompt: Prompt, text: str) -> dict[str, float]:
        strict = [i.follows(text, self.linguist) for i in prompt.instructions]
        loose = [
            one or i.follows_loosely(text, self.linguist) for one, i in zip(strict, prompt.instructions, strict=True)
        ]
        return {
            "correct": float(all(strict)),
            "correct_loose": float(all(loose)),
            "instructions": float(len(strict)),
            "followed": float(sum(strict)),
            "followed_loose": float(sum(loose)),
        }


@frozen(eq=False)
class InstructionEnv:
    """One answer to one prompt."""

    task: InstructionTask
    prompt: Prompt
    observation: Observation

    async def reset(self) -> Observation:
        return self.observation

    async def step(self, action: Action) -> Step:
        parsed = self.task.renderer.parse(action.tokens, prompt=self.observation.tokens)
        metrics = await asyncio.to_thread(self.task.judge, self.prompt, parsed.message.text)
        finished = action.finish is FinishReason.STOP
        reason = StopReason.COMPLETED if finished else StopReason.MAX_TOKENS
        return Step(reward=metrics["correct"], stop_reason=reason, metrics=metrics)

    async def close(self) -> None:
        """Nothing is held."""


@frozen(eq=False)
class InstructionGroup:
    """G answers to one prompt."""

    task: InstructionTask
    prompt: Prompt
    tags: tuple[str, ...] = ("ifeval",)
    coupled: bool = False

    @property
    def problem(self) -> str:
        return self.prompt.id

    def make(self, n: int) -> Sequence[Env]:
        observation = observe(self.task.renderer, Conversation((Message.user(self.prompt.text),)))
        return [InstructionEnv(self.task, self.prompt, observation) for _ in range(n)]

    async def grade(self, episodes: Sequence[Episode]) -> Sequence[float]:
        return [0.0] * len(episodes)


@frozen(eq=False)
class InstructionSet:
    """Prompts in their own order."""

    task: InstructionTask
    prompts: Sequence[Prompt]
    name: str = "ifeval"

    @property
    def fingerprint(self) -> str:
        said = repr([(p.text, [(i.kind, sorted(i.arguments.items())) for i in p.instructions]) for p in self.prompts])
        return hashlib.blake2b(said.encode(), digest_size=16).hexdigest()

    def __len__(self) -> int:
        return len(self.prompts)

    def __getitem__(self, index: int) -> GroupBuilder:
        return InstructionGroup(self.task, self.prompts[index])

    def first(self, count: int) -> InstructionSet:
        return evolve(self, prompts=self.prompts[:count])

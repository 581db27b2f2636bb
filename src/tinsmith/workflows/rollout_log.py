"""Rollouts as lines of JSON that read back to the same groups."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from tinsmith.domain.datums import Batch
from tinsmith.domain.episodes import Episode, Group, StopReason, Transition
from tinsmith.domain.errors import DataError
from tinsmith.domain.tokens import Floats, Ints

VERSION = 1


def to_rows(
    groups: Sequence[Group],
    *,
    split: str,
    decode: Callable[[Ints], str],
    trained: tuple[Sequence[Group], Batch | None] | None = None,
) -> list[dict[str, Any]]:
    """One row an episode, in JSON types: tokens and logprobs exact, the texts beside them for people.

    trained: the groups that were trained, in the order of `groups`, and the batch that `assemble` made of them (None
        where nothing was). Each turn then also has the `advantages` and `weights` of its action: a list with a number a
        token, or one number for them all; 0 where the group was left out.
    """
    columns = None if trained is None else _Columns(*trained)
    rows = []
    for g, group in enumerate(groups):
        if columns is not None:
            columns.enter(group)
        for e, episode in enumerate(group.episodes):
            record = {
                "version": VERSION,
                "split": split,
                "group": g,
                "episode": e,
                "problem": group.problem,
                "tags": list(group.tags),
                "reward": episode.reward,
                "final_reward": episode.final_reward,
                "stop_reason": episode.stop_reason.value,
                "metrics": dict(episode.metrics),
                "turns": [
                    {
                        "observation": t.observation.tolist(),
                        "action": t.action.tolist(),
                        "logprobs": [float(v) for v in t.logprobs],
                        "reward": t.reward,
                        "policy_version": t.policy_version,
                        "truncated": t.truncated,
                        "masked": t.masked,
                        "metrics": dict(t.metrics),
                        "prompt": decode(t.observation),
                        "text": decode(t.action),
                        **({} if columns is None else columns.take(len(t.action))),
                    }
                    for t in episode.transitions
                ],
            }
            rows.append(record)
    return rows


class _Columns:
    """Advantages and weights of sampled tokens, action by action, in the order in which `assemble` lays them out."""

    def __init__(self, kept: Sequence[Group], batch: Batch | None) -> None:
        none = np.zeros(0, np.float32)
        self._kept = {id(group) for group in kept}
        if batch is None:
            self._kept, self._advantages, self._weights = set(), none, none
        else:
            assert batch.advantages is not None
            self._advantages, self._weights = batch.advantages[batch.sampled], batch.weights[batch.sampled]
        self._at = 0
        self._inside = False

    def enter(self, group: Group) -> None:
        self._inside = id(group) in self._kept

    def take(self, count: int) -> dict[str, Any]:
        if not self._inside:
            return {"advantages": 0.0, "weights": 0.0}
        a, b = self._at, self._at + count
        self._at = b
        return {"advantages": _short(self._advantages[a:b]), "weights": _short(self._weights[a:b])}


def _short(values: Floats) -> float | list[float]:
    """One number where all are the same."""
    return float(values[0]) if len(values) and bool((values == values[0]).all()) else [float(v) for v in values]


def from_lines(lines: Iterable[str], *, source: str = "rollouts") -> list[Group]:
    """The groups that `to_rows` was given, from the lines of one step."""
    episodes: dict[int, list[Episode]] = {}
    heads: dict[int, dict[str, Any]] = {}
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
            turns = tuple(
                Transition(
                    observation=np.array(t["observation"], np.int32),
                    action=np.array(t["action"], np.int32),
                    logprobs=np.array(t["logprobs"], np.float32),
                    reward=t["reward"],
                    policy_version=t["policy_version"],
                    truncated=t["truncated"],
                    masked=t["masked"],
                    metrics=t["metrics"],
                )
                for t in record["turns"]
            )
            episode = Episode(
                transitions=turns,
                stop_reason=StopReason(record["stop_reason"]),
                final_reward=record["final_reward"],
                metrics=record["metrics"],
            )
            episodes.setdefault(record["group"], []).append(episode)
            heads[record["group"]] = record
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"not a rollout ({error})", source=source, line=number) from error
    return [
        Group(problem=heads[g]["problem"], episodes=tuple(members), tags=tuple(heads[g]["tags"]))
        for g, members in episodes.items()
    ]

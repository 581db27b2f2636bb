"""Rollouts as lines of JSON that read back to the same groups."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from tinsmith.domain.episodes import Episode, Group, StopReason, Transition
from tinsmith.domain.errors import DataError
from tinsmith.domain.tokens import Ints

VERSION = 1


def to_rows(groups: Sequence[Group], *, split: str, decode: Callable[[Ints], str]) -> list[dict[str, Any]]:
    """One row an episode, in JSON types: tokens and logprobs exact, the texts beside them for people."""
    rows = []
    for g, group in enumerate(groups):
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
                    }
                    for t in episode.transitions
                ],
            }
            rows.append(record)
    return rows


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

"""Metrics as sums and counts, so that a rate never drops the episodes that failed to report it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from attrs import field, frozen

from tinsmith.domain.episodes import Episode, Group, StopReason

SHOWN = 3
"""Metrics shown beside the bar."""
KEY_METRICS = (
    "env/all/correct",
    "env/all/reward/total",
    "train_mean_nll",
    "dpo_loss",
    "accuracy",
    "test/nll",
    "test/env/all/correct",
    "optim/kl_sample_train_v1",
    "optim/entropy",
    "learning_rate",
    "optim/lr",
)
"""The metrics that a person looks at first, in this order; a run without any shows its own first ones."""


@frozen
class Tally:
    """Sums by name over a stated number of cases; `mean` divides by all cases, also by those that reported nothing."""

    count: int = 0
    sums: Mapping[str, float] = field(factory=dict)

    @staticmethod
    def of(cases: Iterable[Mapping[str, float]]) -> Tally:
        sums: dict[str, float] = {}
        count = 0
        for case in cases:
            count += 1
            for name, value in case.items():
                sums[name] = sums.get(name, 0.0) + value
        return Tally(count, sums)

    def mean(self) -> dict[str, float]:
        return {name: total / self.count for name, total in self.sums.items()} if self.count else {}


def episode_metrics(groups: Sequence[Group]) -> dict[str, float]:
    """Metrics of all episodes and, under each tag, of those groups that carry it.

    Names: `env/all/reward/total`, `env/all/correct`, `env/<tag>/...`; token counts per turn; `stop/<reason>` and every
    metric of episodes and turns as a mean over *all* episodes; `by_group/frac_mixed|all_good|all_bad` over groups.
    """
    out: dict[str, float] = {}
    tags = sorted({tag for group in groups for tag in group.tags})
    chosen = {"all": list(groups), **{tag: [g for g in groups if tag in g.tags] for tag in tags}}
    for tag, members in chosen.items():
        episodes = [e for g in members for e in g.episodes]
        if not episodes:
            continue
        values = Tally.of(_episode_values(e) for e in episodes).mean()
        turns = [t for e in episodes for t in e.transitions]
        values["turns_per_episode"] = len(turns) / len(episodes)
        values["ac_tokens_per_turn"] = sum(len(t.action) for t in turns) / max(len(turns), 1)
        values["ob_tokens_per_turn"] = sum(len(t.observation) for t in turns) / max(len(turns), 1)
        values["total_episodes"] = len(episodes)
        values["total_ac_tokens"] = sum(len(t.action) for t in turns)
        for name, test in (("mixed", _mixed), ("all_good", _all_good), ("all_bad", _all_bad)):
            values[f"by_group/frac_{name}"] = sum(test(g) for g in members) / len(members)
        out.update({f"env/{tag}/{name}": float(value) for name, value in values.items()})
    return out


def _episode_values(episode: Episode) -> dict[str, float]:
    values = {f"stop/{reason.value}": float(reason is episode.stop_reason) for reason in StopReason}
    values["reward/total"] = episode.reward
    for source in (*(t.metrics for t in episode.transitions), episode.metrics):
        for name, value in source.items():
            values[name] = values.get(name, 0.0) + value
    return values


def _mixed(group: Group) -> bool:
    return not group.is_constant


def _all_good(group: Group) -> bool:
    return group.is_constant and group.rewards[0] >= 0.5


def _all_bad(group: Group) -> bool:
    return group.is_constant and group.rewards[0] < 0.5


def key_metrics(metrics: Mapping[str, Any]) -> list[str]:
    """The names of the few metrics to show."""
    names = [name for name in KEY_METRICS if name in metrics] or [n for n in metrics if not n.startswith("time/")]
    return names[:SHOWN]


def number(value: Any) -> str:
    """A number as a person reads it: 4 digits, thousands apart."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    if isinstance(value, float) and not value.is_integer():
        return f"{value:,.0f}" if 1e4 <= abs(value) < 1e15 else f"{value:.4g}"
    return f"{value:,.0f}" if abs(value) < 1e15 else f"{value:.4g}"

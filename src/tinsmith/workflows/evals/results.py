"""What an evaluation found: an outcome for each problem, and the numbers that they make."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from attrs import field, frozen

from tinsmith.domain import evaluation
from tinsmith.domain.cost import Tokens
from tinsmith.domain.episodes import Episode, Group, StopReason
from tinsmith.domain.errors import DataError
from tinsmith.domain.evaluation import Comparison, Estimate
from tinsmith.domain.metrics import Tally

VERSION = 1
DRAWS = (1, 5, 10, 25, 50, 100)
"""The k of pass@k, as far as there are attempts; the number of attempts itself is one too."""


@frozen(kw_only=True)
class Outcome:
    """All attempts at one problem."""

    problem: str
    right: tuple[bool, ...]
    rewards: tuple[float, ...]
    stops: tuple[StopReason, ...]
    sampled_tokens: int
    sums: Mapping[str, float] = field(factory=dict)
    """Of each metric that attempts report, over the attempts."""

    @staticmethod
    def of(group: Group) -> Outcome:
        values = [_metrics(episode) for episode in group.episodes]
        return Outcome(
            problem=group.problem,
            # What an environment calls correct; where it calls nothing so, the whole reward.
            right=tuple(v.get("correct", e.reward) >= 1.0 for v, e in zip(values, group.episodes, strict=True)),
            rewards=tuple(episode.reward for episode in group.episodes),
            stops=tuple(episode.stop_reason for episode in group.episodes),
            sampled_tokens=sum(len(t.action) for episode in group.episodes for t in episode.transitions),
            sums=Tally.of(values).sums,
        )

    @property
    def share(self) -> float:
        return sum(self.right) / len(self.right)


def _metrics(episode: Episode) -> dict[str, float]:
    parts = [t.metrics for t in episode.transitions] + [episode.metrics]
    return dict(Tally.of(parts).sums)


@frozen(kw_only=True)
class Results:
    """Scores are over the problems that came off; what the world failed is told apart and never a wrong answer."""

    benchmark: str
    fingerprint: str
    samples: int
    """Attempts a problem."""
    problems: int
    outcomes: Mapping[int, Outcome] = field(factory=dict)
    """By index of the problem."""
    failed: Mapping[int, Mapping[str, int]] = field(factory=dict)
    """Problems that the world failed for good, with how often by type of error. They are tried again on resume."""
    errors: Mapping[str, int] = field(factory=dict)
    """How often the world failed, by type of error, retries that came off then included."""
    seconds: float = 0.0
    used: Tokens = field(factory=Tokens)
    """Read and sampled, also by tries and for problems that failed; nothing by what was graded again."""
    lost: Tokens = field(factory=Tokens)
    """Of them, for problems that failed."""
    cost: float | None = None
    """Money for all that was used, where there are prices."""

    @property
    def attempts(self) -> int:
        return len(self.outcomes) * self.samples

    @property
    def score(self) -> Estimate | None:
        """Share of right attempts; None where no problem came off."""
        if not self.outcomes:
            return None
        return evaluation.share([o.share for o in self.outcomes.values()], self.samples)

    @property
    def score_of_all(self) -> float | None:
        """The score with each failed problem taken for wrong: what an evaluation that hides its errors would say."""
        tried = len(self.outcomes) + len(self.failed)
        return sum(o.share for o in self.outcomes.values()) / tried if tried else None

    @property
    def pass_at_k(self) -> dict[int, Estimate]:
        """For each k up to the number of attempts; empty where no problem came off."""
        if not self.outcomes:
            return {}
        draws = sorted({k for k in DRAWS if k < self.samples} | {self.samples})
        counts = [sum(o.right) for o in self.outcomes.values()]
        values = {k: [evaluation.pass_at_k(self.samples, c, k) for c in counts] for k in draws}
        return {k: evaluation.share(v, self.samples if k == 1 else 1) for k, v in values.items()}

    @property
    def reward(self) -> Estimate | None:
        if not self.outcomes:
            return None
        return evaluation.mean([sum(o.rewards) / len(o.rewards) for o in self.outcomes.values()])

    @property
    def stops(self) -> Counter[str]:
        """Attempts by stop reason."""
        return Counter(stop.value for o in self.outcomes.values() for stop in o.stops)

    @property
    def truncated(self) -> int:
        """Attempts that a limit ended."""
        return sum(stop.is_limit for o in self.outcomes.values() for stop in o.stops)

    @property
    def sampled_tokens(self) -> int:
        return sum(o.sampled_tokens for o in self.outcomes.values())

    @property
    def metrics(self) -> dict[str, float]:
        """Mean over all attempts of each metric that some report."""
        sums: Counter[str] = Counter()
        for outcome in self.outcomes.values():
            for name, value in outcome.sums.items():
                sums[name] += value  # type: ignore[assignment]
        return {name: total / self.attempts for name, total in sums.items()}

    def to_json(self) -> dict[str, Any]:
        return {
            "version": VERSION,
            "benchmark": self.benchmark,
            "fingerprint": self.fingerprint,
            "samples": self.samples,
            "problems": self.problems,
            "done": len(self.outcomes),
            "score": _json(self.score),
            "score_of_all": self.score_of_all,
            "pass_at_k": {str(k): _json(v) for k, v in self.pass_at_k.items()},
            "reward": _json(self.reward),
            "truncated": self.truncated,
            "stops": dict(self.stops),
            "metrics": self.metrics,
            "errors": dict(self.errors),
            "sampled_tokens": self.sampled_tokens,
            "seconds": self.seconds,
            "used": self.used.metrics(),
            "lost": self.lost.metrics(),
            **({} if self.cost is None else {"cost": self.cost}),
            "failed": [{"index": i, "errors": dict(e)} for i, e in sorted(self.failed.items())],
            "outcomes": [
                {
                    "index": index,
                    "problem": o.problem,
                    "right": [int(r) for r in o.right],
                    "rewards": list(o.rewards),
                    "stops": [s.value for s in o.stops],
                    "sampled_tokens": o.sampled_tokens,
                    "sums": dict(o.sums),
                }
                for index, o in sorted(self.outcomes.items())
            ],
        }

    @staticmethod
    def of_json(data: Mapping[str, Any], source: str) -> Results:
        """What `to_json` gave. Raises DataError."""
        try:
            if data["version"] != VERSION:
                raise DataError(f"version {data['version']}, this program reads {VERSION}", source=source)
            outcomes = {
                int(row["index"]): Outcome(
                    problem=row["problem"],
                    right=tuple(bool(r) for r in row["right"]),
                    rewards=tuple(float(r) for r in row["rewards"]),
                    stops=tuple(StopReason(s) for s in row["stops"]),
                    sampled_tokens=int(row["sampled_tokens"]),
                    sums=row["sums"],
                )
                for row in data["outcomes"]
            }
            return Results(
                benchmark=data["benchmark"],
                fingerprint=data["fingerprint"],
                samples=data["samples"],
                problems=data["problems"],
                outcomes=outcomes,
                failed={int(row["index"]): row["errors"] for row in data["failed"]},
                errors=data["errors"],
                seconds=data["seconds"],
                used=Tokens.of_metrics(data.get("used", {})),
                lost=Tokens.of_metrics(data.get("lost", {})),
                cost=data.get("cost"),
            )
        except DataError:
            raise
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"not the results of an evaluation ({error!r})", source=source) from error


def _json(estimate: Estimate | None) -> dict[str, float | None] | None:
    """NaN, which JSON has not, as null."""
    if estimate is None:
        return None
    parts = {"value": estimate.value, "low": estimate.low, "high": estimate.high}
    return {name: value if value == value else None for name, value in parts.items()}


def compare(first: Results, second: Results, *, seed: int = 0) -> Comparison:
    """Two evaluations over the problems that came off in both. Raises DataError where they are not of the same
    problems, or share none."""
    for name in ("benchmark", "fingerprint"):
        one, two = getattr(first, name), getattr(second, name)
        if one != two:
            raise DataError(f"not the same problems: {name} {one!r} in one evaluation and {two!r} in the other")
    both = sorted(first.outcomes.keys() & second.outcomes.keys())
    for index in both:
        a, b = first.outcomes[index].problem, second.outcomes[index].problem
        if a != b:
            raise DataError(f"not the same problems: number {index} is {a} in one evaluation and {b} in the other")
    if not both:
        raise DataError("the two evaluations have no problem in common that came off in both")
    return evaluation.compare(
        [first.outcomes[i].share for i in both], [second.outcomes[i].share for i in both], seed=seed
    )

"""What a run uses, in tokens by kind, and what that costs at a price list."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from attrs import evolve, frozen

from tinsmith.domain.errors import ConfigError

KINDS = ("prefill", "sample", "train")
MILLION = 1_000_000


@frozen(kw_only=True)
class Tokens:
    """Tokens by what is done with them."""

    prefill: float = 0
    """Read and not trained: prompts, once for all completions of a call, and forward passes."""
    sample: float = 0
    train: float = 0
    """In forward and backward passes."""

    def __add__(self, other: Tokens) -> Tokens:
        return Tokens(**{kind: getattr(self, kind) + getattr(other, kind) for kind in KINDS})

    def metrics(self) -> dict[str, float]:
        """`tokens/prefill`, `tokens/sample`, `tokens/train`."""
        return {f"tokens/{kind}": getattr(self, kind) for kind in KINDS}

    @staticmethod
    def of_metrics(metrics: Mapping[str, Any]) -> Tokens:
        return Tokens(**{kind: float(metrics.get(f"tokens/{kind}", 0)) for kind in KINDS})


@frozen(kw_only=True)
class Prices:
    """Money for a million tokens of each kind, in whatever currency the list is in."""

    prefill: float
    sample: float
    train: float

    def __attrs_post_init__(self) -> None:
        for kind in KINDS:
            value = getattr(self, kind)
            if (
                isinstance(value, bool)
                or not isinstance(value, int | float)
                or not (math.isfinite(value) and value >= 0)
            ):
                raise ConfigError(f"price of {kind}={value!r}: a number, 0 or more, for a million tokens")

    def cost(self, tokens: Tokens) -> float:
        return float(sum(getattr(self, kind) * getattr(tokens, kind) for kind in KINDS)) / MILLION

    @staticmethod
    def of(table: Mapping[str, Any], model: str, source: str) -> Prices:
        """From a table with prefill, sample and train, or with such a table a model, by name. ConfigError names
        `source`."""
        entry = table if table.keys() & set(KINDS) else table.get(model)
        if not isinstance(entry, Mapping):
            known = ", ".join(list(table)[:5]) or "none"
            raise ConfigError(f"{source}: no prices of {model!r} (it has those of {known})")
        missing, unknown = set(KINDS) - entry.keys(), entry.keys() - set(KINDS)
        if missing or unknown:
            wrong = sorted(missing) or sorted(unknown)
            raise ConfigError(
                f"{source}: prices are prefill, sample and train, {'missing' if missing else 'not'} {wrong}"
            )
        try:
            return Prices(**entry)
        except ConfigError as error:
            raise ConfigError(f"{source}: {error}") from None


@frozen(kw_only=True)
class Spending:
    """The price list and the budget of a run; None where there is none."""

    prices: Prices | None = None
    budget: float | None = None
    """Money that the run may spend in all, resumed or not."""

    def __attrs_post_init__(self) -> None:
        if self.budget is not None and self.prices is None:
            raise ConfigError(f"budget={self.budget:g} needs prices=, in the same currency")


@frozen(kw_only=True)
class Spent:
    """What a run used so far, over `steps` steps, also those that were trained again after a crash."""

    tokens: Tokens = Tokens()
    steps: int = 0

    def plus(self, tokens: Tokens) -> Spent:
        return evolve(self, tokens=self.tokens + tokens, steps=self.steps + 1)

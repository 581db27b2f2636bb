"""What a run costs, in money and in time: what it may spend, has spent, and would take."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from tinsmith import bootstrap
from tinsmith.bootstrap import LoadedModel, Model
from tinsmith.config.files import read_file
from tinsmith.domain.cost import Prices, Spending, Tokens
from tinsmith.domain.errors import BudgetError, ConfigError
from tinsmith.workflows.journal.reading import read_journal
from tinsmith.workflows.journal.records import Step
from tinsmith.workflows.settings import LoraSettings


class Priced(Protocol):
    """Options of what costs money."""

    @property
    def model(self) -> str: ...
    @property
    def prices(self) -> str | None: ...
    @property
    def budget(self) -> float | None: ...


def spending(config: Priced) -> Spending:
    """The price list and budget. ConfigError for what is none."""
    if config.prices is None:
        return Spending(budget=config.budget)
    words = config.prices.split(",")
    if len(words) == 3:
        try:
            prefill, sample, train = (float(word) for word in words)
        except ValueError:
            pass
        else:
            return Spending(prices=Prices(prefill=prefill, sample=sample, train=train), budget=config.budget)
    if Path(config.prices).suffix.lower() not in (".json", ".yaml", ".yml", ".toml"):
        raise ConfigError(
            f"prices={config.prices!r}: three numbers, PREFILL,SAMPLE,TRAIN, or a JSON, YAML or TOML file"
        )
    prices = Prices.of(read_file(config.prices), config.model, config.prices)
    return Spending(prices=prices, budget=config.budget)


def spent(config: Priced, path: Path) -> float:
    """Money that the run at `path` took so far, at these prices; 0 where there is none."""
    limits, files = spending(config), bootstrap.local_files()
    if limits.prices is None or not (path / "journal.jsonl").exists():
        return 0.0
    steps = [record.event for record in read_journal(path, files).all_records if isinstance(record.event, Step)]
    return sum(limits.prices.cost(Tokens.of_metrics(step.metrics)) for step in steps)


def left(config: Priced, *stages: Path, besides: float = 0.0) -> float | None:
    """What stages before, at `stages`, left of the budget, `besides` being spent too. BudgetError where that is
    nothing."""
    if config.budget is None:
        return None
    used = besides + sum(spent(config, path) for path in stages)
    if used >= config.budget:
        raise BudgetError(
            f"stopped by its budget: the stages before spent {used:.6g} of {config.budget:g}. The same command with a "
            "larger budget= goes on"
        )
    return config.budget - used


def forecast(config: Priced, tokens: Tokens) -> Iterator[str]:
    """What a run would cost, where there are prices."""
    limits = spending(config)
    if limits.prices is None:
        return
    cost = limits.prices.cost(tokens)
    counts = ", ".join(f"{getattr(tokens, kind):,.0f} tokens {what}" for kind, what in _SAID.items())
    yield f"it would cost about {cost:,.4g} ({counts}, by prices={config.prices})"
    if limits.budget is not None:
        if cost <= limits.budget:
            yield f"which is {cost / limits.budget:.0%} of budget={limits.budget:g}"
        else:
            yield f"more than budget={limits.budget:g}, so it would stop before its end"


_SAID = {"prefill": "read", "sample": "sampled", "train": "trained"}


def estimate(model: Model, lora: LoraSettings, steps: int, tokens: float, sampled: float = 0.0) -> str:
    """What a run would take, from the floating-point operations of its matrix products and the rate of this machine."""
    said = f"{steps} step{'s' * (steps != 1)}, about {tokens:,.0f} tokens trained"
    said += f" and {sampled:,.0f} sampled" if sampled else ""
    if not isinstance(model, LoadedModel):
        return said
    flops = tokens * model.num_parameters * (4 if lora.rank > 0 else 6) + sampled * model.num_parameters * 2
    rate = bootstrap.matmul_rate(model.threads)
    seconds = flops / rate / 0.6
    return (
        f"{said}: roughly {_duration(seconds)} on {model.threads} threads "
        f"({flops / 1e12:.1f} TFLOP at 60% of the {rate / 1e9:.0f} GFLOP/s measured here)"
    )


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"

"""dpo: direct preference optimisation on pairs of answers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from attrs import frozen

from tinsmith.bootstrap import Model
from tinsmith.config import option
from tinsmith.domain.datums import Datum
from tinsmith.domain.preferences import PairLossName
from tinsmith.ports.progress import Progress
from tinsmith.recipes import common, sources, supervised
from tinsmith.recipes.pairs import SETS, PairConfig, new_pairs
from tinsmith.recipes.sources import NamedSet
from tinsmith.workflows.journal import RunDirectory
from tinsmith.workflows.metering import Meter
from tinsmith.workflows.preference import PairExamples, PreferenceObjective
from tinsmith.workflows.reference import Reference
from tinsmith.workflows.supervised_data import StreamedData

NAME = "dpo"


@frozen(kw_only=True)
class Config(PairConfig):
    loss: PairLossName = option("dpo", help="loss of a pair")
    beta: float = option(
        0.1, help="how much the policy is held to the start model, which is the reference", exclusive_min=0
    )
    label_smoothing: float = option(
        0.0, help="share of the labels that are taken to be wrong, with loss=dpo", min=0, exclusive_max=0.5
    )


def run(config: Config, progress: Progress) -> int:
    sources.validate(config, SETS)
    model = common.open_model(config)
    data, test = load(config, model, progress)
    with model.sampler() as start:

        def objective(meter: Meter) -> PreferenceObjective:
            reference = Reference(meter.sampler(start), config.timeout_s, keep=config.num_epochs > 1)
            return PreferenceObjective(
                reference,
                config.loss,
                beta=config.beta,
                label_smoothing=config.label_smoothing,
                test=test,
                timeout_s=config.timeout_s,
            )

        supervised.train(NAME, config, sources.run_path(NAME, config), model, data, objective, progress, report)
    return 0


def report(progress: Progress, directory: RunDirectory) -> None:
    names = ("dpo_loss", "accuracy", "margin", "likelier")
    supervised.report(progress, directory, (*names, *(f"test/{name}" for name in names)))


def check(config: Config) -> Iterable[Any]:
    """One rendered pair with its weights, and what the run would take; trains nothing."""
    model, data, test, drawn = yield from sources.looked_at(config, SETS, load)
    for side, row in (("chosen", 0), ("rejected", 1)):
        yield f"{side}:"
        yield from common.show_example(model, drawn.batch[row])
    yield f"{len(data)} pairs a pass, {len(test) // 2} test pairs"
    tokens = drawn.batch.num_tokens / drawn.end
    read = 2 * tokens  # by the reference, and in the forward pass
    yield from supervised.forecast(config, model, data, tokens, sum(d.num_tokens for d in test), read=read)


def load(config: Config, model: Model, progress: Progress) -> tuple[StreamedData, list[Datum]]:
    def renderer(known: NamedSet, max_length: int) -> PairExamples:
        return PairExamples(renderer=model.renderer, max_length=max_length, too_long=config.too_long)

    return sources.load(config, model, SETS, new_pairs, renderer, progress)

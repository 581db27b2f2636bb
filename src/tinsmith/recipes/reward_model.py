"""reward-model: a judge of answers, trained to label comparisons."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

from attrs import frozen

from tinsmith.bootstrap import Model
from tinsmith.config import option
from tinsmith.domain.datums import Datum
from tinsmith.ports.progress import Progress
from tinsmith.recipes import common, sources, supervised
from tinsmith.recipes.pairs import SETS, PairConfig, new_pairs
from tinsmith.recipes.sources import NamedSet
from tinsmith.workflows.journal import RunDirectory
from tinsmith.workflows.preference import JudgeExamples, LabelObjective
from tinsmith.workflows.supervised_data import StreamedData

NAME = "reward-model"


@frozen(kw_only=True)
class Config(PairConfig):
    too_long: Literal["skip", "raise"] = option("skip", help="what becomes of a comparison longer than max_length")
    batch_size: int = option(32, help="pairs an optimizer step, each in both orders", min=1)
    learning_rate: float = option(2e-3, help="peak learning rate", exclusive_min=0)


def run(config: Config, progress: Progress) -> int:
    train(config, progress)
    return 0


def train(config: Config, progress: Progress) -> str:
    """The run; gives the handle of its last state."""
    sources.validate(config, SETS)
    model = common.open_model(config)
    data, test = load(config, model, progress)
    path = sources.run_path(NAME, config)
    return supervised.train(NAME, config, path, model, data, lambda _: LabelObjective(test=test), progress, report)


def report(progress: Progress, directory: RunDirectory) -> None:
    supervised.report(progress, directory, ("train_mean_nll", "accuracy", "test/nll", "test/accuracy"))


def check(config: Config) -> Iterable[Any]:
    """One comparison with its label, and what the run would take; trains nothing."""
    model, data, test, drawn = yield from sources.looked_at(config, SETS, load)
    yield from common.show_example(model, drawn.batch[0])
    yield f"{len(data)} pairs a pass, {len(test) // 2} test pairs, each in both orders"
    tokens = drawn.batch.num_tokens / drawn.end
    yield from supervised.forecast(config, model, data, tokens, sum(d.num_tokens for d in test))


def load(config: Config, model: Model, progress: Progress) -> tuple[StreamedData, list[Datum]]:
    def renderer(known: NamedSet, max_length: int) -> JudgeExamples:
        return JudgeExamples(renderer=model.renderer, max_length=max_length, too_long=config.too_long)

    return sources.load(config, model, SETS, new_pairs, renderer, progress)

"""dpo: direct preference optimisation on pairs of answers."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from attrs import frozen

from tinsmith.bootstrap import Model
from tinsmith.config import option
from tinsmith.domain.datums import Datum
from tinsmith.domain.preference_rows import NoPreference, pair_from_row
from tinsmith.domain.preferences import PairLossName
from tinsmith.ports.data import Row
from tinsmith.ports.progress import Notes, Progress
from tinsmith.recipes import common, small_sets, sources, supervised
from tinsmith.recipes.sources import RENDERED_AT_ONCE, MixtureConfig, NamedSet
from tinsmith.workflows.journal import RunDirectory
from tinsmith.workflows.metering import Meter
from tinsmith.workflows.preference import PairExamples, PreferenceObjective
from tinsmith.workflows.reference import Reference
from tinsmith.workflows.supervised_data import StreamedData

NAME = "dpo"

SETS: Mapping[str, NamedSet] = {
    "small": NamedSet(train=small_sets.PAIRS, test_size=200),
    "hhh": NamedSet(train="hf://Anthropic/hh-rlhf:train", test="hf://Anthropic/hh-rlhf:test", test_size=1024),
    "helpsteer3": NamedSet(
        train="hf://nvidia/HelpSteer3/preference:train", test="hf://nvidia/HelpSteer3/preference:validation"
    ),
    "ultrafeedback": NamedSet(train="hf://argilla/ultrafeedback-binarized-preferences:train", test_size=1024),
}


@frozen(kw_only=True)
class Config(MixtureConfig):
    data: tuple[str, ...] = option(
        ("small",), help="sources of pairs: small (made here), hhh, helpsteer3, ultrafeedback, files, URLs, hf://NAME"
    )
    loss: PairLossName = option("dpo", help="loss of a pair")
    beta: float = option(
        0.1, help="how much the policy is held to the start model, which is the reference", exclusive_min=0
    )
    label_smoothing: float = option(
        0.0, help="share of the labels that are taken to be wrong, with loss=dpo", min=0, exclusive_max=0.5
    )
    batch_size: int = option(32, help="pairs an optimizer step", min=1)


def run(config: Config, progress: Progress) -> int:
    sources.validate(config, SETS)
    model = common.open_model(config)
    data, test = load(config, model, progress)
    path = config.log_path or common.default_path(NAME, config, *(source.rsplit("/")[-1] for source in config.data))
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

        supervised.train(NAME, config, path, model, data, objective, progress, report)
    return 0


def report(progress: Progress, directory: RunDirectory) -> None:
    names = ("dpo_loss", "accuracy", "margin", "likelier")
    supervised.report(progress, directory, (*names, *(f"test/{name}" for name in names)))


def check(config: Config) -> Iterable[Any]:
    """One rendered pair with its weights, and what the run would take; trains nothing."""
    sources.validate(config, SETS)
    model = common.open_model(config)
    notes = Notes()
    data, test = load(config, model, notes)
    yield from notes.texts
    yield from supervised.ends_early(config, data)
    drawn = data.batch(0, RENDERED_AT_ONCE)
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


def new_pairs(source: str) -> Callable[[Row, int], str | None]:
    """Why a row of `source` is no pair to learn from; None for one that is, and was not there before."""
    seen = set[bytes]()

    def why_not(row: Row, line: int) -> str | None:
        try:
            pair = pair_from_row(row, source=source, line=line)
        except NoPreference as error:
            return f"have answers that {error.why}"
        digest = hashlib.blake2b(repr(pair).encode(), digest_size=16).digest()
        if digest in seen:
            return "are there before"
        seen.add(digest)
        return None

    return why_not

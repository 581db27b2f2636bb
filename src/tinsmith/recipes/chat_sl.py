"""chat-sl: supervised fine-tuning on chats of several sources, rendered as they are needed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from attrs import frozen

from tinsmith.bootstrap import Model
from tinsmith.config import option
from tinsmith.domain.chat_rows import conversation_from_row
from tinsmith.ports.data import Row
from tinsmith.ports.progress import Progress
from tinsmith.recipes import common, small_sets, sources, supervised
from tinsmith.recipes.sources import MixtureConfig, NamedSet
from tinsmith.rendering import TrainOn
from tinsmith.workflows.chat_examples import ChatExamples
from tinsmith.workflows.evaluation import NllObjective, Reduction
from tinsmith.workflows.supervised_data import HeldOut, StreamedData

NAME = "chat-sl"

SETS: Mapping[str, NamedSet] = {
    "small": NamedSet(train=small_sets.CHATS, test_size=200),
    "mixed": NamedSet(train=small_sets.MIXED, test_size=64),
    "no_robots": NamedSet(train="hf://HuggingFaceH4/no_robots:train", test="hf://HuggingFaceH4/no_robots:test"),
    "tulu3": NamedSet(
        train="hf://allenai/tulu-3-sft-mixture:train", test_size=1024, train_on=TrainOn.LAST_ASSISTANT_MESSAGE
    ),
}


@frozen(kw_only=True)
class Config(MixtureConfig):
    data: tuple[str, ...] = option(
        ("small",),
        help="sources of conversations: small and mixed (made here), no_robots, tulu3, files, object store URLs, hf://NAME",
    )
    train_on: TrainOn | None = option(
        None, help="which messages carry the loss; none: all of the assistant's, of tulu3 the last one"
    )
    reduction: Reduction = option("token_mean", help="how token losses make one number a batch")
    num_epochs: int = option(2, help="passes over the data", min=1)


def run(config: Config, progress: Progress) -> int:
    train(config, progress)
    return 0


def train(config: Config, progress: Progress, *, sets: Mapping[str, NamedSet] = SETS) -> str:
    """The run; gives the handle of its last state."""
    sources.validate(config, sets)
    model = common.open_model(config)
    data, test = load(config, model, progress, sets)
    return supervised.train(
        NAME,
        config,
        sources.run_path(NAME, config),
        model,
        data,
        lambda _: NllObjective(config.reduction, test=test, token_bytes=model.text_bytes),
        progress,
        supervised.report_nll,
    )


def check(config: Config) -> Iterable[Any]:
    """One rendered example with its weights, and what the run would take; trains nothing."""
    model, data, test, drawn = yield from sources.looked_at(config, SETS, load)
    yield from common.show_example(model, drawn.batch[0])
    yield f"{len(data)} examples a pass, {len(test)} test datums"
    tokens = drawn.batch.num_tokens / drawn.end
    yield from supervised.forecast(config, model, data, tokens, sum(d.num_tokens for d in test))


def load(
    config: Config, model: Model, progress: Progress, sets: Mapping[str, NamedSet] = SETS
) -> tuple[StreamedData, HeldOut]:
    def keep(source: str) -> Callable[[Row, int], str | None]:
        def reads(row: Row, line: int) -> None:
            conversation_from_row(row, source=source, line=line)

        return reads

    def renderer(known: NamedSet, max_length: int) -> ChatExamples:
        return ChatExamples(
            renderer=model.renderer,
            train_on=config.train_on or known.train_on,
            max_length=max_length,
            too_long=config.too_long,
        )

    return sources.load(config, model, sets, keep, renderer, progress)

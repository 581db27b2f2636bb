"""`tinsmith render FILE`: conversations as tokens and weights, beside the family's own chat template if wanted."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any, Literal

from attrs import frozen

from tinsmith import bootstrap, rendering
from tinsmith.config import option
from tinsmith.domain.chat_rows import conversation_from_row
from tinsmith.domain.errors import ConfigError, DataError, RenderError
from tinsmith.domain.messages import Conversation
from tinsmith.ports.progress import Progress
from tinsmith.ports.tokenizer import Tokenizer
from tinsmith.rendering import Renderer, TrainOn
from tinsmith.rendering.show import PAGE_BEGIN, PAGE_END, Span, marked, section, stretches, style
from tinsmith.rendering.view import Difference, Viewed, difference, view


@frozen(kw_only=True)
class Config:
    file: str = option(
        help="conversations: JSON or JSONL with `messages` and perhaps `tools`, or another source of data"
    )
    model: str = option("tiny", help="model whose tokenizer and format are used: tiny, a path, or a name on the hub")
    renderer: str | None = option(None, help="chat format; none takes the one that belongs to the model")
    train_on: TrainOn = option(TrainOn.ALL_ASSISTANT_MESSAGES, help="which messages are trained")
    format: Literal["text", "ids", "weights", "html"] = option(
        "text",
        help="text in the colours of its weights, control tokens in \u27e6 \u27e7; ids: a JSON line each; "
        "weights: a line a token; html: a page",
    )
    compare: bool = option(False, help="put each beside the model's own chat template, show the first difference")
    limit: int | None = option(None, help="conversations at most", min=1)


def run(config: Config, ui: Progress) -> int:
    """1 where a comparison found a difference."""
    tokenizer, stored = bootstrap.load_tokenizer(config.model)
    renderer = rendering.get(config.renderer or stored or rendering.recommended(config.model, tokenizer), tokenizer)
    template = _template(config, tokenizer) if config.compare else None
    if config.format == "html":
        print(PAGE_BEGIN, end="")
    differ = total = 0
    for number, (conversation, where) in enumerate(_conversations(config)):
        total += 1
        try:
            viewed = view(renderer, conversation, config.train_on)
            apart = None if template is None else difference(renderer, template, conversation)
        except RenderError as error:
            raise RenderError(f"{where}: {error}") from None
        differ += apart is not None
        _show(config, ui, number, tokenizer, viewed, apart)
    if not total:
        raise DataError("the file is empty: there is no conversation in it", source=config.file)
    if config.format == "html":
        print(PAGE_END, end="")
    if template is not None and config.format in ("text", "weights"):
        ui.note(f"{renderer.name} beside the chat template: {total - differ} of {total} equal, token by token")
    return 1 if differ else 0


def check(config: Config) -> Iterable[Any]:
    return ()


def _template(config: Config, tokenizer: Tokenizer) -> Renderer:
    if tokenizer.chat_template is None:
        raise ConfigError(f"compare=true: model {config.model!r} has no chat template to compare with")
    return rendering.get("hf_template", tokenizer)


def _conversations(config: Config) -> Iterator[tuple[Conversation, str]]:
    """Row by row, each with where it stands."""
    source = bootstrap.open_source(config.file)
    for line, row in enumerate(source, 1):
        if config.limit is not None and line > config.limit:
            return
        yield conversation_from_row(row, source=source.name, line=line), f"{source.name}, line {line}"


def _show(config: Config, ui: Any, number: int, tokenizer: Tokenizer, viewed: Viewed, apart: Difference | None) -> None:
    notes = [f"nothing is trained: {viewed.untrained}"] if viewed.untrained else []
    if apart is not None:
        notes.append(f"differs from the chat template at token {apart.token}: {apart.ours!r} is {apart.theirs!r} there")
    if config.format == "ids":
        line: dict[str, Any] = viewed.views[-1].to_json()
        if len(viewed.views) > 1:
            line["datums"] = [v.to_json() for v in viewed.views]
        if config.compare:
            line["equal"] = apart is None
        if notes:
            line["notes"] = notes
        print(json.dumps(line), flush=True)
        return
    for part, one in enumerate(viewed.views):
        of = f", datum {part + 1} of {len(viewed.views)}" if len(viewed.views) > 1 else ""
        title = f"conversation {number}{of}: {len(one.ids)} tokens, {int((one.weights != 0).sum())} trained"
        if config.format == "html":
            print(section(title, stretches(one.ids, one.weights, tokenizer), notes))
            continue
        ui.note(title)
        if config.format == "weights":
            special = set(tokenizer.special_tokens.values())
            for at, (id, weight, message) in enumerate(zip(one.ids, one.weights, one.message, strict=True)):
                kind = "control" if int(id) in special else "text"
                ui.note(f"{at:6} {id:7} {weight:5g} {message:4} {kind:7}  {tokenizer.decode([int(id)])!r}")
        else:
            _coloured(ui, stretches(one.ids, one.weights, tokenizer))
    if config.format != "html":
        for note in notes:
            ui.note(note)


def _coloured(ui: Any, parts: list[Span]) -> None:
    from rich.text import Text

    text = Text()
    for part in parts:
        text.append(marked(part), style=style(part))
    ui.show(text)

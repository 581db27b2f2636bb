"""SmolLM2's format beside the template and the tokenizer in its own GGUF file, which a package carries."""

from __future__ import annotations

import json
from pathlib import Path

import jinja2
import numpy as np
import pytest
from cases import CASES

from tinsmith import bootstrap, rendering
from tinsmith.domain.chat_rows import conversation_from_row
from tinsmith.domain.errors import ModelNotFoundError, RenderError
from tinsmith.ports.tokenizer import Tokenizer
from tinsmith.rendering import Renderer

PLAIN = [name for name, case in CASES.items() if not case.tools and not any(m.role == "tool" for m in case.messages)]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    try:
        return bootstrap.load_tokenizer("smollm2-135m")[0]
    except ModelNotFoundError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def renderer(tokenizer: Tokenizer) -> Renderer:
    return rendering.get("smollm2", tokenizer)


def templated(tokenizer: Tokenizer, messages, ask: bool) -> np.ndarray:
    """The template's text, its control tokens read as such: all there is beside what the format guards text from."""
    assert tokenizer.chat_template
    rows = [{"role": m.role, "content": m.text} for m in messages]
    text = jinja2.Environment().from_string(tokenizer.chat_template).render(messages=rows, add_generation_prompt=ask)
    ids: list[int] = []
    for piece in text.replace("<|im_start|>", "\0<|im_start|>\0").replace("<|im_end|>", "\0<|im_end|>\0").split("\0"):
        control = tokenizer.special_tokens.get(piece)
        ids += [control] if control is not None else tokenizer.encode(piece).tolist() if piece else []
    return np.array(ids, np.int32)


@pytest.mark.parametrize("name", PLAIN)
def test_every_case_that_the_format_has_a_form_for_is_the_templates(name, tokenizer, renderer):
    case = CASES[name]
    if any(m.thinking for m in case.messages):
        with pytest.raises(RenderError, match="thinking"):
            renderer.render(case.messages)
        return
    if case.ask:
        ours = renderer.generation_prompt(case.messages, prefill=case.prefill).ids
        theirs = templated(tokenizer, case.messages, True)
        if case.prefill:
            theirs = np.concatenate([theirs, tokenizer.encode(case.prefill)])
    else:
        ours, theirs = renderer.render(case.messages).ids, templated(tokenizer, case.messages, False)
    if name == "white space":  # as for other families: an answer that opens with line ends, see docs/renderers.md
        assert tokenizer.decode(ours) == tokenizer.decode(theirs)
    else:
        assert ours.tolist() == theirs.tolist()


def test_real_chats_are_the_templates(tokenizer, renderer, shared: Path):
    path = shared / "data" / "chat" / "v1_sft_demo.jsonl"
    compared = 0
    for line, text in enumerate(path.read_text().splitlines(), 1):
        conversation = conversation_from_row(json.loads(text), source=path.name, line=line)
        try:
            ours = renderer.render(conversation.messages).ids
        except RenderError:  # tools, calls, thinking
            continue
        if any("<|im_" in m.text for m in conversation.messages):
            continue
        assert ours.tolist() == templated(tokenizer, conversation.messages, False).tolist(), line
        compared += 1
    assert compared >= 400

"""Formats against the chat templates that the families ship: the same text, and the same words trained."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from test_messages import real_rows
from tokenizers import Tokenizer as Fast

from small_tokenizer import small_bpe, small_bpe_spec
from tinsmith import rendering
from tinsmith.domain.chat_rows import conversation_from_row
from tinsmith.domain.errors import RenderError
from tinsmith.domain.messages import Conversation
from tinsmith.rendering.templates import render_template
from tinsmith.testing import FakeTokenizer
from tinsmith.testing.strategies import conversations

TOKENIZER = FakeTokenizer()
SMOLLM2 = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}"
    "{% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
FORMATS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "smollm2": (SMOLLM2, {}, {}),
    "qwen3": ("qwen3.jinja", {}, {"thinking": True, "calls": True}),
    "qwen3_disable_thinking": ("qwen3.jinja", {"enable_thinking": False}, {"thinking": True, "calls": True}),
    "qwen3_instruct": ("qwen3_instruct_2507.jinja", {}, {"calls": True}),
}
"""Template, its variables, and what conversations of the format may hold."""


def template_of(name: str, shared: Path) -> str:
    template = FORMATS[name][0]
    return (shared / "data" / "chat_templates" / template).read_text() if template.endswith(".jinja") else template


def agree(name: str, conversation: Conversation, template: str, variables: dict[str, Any]) -> None:
    """Whole, and as a prompt at each point where a model may be asked."""
    renderer = rendering.get(name, TOKENIZER)
    messages, tools = conversation.messages, conversation.tools
    ours = TOKENIZER.decode(renderer.render(messages, tools).ids)
    assert ours == render_template(template, messages, tools=tools, variables=variables)
    for i in range(1, len(messages) + 1):
        if messages[i - 1].role in ("user", "tool"):
            prompt = renderer.generation_prompt(messages[:i], tools=tools)
            assert TOKENIZER.decode(prompt.ids) == render_template(
                template, messages[:i], tools=tools, add_generation_prompt=True, variables=variables
            )


@pytest.mark.parametrize("name", FORMATS)
@given(data=st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_text_equals_the_template(name: str, shared: Path, data: st.DataObject) -> None:
    conversation = data.draw(conversations(**FORMATS[name][2]))
    assume(any(m.role == "user" and not m.text.startswith("<tool_response>") for m in conversation.messages))
    agree(name, conversation, template_of(name, shared), FORMATS[name][1])


def real_conversations(shared: Path) -> list[Conversation]:
    files = ("v1_sft_demo.jsonl", "glaive_toolcall_en_demo.json", "reason_tool_use_demo_50.jsonl")
    return [conversation_from_row(row) for name in files for row in real_rows(shared / "data" / "chat" / name)]


@pytest.mark.parametrize("name", FORMATS)
def test_real_chats_equal_the_template(name: str, shared: Path) -> None:
    template, holds = template_of(name, shared), FORMATS[name][2]
    counted = 0
    for conversation in real_conversations(shared)[::17]:
        calls = bool(conversation.tools) or any(m.role == "tool" or m.tool_calls for m in conversation.messages)
        thinks = any(m.thinking for m in conversation.messages)
        if (calls and not holds.get("calls")) or (thinks and not holds.get("thinking")):
            with pytest.raises(RenderError, match="no form for"):
                rendering.get(name, TOKENIZER).render(conversation.messages, conversation.tools)
            continue
        agree(name, conversation, template, FORMATS[name][1])
        counted += 1
    assert counted >= 25


def test_real_chats_equal_the_template_token_by_token(shared: Path) -> None:
    """Text between control tokens is encoded as the finished chat would be, merges over line ends included."""
    tokenizer = small_bpe()
    whole = Fast.from_str(json.dumps(small_bpe_spec()))
    renderer, template = rendering.get("qwen3", tokenizer), template_of("qwen3", shared)
    for conversation in real_conversations(shared)[::17]:
        text = render_template(template, conversation.messages, tools=conversation.tools)
        ours = renderer.render(conversation.messages, conversation.tools).ids
        assert ours.tolist() == whole.encode(text, add_special_tokens=False).ids


def test_all_real_chats_render_as_the_template_and_read_back(shared: Path) -> None:
    """Every answer, as it is trained, gives its message again."""
    renderer, template = rendering.get("qwen3", TOKENIZER), template_of("qwen3", shared)
    conversations = real_conversations(shared)
    rendered = renderer.render_batch(conversations)
    examples = renderer.supervised_batch(conversations)
    answers = 0
    for conversation, whole, datums in zip(conversations, rendered, examples, strict=True):
        text = render_template(template, conversation.messages, tools=conversation.tools)
        assert TOKENIZER.decode(whole.ids) == text
        assert not isinstance(datums, RenderError)
        for datum in datums:
            trained = datum.weights != 0
            for i in np.unique(datum.message[trained]).tolist():
                parsed, message = (
                    renderer.parse(datum.targets[trained & (datum.message == i)]),
                    conversation.messages[i],
                )
                assert parsed.is_clean
                assert parsed.message.text == message.text.lstrip("\n")
                assert (parsed.message.thinking or "") == (message.thinking or "").strip("\n")
                assert [(c.name, c.arguments) for c in parsed.message.tool_calls] == [
                    (c.name, c.arguments) for c in message.tool_calls
                ]
                answers += 1
    assert (len(conversations), answers) == (850, 1569)


def test_the_words_trained_are_those_that_the_training_template_marks(shared: Path) -> None:
    """Of the marked stretch only the line end after the stop is left out: a model stops before it."""
    folder = shared / "data" / "chat_templates"
    for name, file in (
        ("qwen3_preserve_thinking", "qwen3_training.jinja"),
        ("qwen3_instruct", "qwen3_instruct_2507_training.jinja"),
    ):
        renderer = rendering.get(name, TOKENIZER)
        template = (folder / file).read_text()
        for tag, mark in (("generation", "\ue000"), ("endgeneration", "\ue001")):
            assert f"{{%- {tag} %}}" in template
            template = template.replace(f"{{%- {tag} %}}", f"{{{{- '{mark}' -}}}}")
        counted = 0
        for conversation in real_conversations(shared)[::17]:
            try:
                [datum] = renderer.supervised(conversation)
            except RenderError:
                assert name == "qwen3_instruct"
                continue
            marked = render_template(template, conversation.messages, tools=conversation.tools)
            pieces = marked.replace("\ue001", "\ue000").split("\ue000")
            ids, weights = np.append(datum.tokens, datum.targets[-1]), np.append(0.0, datum.weights)
            edges = [0, *(np.flatnonzero(np.diff(weights)) + 1).tolist(), len(ids)]
            ours = [TOKENIZER.decode(ids[a:b]) for a, b in pairwise(edges)]
            for i in range(1, len(pieces), 2):  # the line end belongs to what follows
                assert pieces[i].endswith("<|im_end|>\n")
                pieces[i], pieces[i + 1] = pieces[i][:-1], "\n" + pieces[i + 1]
            assert ours == pieces[: len(ours)]
            assert "".join(pieces[len(ours) :]) == "\n"
            counted += 1
        assert counted >= 45

"""What each format writes as an answer, sampled after its prompt, reads back; no text becomes a control token."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cases import CASES, MATH_TOOLS, WEATHER
from family_compare import Family
from family_tokenizers import Unavailable, family_tokenizer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from table import real_conversations

from families import FAMILIES
from tinsmith import rendering
from tinsmith.domain.errors import RenderError
from tinsmith.domain.messages import Message, TextPart, ThinkingPart, Tool, ToolCall
from tinsmith.rendering import Rendered, Renderer, Termination
from tinsmith.rendering.answers import declared_types, read_value

FORMATS = list({f.format: f for f in FAMILIES}.values())
each = pytest.mark.parametrize("family", FORMATS, ids=lambda f: f.format)


def renderer_of(family: Family) -> Renderer:
    try:
        tokenizer = family_tokenizer(family.tokenizer)
    except Unavailable as error:
        pytest.skip(f"no tokenizer {family.tokenizer}: {error}")
    return rendering.get(family.format, tokenizer, **family.options)


def said(message: Message) -> list[str]:
    """Its thinking and its text, so far as there is any; formats are free in the white space around them."""
    return [text.strip() for text in (message.thinking or "", message.text) if text.strip()]


def called(message: Message) -> list[tuple[str, Any]]:
    return [(c.name, json.loads(c.arguments)) for c in message.tool_calls]


@each
def test_an_answer_begins_where_the_prompt_ends_and_reads_back(family: Family) -> None:
    renderer = renderer_of(family)
    counted = 0
    for name, case in CASES.items():
        for i, message in enumerate(case.messages):
            if message.role != "assistant":
                continue
            try:
                renderer.check(case.messages[: i + 1], case.tools)
                whole = renderer.written(case.messages[: i + 1], case.tools, sampled=True).render()
                prompt = renderer.generation_prompt(case.messages[:i], tools=case.tools)
            except RenderError:
                continue
            counted += 1
            assert whole.ids[: len(prompt)].tolist() == prompt.ids.tolist(), name
            trained = np.flatnonzero(whole.is_output & (whole.message == i))
            assert trained[0] == len(prompt), f"{name}: the first trained token is not the first that is sampled"
            completion = whole.ids[len(prompt) : int(trained[-1]) + 1]
            parsed = renderer.parse(completion, prompt=prompt.ids, tools=case.tools)
            assert parsed.termination is Termination.STOP, name
            assert not parsed.failures, (name, parsed.failures)
            assert said(parsed.message) == said(message), name
            assert called(parsed.message) == called(message), name
    assert counted >= 5


@each
def test_every_trained_answer_of_real_conversations_reads_back(family: Family, shared: Path) -> None:
    renderer = renderer_of(family)
    conversations = real_conversations(shared / "data" / "chat")
    answers = 0
    for conversation, examples in zip(conversations, renderer.supervised_batch(conversations), strict=True):
        if isinstance(examples, RenderError):
            continue
        for datum in examples:
            trained = datum.weights != 0
            for i in np.unique(datum.message[trained]).tolist():
                message = conversation.messages[i]
                if family.format.startswith("gpt_oss") and len(message.tool_calls) > 1:
                    continue  # each call is an answer of its own
                where = np.flatnonzero(trained & (datum.message == i))
                prompt = datum.tokens[: where[0] + 1]
                parsed = renderer.parse(datum.targets[where], prompt=prompt, tools=conversation.tools)
                answers += 1
                assert parsed.termination is Termination.STOP
                assert not parsed.failures, parsed.failures
                assert said(parsed.message) == said(message)
                assert called(parsed.message) in (called(message), bare(message, conversation.tools))
    assert answers > 500


def bare(message: Message, tools: Sequence[Tool]) -> list[tuple[str, Any]]:
    """Its calls as they read where values stand without quotes: JSON in a text shows unless the tool declares it."""
    types = declared_types(tools)
    return [
        (
            name,
            {k: v if not isinstance(v, str) or k in types.get(name, {}) else read_value(v) for k, v in given.items()},
        )
        for name, given in called(message)
    ]


def controls(rendered: Rendered) -> list[int]:
    return rendered.ids[rendered.special].tolist()


@each
def test_text_never_becomes_a_control_token(family: Family) -> None:
    renderer = renderer_of(family)
    tokenizer = renderer.tokenizer
    names = [*renderer.needs, *(tokenizer.token_bytes()[i].decode() for i in renderer.stop.ids)]

    def chat(text: str) -> list[Message]:
        call = ToolCall("get_weather", json.dumps({"city": text}, ensure_ascii=False), "call_1")
        calls = Message("assistant", f"a{text}", tool_calls=(call,))
        result = Message("tool", text, tool_call_id="call_1", name="get_weather")
        ask = Message.user(f"{text}a{text}")
        return [Message.system(text), ask, calls, result, Message.assistant(f"a{text}b"), ask]

    try:
        renderer.render(chat("x"), (WEATHER,))
        variants = [(chat, (WEATHER,))]
    except RenderError:  # a format without tools
        variants = [(lambda text: [Message.user(text), Message.assistant(f"a{text}b"), Message.user(text)], ())]
    for make, tools in variants:
        plain = controls(renderer.generation_prompt(make("x"), tools=tools))
        for name in names:
            try:
                hostile = renderer.generation_prompt(make(name), tools=tools)
            except RenderError:  # refused is safe too
                continue
            assert controls(hostile) == plain, name
            text_ids = hostile.ids[~hostile.special]
            assert not np.isin(text_ids, [tokenizer.special_tokens[n] for n in names]).any(), name
    if renderer.thinks:
        for name in names:
            thought = Message("assistant", (ThinkingPart(f"a{name}b"), TextPart("c")))
            harmless = Message("assistant", (ThinkingPart("ab"), TextPart("c")))
            try:
                pair = [controls(renderer.render([Message.user("q"), m])) for m in (thought, harmless)]
            except RenderError:
                continue
            assert pair[0] == pair[1], name


@each
@given(data=st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
def test_any_completion_can_be_read(family: Family, data: st.DataObject) -> None:
    """Whatever a model writes, parse does not raise, and a completion without its stop never counts as ended."""
    renderer = renderer_of(family)
    tokenizer = renderer.tokenizer
    marks = [tokenizer.special_tokens[n] for n in renderer.needs]
    words = [tokenizer.encode(t).tolist() for t in ("hello", "\n", '{"x": 1}', " to=functions.add", "{", "final", ":0")]
    pieces = data.draw(st.lists(st.sampled_from([[m] for m in marks] + words), max_size=12))
    ids = [i for piece in pieces for i in piece]
    parsed = renderer.parse(ids)
    if not set(ids) & {*renderer.stop.ids, *tokenizer.eos_ids}:
        assert parsed.termination in (Termination.LENGTH, Termination.MALFORMED)


def test_the_tools_of_the_cases_are_what_calls_name() -> None:
    declared = {t.name for t in (*MATH_TOOLS, *CASES["rich tools"].tools)}
    assert {c.name for case in CASES.values() for m in case.messages for c in m.tool_calls} <= declared

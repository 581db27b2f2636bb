"""Chapter 1: tokens and masks.

Messages become tokens, and tokens become messages again. A renderer that is one token off trains the wrong thing in
silence, so this chapter says what may never happen: text that turns into a control token, a token that belongs to
nobody or to two, a prompt that is trained, an answer that is trained in another form than the one in which it is
sampled.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, event, example, given
from hypothesis import strategies as st

from small_tokenizer import small_bpe
from tinsmith import rendering
from tinsmith.domain.messages import Conversation, Message, Part, TextPart, ThinkingPart, ToolCall
from tinsmith.ports.tokenizer import Tokenizer
from tinsmith.rendering import DeltaKind, NothingToTrain, Origin, Renderer, Termination, TooLong, TrainOn
from tinsmith.rendering.show import spans
from tinsmith.testing import FakeTokenizer
from tinsmith.testing.strategies import HOSTILE, conversations, texts

TOKENIZERS = {"fake-bytes": FakeTokenizer(), "small-bpe": small_bpe()}
LLAMA3_BYTES = FakeTokenizer(("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"))
TRIMS = ("llama3", "qwen3_5", "qwen3_6", "qwen3_8")
"""Formats that trim white space around what people write."""
FORMATS: dict[str, dict[str, Any]] = {
    "role_colon": {"avoid": ("\n\nUser:",)},
    "chatml": {},
    "smollm2": {},
    "qwen3": {"thinking": True, "calls": True, "avoid": ("</think>",)},
    "qwen3_preserve_thinking": {"thinking": True, "calls": True, "avoid": ("</think>",)},
    "qwen3_disable_thinking": {"calls": True, "avoid": ("</think>",)},
    "qwen3_instruct": {"calls": True},
    "qwen2_5": {"calls": True},
    "llama3": {},
    "qwen3_5": {"thinking": True, "calls": True, "avoid": ("</think>",), "plain_keys": True},
    "qwen3_5_disable_thinking": {"calls": True, "avoid": ("</think>",), "plain_keys": True},
    "qwen3_6_preserve_thinking": {"thinking": True, "calls": True, "avoid": ("</think>",), "plain_keys": True},
    "qwen3_8_low_reasoning": {"thinking": True, "calls": True, "plain_keys": True},
}
"""What each format can hold. Text that holds a closing thinking tag is split at it by the qwen3 formats (see the unit
tests)."""

every_tokenizer = pytest.mark.parametrize("tokenizer", TOKENIZERS.values(), ids=TOKENIZERS)


def every_format(test: Callable[..., None]) -> Callable[..., None]:
    cases = [
        pytest.param(rendering.get(name, tokenizer), id=f"{name}-{tokenizer.name}")
        for name in FORMATS
        for tokenizer in ([LLAMA3_BYTES] if name == "llama3" else TOKENIZERS.values())
        if tokenizer.name != "small-bpe" or name in ("role_colon", "smollm2", "qwen3", "qwen3_5")
    ]
    return pytest.mark.parametrize("renderer", cases)(test)


def chats(data: st.DataObject, renderer: Renderer, **options: Any) -> Conversation:
    """A conversation that the format can hold, with a question in it."""
    conversation: Conversation = data.draw(conversations(**FORMATS[renderer.name], **options))
    assume(any(m.role == "user" and not m.text.startswith("<tool_response>") for m in conversation.messages))
    return conversation


def answers_of(conversation: Conversation) -> Iterator[int]:
    return (i for i, m in enumerate(conversation.messages) if m.role == "assistant")


# Text is text.


@every_tokenizer
@given(text=texts())
@example("".join(HOSTILE))
def test_text_never_becomes_a_control_token_and_comes_back_whole(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert not set(ids.tolist()) & set(tokenizer.special_tokens.values())
    assert tokenizer.decode(ids) == text


@every_tokenizer
@given(texts=st.lists(texts(), max_size=4))
def test_a_batch_is_its_texts(tokenizer: Tokenizer, texts: list[str]) -> None:
    batch = tokenizer.encode_batch(texts)
    assert [b.tolist() for b in batch] == [tokenizer.encode(t).tolist() for t in texts]


@every_tokenizer
@given(text=texts())
def test_offsets_say_the_character_that_each_token_starts_in(tokenizer: Tokenizer, text: str) -> None:
    ids, starts = tokenizer.encode_with_offsets(text)
    assert np.array_equal(ids, tokenizer.encode(text))
    table = tokenizer.token_bytes()
    before = b""
    for id, start in zip(ids.tolist(), starts.tolist(), strict=True):
        # The bytes of the whole characters before this one, and at most a part of this one.
        assert text[:start].encode() == before[: len(text[:start].encode())]
        assert len(before) < len(text[: start + 1].encode())
        before += table[id]
    assert before == text.encode()


@every_tokenizer
@given(text=texts(), data=st.data())
def test_the_bytes_of_tokens_are_the_bytes_of_the_text_wherever_it_is_cut(
    tokenizer: Tokenizer, text: str, data: st.DataObject
) -> None:
    ids = tokenizer.encode(text)
    cut = data.draw(st.integers(0, len(ids)))
    table = tokenizer.token_bytes()
    assert b"".join(table[i] for i in ids.tolist()) == text.encode()
    head = b"".join(table[i] for i in ids[:cut].tolist())
    assert tokenizer.decode(ids[:cut]) == head.decode(errors="replace")


# Every token has exactly one owner.


@every_format
@given(data=st.data())
def test_every_token_has_one_owner_and_words_belong_to_their_message(renderer: Renderer, data: st.DataObject) -> None:
    conversation = chats(data, renderer)
    rendered = renderer.render(conversation.messages, conversation.tools)
    owners = rendered.message
    assert np.all(np.diff(owners) >= 0), "messages stand in order"
    assert set(owners.tolist()) - {-1} == set(range(len(conversation.messages)))
    control = np.isin(rendered.ids, list(renderer.tokenizer.special_tokens.values()))
    assert np.array_equal(rendered.special, control)
    assert not np.any(rendered.special & rendered.is_content), "no word is a control token"
    for i, message in enumerate(conversation.messages):
        shown = renderer.tokenizer.decode(rendered.ids[rendered.is_content & (owners == i)])
        if renderer.tokenizer.name != "small-bpe" and message.role != "assistant":
            assert shown == (message.text.strip() if renderer.name.startswith(TRIMS) else message.text)


# What is trained.


@every_format
@given(data=st.data())
def test_an_answer_is_trained_as_it_is_sampled(renderer: Renderer, data: st.DataObject) -> None:
    """After exactly its generation prompt, whole, stop included, and once."""
    conversation = chats(data, renderer)
    messages = conversation.messages
    datums = renderer.supervised(conversation)
    event(f"{len(datums)} datums")
    times_trained = dict.fromkeys(answers_of(conversation), 0)
    for datum in datums:
        assert np.array_equal(datum.tokens[1:], datum.targets[:-1]), "a target is the next token"
        ids = np.append(datum.tokens, datum.targets[-1])
        for i in np.unique(datum.message[datum.weights != 0]).tolist():
            where = np.flatnonzero((datum.weights != 0) & (datum.message == i)) + 1
            prompt = renderer.generation_prompt(messages[:i], tools=conversation.tools).ids
            assert np.array_equal(ids[: len(prompt)], prompt)
            assert where[0] == len(prompt)
            assert np.array_equal(where, np.arange(len(prompt), where[-1] + 1)), "without a gap"
            parsed = renderer.parse(ids[where])
            assert parsed.termination is Termination.STOP
            assert not parsed.failures
            assert parsed.message == as_written(renderer, messages[i])
            times_trained[i] += 1
    assert set(times_trained.values()) == {1}


def as_written(renderer: Renderer, message: Message) -> Message:
    """The message without what its format trims: line ends around thinking and before text, or all white space. Formats
    with XML calls tell no number from a text that spells it."""
    trims = renderer.name.startswith(TRIMS)
    if not trims and (not renderer.name.startswith("qwen3") or renderer.name == "qwen3_instruct"):
        return message
    thinking = message.thinking or ""
    thinking, text = (
        (thinking.strip(), message.text.strip()) if trims else (thinking.strip("\n"), message.text.lstrip("\n"))
    )
    parts: list[Part] = [ThinkingPart(thinking)] if thinking else []
    parts += [TextPart(text)] if text else []
    calls = message.tool_calls
    if trims:
        python = renderer.name.startswith("qwen3_5")
        calls = tuple(ToolCall(c.name, json.dumps(_retyped(c.arguments, python), ensure_ascii=False)) for c in calls)
    return Message("assistant", parts, tool_calls=calls)


def _retyped(arguments: str, python: bool) -> dict[str, Any]:
    def read(value: Any) -> Any:
        if not isinstance(value, str):
            return value
        if python and value in ("True", "False", "None"):
            return {"True": True, "False": False, "None": None}[value]
        try:
            spelled = json.loads(value)
        except ValueError:
            return value
        return spelled if not isinstance(spelled, str) and json.dumps(spelled, ensure_ascii=False) == value else value

    return {key: read(value) for key, value in json.loads(arguments).items()}


@every_format
@given(data=st.data(), train_on=st.sampled_from(TrainOn))
def test_a_token_is_trained_if_and_only_if_its_message_is(
    renderer: Renderer, data: st.DataObject, train_on: TrainOn
) -> None:
    conversation = chats(data, renderer, weights=True)
    expected = expected_weights(conversation, train_on)
    whole = renderer.render(conversation.messages, conversation.tools)
    counts = np.ones(len(whole), bool) if train_on is TrainOn.ALL_TOKENS else whole.is_output
    # The first token of all has no prefix. An empty result among others has no token of its own.
    tokens = [np.count_nonzero((counts & (whole.message == i))[1:]) for i in range(len(expected))]
    try:
        datums = renderer.supervised(conversation, train_on=train_on)
    except NothingToTrain:
        assert not any(weight and n for weight, n in zip(expected, tokens, strict=True))
        return
    seen = np.zeros(len(expected))
    for datum in datums:
        for i in range(len(expected)):
            weights = datum.weights[datum.message == i]
            assert set(weights.tolist()) <= {0.0, expected[i]}
            seen[i] += np.count_nonzero(weights)
    last = max(i for i, weight in enumerate(expected) if weight)
    for i, message in enumerate(conversation.messages):
        assert (seen[i] > 0) == (expected[i] > 0 and tokens[i] > 0)
        if message.role != "assistant" and expected[i] > 0 and i < last:
            assert seen[i] == tokens[i], "each token once"


def expected_weights(conversation: Conversation, train_on: TrainOn) -> list[float]:
    messages = conversation.messages
    last = max(answers_of(conversation))
    question = max(i for i in range(last) if messages[i].role == "user")
    trained = {
        TrainOn.LAST_ASSISTANT_MESSAGE: lambda i: i == last,
        TrainOn.LAST_ASSISTANT_TURN: lambda i: i > question and messages[i].role == "assistant",
        TrainOn.ALL_ASSISTANT_MESSAGES: lambda i: messages[i].role == "assistant",
        TrainOn.ALL_USER_AND_SYSTEM_MESSAGES: lambda i: messages[i].role in ("user", "system"),
        TrainOn.ALL_MESSAGES: lambda i: True,
        TrainOn.ALL_TOKENS: lambda i: True,
        TrainOn.CUSTOMISED: lambda i: True,
    }[train_on]
    return [float(m.weight or 0.0) if trained(i) else 0.0 for i, m in enumerate(messages)]


@every_format
@given(data=st.data())
def test_a_cut_keeps_alignment(renderer: Renderer, data: st.DataObject) -> None:
    conversation = chats(data, renderer)
    whole = renderer.supervised(conversation)
    longest = max(d.num_tokens for d in whole)
    max_length = data.draw(st.integers(1, longest + 1))
    if max_length < longest:
        with pytest.raises(TooLong):
            renderer.supervised(conversation, max_length=max_length)
    try:
        cut = renderer.supervised(conversation, max_length=max_length, overlong="truncate")
    except NothingToTrain:
        assert all(not np.any(d.weights[:max_length]) for d in whole)
        return
    assert cut.truncated == sum(d.num_tokens > max_length for d in whole)
    assert len(cut) + cut.skipped == len(whole)
    kept = [d for d in whole if np.any(d.weights[:max_length])]
    for short, full in zip(cut, kept, strict=True):
        n = short.num_tokens
        assert n <= max_length
        assert not np.any(full.weights[n:max_length]), "only what is not trained is left out before the cut"
        for column in ("tokens", "targets", "weights", "message"):
            assert np.array_equal(getattr(short, column), getattr(full, column)[:n])


@every_format
@given(data=st.data())
def test_the_spans_shown_are_the_tokens_and_their_weights(renderer: Renderer, data: st.DataObject) -> None:
    conversation = chats(data, renderer)
    for datum in renderer.supervised(conversation):
        shown = spans(datum, renderer.tokenizer)
        ids = np.append(datum.tokens, datum.targets[-1])
        assert "".join(span.text for span in shown) == renderer.tokenizer.decode(ids)
        assert sum(span.weight > 0 for span in shown) >= 1
        assert all(a.weight != b.weight or a.special or b.special for a, b in pairwise(shown))
        control = np.isin(ids, list(renderer.tokenizer.special_tokens.values()))
        assert [renderer.tokenizer.special_tokens[s.text] for s in shown if s.special] == ids[control].tolist()


# Reading what was sampled.


@every_format
@given(data=st.data())
def test_reading_never_fails_whatever_was_sampled(renderer: Renderer, data: st.DataObject) -> None:
    control = sorted(renderer.tokenizer.special_tokens.values())
    beyond = 0 if renderer.tokenizer is LLAMA3_BYTES else 4  # ids that pad the vocabulary of a model
    some = st.integers(0, renderer.tokenizer.vocab_size - 1 + beyond) | st.sampled_from(control)
    ids = data.draw(st.lists(some, max_size=12) | texts().map(lambda t: renderer.tokenizer.encode(t).tolist()))
    parsed = renderer.parse(ids)
    event(parsed.termination)
    assert parsed.message.role == "assistant"
    ended = bool(set(ids) & set(renderer.stop.ids))
    if parsed.termination is Termination.LENGTH:
        assert not ended
    if parsed.termination is Termination.EOS:
        assert ids[-1] in renderer.tokenizer.eos_ids


@every_format
@given(data=st.data())
def test_an_answer_cut_by_a_limit_is_read_as_cut(renderer: Renderer, data: st.DataObject) -> None:
    conversation = chats(data, renderer)
    datum = renderer.supervised(conversation, train_on="last_assistant_message")[0]
    answer = datum.targets[datum.weights != 0]
    cut = data.draw(st.integers(0, len(answer) - 1))
    assert renderer.parse(answer[:cut]).termination is Termination.LENGTH
    assert renderer.parse(answer).termination is Termination.STOP
    if renderer.stop.ids and answer[-1] in renderer.stop.ids:
        assert renderer.parse([*answer.tolist(), 65]).termination is Termination.MALFORMED


@every_format
@given(data=st.data())
def test_a_stream_reads_what_the_whole_reads_wherever_it_is_cut(renderer: Renderer, data: st.DataObject) -> None:
    """What it gives piece by piece is what stands in the message at the end."""
    conversation = chats(data, renderer)
    datum = renderer.supervised(conversation, train_on="last_assistant_message")[0]
    answer = datum.targets[datum.weights != 0]
    cuts = data.draw(st.lists(st.integers(0, len(answer)), max_size=5).map(sorted))
    stream, deltas = renderer.stream(), []
    for a, b in pairwise([0, *cuts, len(answer)]):
        deltas += stream.feed(answer[a:b])
    rest, parsed = stream.finish()
    assert parsed == renderer.parse(answer)
    said = {kind: "".join(d.text for d in [*deltas, *rest] if d.kind is kind) for kind in DeltaKind}
    assert said[DeltaKind.TEXT] == parsed.message.text
    assert said[DeltaKind.THINKING] == (parsed.message.thinking or "")
    assert tuple(d.call for d in [*deltas, *rest] if d.kind is DeltaKind.CALL) == parsed.message.tool_calls


# From turn to turn.


@every_format
@given(data=st.data())
def test_a_bridge_is_an_extension_and_what_a_new_prompt_would_be_or_there_is_none(
    renderer: Renderer, data: st.DataObject
) -> None:
    conversation = chats(data, renderer)
    messages, tools = conversation.messages, conversation.tools
    for i in answers_of(conversation):
        end = next((k for k in range(i + 1, len(messages)) if messages[k].role == "assistant"), len(messages))
        prompt = renderer.generation_prompt(messages[:i], tools=tools).ids
        datum = renderer.supervised(Conversation(messages[: i + 1], tools), train_on="last_assistant_message")[0]
        completion = datum.targets[datum.weights != 0]
        bridged = renderer.bridge(prompt, completion, messages[i + 1 : end])
        event("bridged" if bridged is not None else "none")
        if bridged is None:
            assert end == i + 1 or not renderer.is_prefix_stable
            continue
        sampled = np.concatenate([prompt, completion])
        assert bridged[: len(sampled)].tobytes() == sampled.tobytes()
        asked = renderer.generation_prompt(messages[:end], tools=tools).ids
        if renderer.name.startswith(("qwen3_5", "qwen3_6", "qwen3_8")):  # an empty block is two tokens when sampled
            assert renderer.tokenizer.decode(bridged) == renderer.tokenizer.decode(asked)
        else:
            assert np.array_equal(bridged, asked)
        assert renderer.bridge(prompt, completion[:-1], messages[i + 1 : end]) is None, "an unfinished answer"


@every_format
@given(data=st.data())
def test_a_stable_format_never_rewrites_what_stands(renderer: Renderer, data: st.DataObject) -> None:
    conversation = chats(data, renderer)
    messages, tools = conversation.messages, conversation.tools
    prompts = [renderer.generation_prompt(messages[:i], tools=tools).ids for i in answers_of(conversation)]
    grows = all(np.array_equal(later[: len(p)], p) for p, later in pairwise(prompts))
    event("grows" if grows else "rewrites")
    if renderer.is_prefix_stable:
        assert grows
        assert len(renderer.supervised(conversation)) == 1


@pytest.mark.parametrize("name", ["qwen3", "qwen3_disable_thinking"])
def test_a_format_that_is_called_unstable_has_a_witness(name: str) -> None:
    renderer = rendering.get(name, TOKENIZERS["fake-bytes"])
    parts = (ThinkingPart("a"), TextPart("b")) if name == "qwen3" else (TextPart("b"),)
    asked = Message.user("Hi")
    first = renderer.render([asked, Message("assistant", parts)])
    later = renderer.generation_prompt([asked, Message("assistant", parts), asked])
    assert not later.starts_with(first)


@every_format
@given(data=st.data(), prefill=texts())
def test_a_prefill_follows_the_prompt_as_text(renderer: Renderer, data: st.DataObject, prefill: str) -> None:
    conversation = chats(data, renderer)
    plain = renderer.generation_prompt(conversation.messages)
    filled = renderer.generation_prompt(conversation.messages, prefill=prefill)
    assert filled.starts_with(plain)
    assert renderer.tokenizer.decode(filled.ids[len(plain) :]) == prefill
    assert np.all(filled.origin[len(plain) :] == Origin.TEXT)

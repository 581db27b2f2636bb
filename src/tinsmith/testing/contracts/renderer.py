"""The contract of a Renderer. Subclass it, supply `make`, and say what the format can hold."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tinsmith.domain.errors import RenderError
from tinsmith.domain.messages import Conversation, ImagePart, Message, ToolCall, UnparsedToolCall
from tinsmith.rendering import Delta, DeltaKind, Origin, Renderer, Termination, TooLong
from tinsmith.testing.contracts._common import LAW
from tinsmith.testing.strategies import conversations, texts


class RendererContract:
    """Laws of every chat format, over conversations with hostile text.

    class TestMine(RendererContract):
        avoid = ("[END]",)
        def make(self): return MyFormat("mine", FakeTokenizer(("[USER]", "[MODEL]", "[END]")))
    """

    avoid: tuple[str, ...] = ()
    """Strings that an answer's text must not hold, since the format would read them as its own."""
    plain_keys: bool = False
    """Arguments of calls need names without signs."""
    trains_thinking: bool = True
    """It can train an answer with thinking (if it has a form for thinking at all)."""
    thinks_always: bool = False
    """It can train no answer without thinking."""
    prefill_marks: str = ""
    """Control tokens that the format puts before a prefill, since the model would sample them."""
    goes_on_after_a_call: bool = False
    """Several calls of one message stand in a row, each with a token behind it that a turn stops at."""
    calls: bool = True
    """What `parse` gives has the calls (if the format has a form for calls at all)."""

    def make(self) -> Renderer:
        """The renderer; it may be the same object each time."""
        raise NotImplementedError

    def as_written(self, message: Message) -> Message:
        """The answer that `parse` gives for this one: itself, but for what the format trims."""
        return message

    def as_written_after(self, before: Sequence[Message], message: Message) -> Message:
        """The same, where it depends on the messages before."""
        return self.as_written(message)

    def conversations(self, renderer: Renderer) -> st.SearchStrategy[Conversation]:
        """Conversations that the format can hold and train, each with a question."""
        found = conversations(
            thinking=renderer.thinks and self.trains_thinking,
            calls=renderer.calls_tools and self.calls,
            avoid=self.avoid,
            plain_keys=self.plain_keys,
        )
        return found.filter(lambda c: any(m.role == "user" and m.text.strip() for m in c.messages)).filter(
            lambda c: not self.thinks_always or all((m.thinking or "x").strip() for m in c.messages)
        )

    def _draw(self, data: st.DataObject) -> tuple[Renderer, Conversation]:
        renderer = self.make()
        conversation = data.draw(self.conversations(renderer))
        if self.thinks_always:
            assume(all(m.thinking for m in conversation.messages if m.role == "assistant"))
        return renderer, conversation

    @LAW
    @given(data=st.data())
    def test_no_text_becomes_a_control_token(self, data: st.DataObject) -> None:
        renderer, conversation = self._draw(data)
        rendered = renderer.render(conversation.messages, conversation.tools)
        special = np.isin(rendered.ids, list(renderer.tokenizer.special_tokens.values()))
        assert np.array_equal(rendered.special, special)
        assert not np.any(special & rendered.is_content)
        # Words in place of every text of people and tools leave the same control tokens, so no text wrote one.
        plain = [
            Message(m.role, "word" if m.text.strip() else m.text, tool_call_id=m.tool_call_id, name=m.name)
            if m.role != "assistant" and not m.text.strip().startswith("<tool_response>")
            else m
            for m in conversation.messages
        ]
        words = renderer.render(plain, conversation.tools)
        assert rendered.ids[rendered.special].tolist() == words.ids[words.special].tolist()

    @LAW
    @given(data=st.data())
    def test_every_token_has_one_owner_in_order(self, data: st.DataObject) -> None:
        renderer, conversation = self._draw(data)
        rendered = renderer.render(conversation.messages, conversation.tools)
        assert np.all(np.diff(rendered.message) >= 0)
        assert np.all((rendered.message >= -1) & (rendered.message < len(conversation.messages)))
        again = renderer.render(conversation.messages, conversation.tools)
        assert again.starts_with(rendered)
        assert len(again) == len(rendered), "the same input gives the same tokens"

    @LAW
    @given(data=st.data())
    def test_an_answer_is_trained_once_as_it_is_sampled_and_reads_back(self, data: st.DataObject) -> None:
        """After exactly its generation prompt, which weighs nothing; whole, stop included; parse gives it back."""
        renderer, conversation = self._draw(data)
        messages = conversation.messages
        trained: list[int] = []
        for datum in renderer.supervised(conversation):
            assert np.array_equal(datum.tokens[1:], datum.targets[:-1])
            ids = np.append(datum.tokens, datum.targets[-1])
            for i in np.unique(datum.message[datum.weights != 0]).tolist():
                where = np.flatnonzero((datum.weights != 0) & (datum.message == i)) + 1
                prompt = renderer.generation_prompt(messages[:i], tools=conversation.tools).ids
                assert np.array_equal(ids[: len(prompt)], prompt)
                assert np.array_equal(where, np.arange(len(prompt), where[-1] + 1))
                stop = renderer.stop
                assert ids[where[-1]] in stop.ids or renderer.tokenizer.decode(ids[where]).endswith(stop.strings)
                parsed = renderer.parse(ids[where], prompt=prompt, tools=conversation.tools)
                assert parsed.termination is Termination.STOP
                assert not parsed.failures
                assert parsed.message == self.as_written_after(messages[:i], messages[i])
                trained.append(i)
        assert sorted(trained) == [i for i, m in enumerate(messages) if m.role == "assistant"]

    @LAW
    @given(data=st.data())
    def test_a_cut_keeps_alignment(self, data: st.DataObject) -> None:
        renderer, conversation = self._draw(data)
        whole = renderer.supervised(conversation, train_on="last_assistant_message")[0]
        n = data.draw(st.integers(int(np.flatnonzero(whole.weights)[0]) + 1, whole.num_tokens))
        if n < whole.num_tokens:
            with pytest.raises(TooLong):
                renderer.supervised(conversation, train_on="last_assistant_message", max_length=n)
        [cut] = renderer.supervised(conversation, train_on="last_assistant_message", max_length=n, overlong="truncate")
        for column in ("tokens", "targets", "weights", "message"):
            assert np.array_equal(getattr(cut, column), getattr(whole, column)[: cut.num_tokens])
        assert cut.num_tokens <= n
        assert not np.any(whole.weights[cut.num_tokens : n])

    @LAW
    @given(data=st.data())
    def test_a_bridge_extends_or_there_is_none(self, data: st.DataObject) -> None:
        renderer, conversation = self._draw(data)
        messages, tools = conversation.messages, conversation.tools
        for i, end in _turns(messages):
            prompt = renderer.generation_prompt(messages[:i], tools=tools).ids
            _, completion = self._sampled(renderer, Conversation(messages[: i + 1], tools))
            bridged = renderer.bridge(prompt, completion, messages[i + 1 : end])
            if bridged is None:
                assert end == i + 1 or not renderer.is_prefix_stable
                continue
            sampled = np.concatenate([prompt, completion])
            assert bridged[: len(sampled)].tobytes() == sampled.tobytes()
            asked = renderer.generation_prompt(messages[:end], tools=tools).ids
            assert renderer.tokenizer.decode(bridged) == renderer.tokenizer.decode(asked)
            assert renderer.bridge(prompt, completion[:-1], messages[i + 1 : end]) is None, "an unfinished answer"
            if renderer.calls_tools and not messages[i].tool_calls:
                with suppress(RenderError):  # a result of no call
                    assert renderer.bridge(prompt, completion, [Message("tool", "2")]) is None

    @LAW
    @given(data=st.data())
    def test_a_stable_format_never_rewrites(self, data: st.DataObject) -> None:
        renderer, conversation = self._draw(data)
        messages, tools = conversation.messages, conversation.tools
        if not renderer.is_prefix_stable:
            return
        prompts = [renderer.generation_prompt(messages[:i], tools=tools).ids for i, _ in _turns(messages)]
        assert all(np.array_equal(later[: len(p)], p) for p, later in pairwise(prompts))
        assert len(renderer.supervised(conversation)) == 1

    @LAW
    @given(data=st.data())
    def test_a_stream_reads_what_the_whole_reads(self, data: st.DataObject) -> None:
        """Wherever it is cut; what it gives in pieces is what it gives at the end. Nothing is held back but
        white space, half a character, and what may be the start of a stop."""
        renderer, conversation = self._draw(data)
        prompt, completion = self._sampled(renderer, conversation)
        n = len(completion)
        cuts = data.draw(st.just(range(n)) | st.lists(st.integers(0, n), max_size=6).map(sorted))
        stream = renderer.stream(prompt=prompt, tools=conversation.tools)
        deltas: list[Delta] = []

        def said(kind: DeltaKind) -> str:
            return "".join(d.text for d in deltas if d.kind is kind)

        for a, b in pairwise([0, *cuts, n]):
            deltas += stream.feed(completion[a:b])
            if not renderer.stop.strings:
                so_far = renderer.parse(completion[:b], prompt=prompt, tools=conversation.tools).message
                assert said(DeltaKind.TEXT) == so_far.text.rstrip("\ufffd").rstrip()
        rest, parsed = stream.finish()
        deltas += rest
        assert parsed == renderer.parse(completion, prompt=prompt, tools=conversation.tools)
        joined = {kind: said(kind) for kind in DeltaKind}
        assert joined[DeltaKind.TEXT] == parsed.message.text
        assert joined[DeltaKind.THINKING] == (parsed.message.thinking or "")
        assert tuple(d.call for d in deltas if d.kind is DeltaKind.CALL) == parsed.message.tool_calls

    @LAW
    @given(data=st.data())
    def test_reading_never_fails(self, data: st.DataObject) -> None:
        renderer = self.make()
        control = sorted(renderer.tokenizer.special_tokens.values())
        some = st.integers(0, renderer.tokenizer.vocab_size - 1) | st.sampled_from(control or [0])
        ids = data.draw(st.lists(some, max_size=12) | texts().map(lambda t: renderer.tokenizer.encode(t).tolist()))
        parsed = renderer.parse(ids)
        stream = renderer.stream()
        for id in ids:
            stream.feed(id)
        assert stream.finish()[1] == parsed
        assert parsed.message.role == "assistant"
        if parsed.termination is Termination.LENGTH:
            seen = ids[-1:] if self.goes_on_after_a_call else ids
            assert not set(seen) & set(renderer.stop.ids)

    @LAW
    @given(data=st.data())
    def test_a_prefill_follows_the_prompt_as_text(self, data: st.DataObject) -> None:
        renderer, conversation = self._draw(data)
        prefill = data.draw(texts())
        plain = renderer.generation_prompt(conversation.messages, tools=conversation.tools)
        filled = renderer.generation_prompt(conversation.messages, tools=conversation.tools, prefill=prefill)
        assert filled.starts_with(plain)
        added = slice(len(plain), None)
        assert renderer.tokenizer.decode(filled.ids[added]) == (self.prefill_marks if prefill else "") + prefill
        assert np.array_equal(filled.origin[added] == Origin.TEXT, ~filled.special[added])
        assert not np.any(filled.special[added]) or (prefill and self.prefill_marks)

    @LAW
    @given(data=st.data())
    def test_a_batch_is_its_conversations(self, data: st.DataObject) -> None:
        renderer = self.make()
        some = data.draw(st.lists(self.conversations(renderer), max_size=3))
        for conversation, rendered in zip(some, renderer.render_batch(some), strict=True):
            alone = renderer.render(conversation.messages, conversation.tools)
            assert rendered.starts_with(alone)
            assert len(rendered) == len(alone)
        prefill = data.draw(texts())
        for conversation, rendered in zip(some, renderer.generation_prompt_batch(some, prefill=prefill), strict=True):
            alone = renderer.generation_prompt(conversation.messages, tools=conversation.tools, prefill=prefill)
            assert rendered.starts_with(alone)
            assert len(rendered) == len(alone)

    def test_what_cannot_be_rendered_is_refused_by_message(self) -> None:
        renderer = self.make()
        asked = {"role": "user", "content": "Hi"}
        bad: dict[str, Any] = {
            "unknown role": {"role": "usr", "content": "Hi"},
            "None content": {"role": "user", "content": None},
            "a result without a call": {"role": "tool", "content": "2"},
        }
        if ImagePart not in renderer.placeholders:
            bad["an image"] = {"role": "user", "content": [{"type": "image", "image": "cat.png"}]}
        for what, message in bad.items():
            for give in (renderer.render, renderer.generation_prompt, renderer.supervised):
                with pytest.raises(RenderError, match="message 1"):
                    _not_refused(what, give([asked, message]))
        if renderer.calls_tools:
            call = {"role": "assistant", "tool_calls": [{"function": {"name": "g", "arguments": "{}"}}]}
            with pytest.raises(RenderError, match="message 1 calls the tool 'g', which is not declared"):
                renderer.render([asked, call], [{"name": "f", "parameters": {}}])
            for arguments in ("{", "[]", {"x": float("nan")}):
                broken = {"role": "assistant", "tool_calls": [{"function": {"name": "g", "arguments": arguments}}]}
                with pytest.raises(RenderError, match="message 1"):
                    renderer.render([asked, broken])
            with pytest.raises(RenderError, match=r"message 1: .*arguments of"):
                renderer.render([asked, Message("assistant", tool_calls=(ToolCall("g", "{"),))])
            schemas: list[Any] = [[], "x", {"properties": []}, {"properties": {"a": 1}}, {"required": 1}, {"type": {}}]
            for parameters in schemas:
                with pytest.raises(RenderError, match="tool 'f': parameters"):
                    renderer.generation_prompt([asked], tools=[{"name": "f", "parameters": parameters}])
            with pytest.raises(RenderError, match="tool 'f': its description"):
                renderer.generation_prompt([asked], tools=[{"name": "f", "description": 5}])

    def test_a_call_that_could_not_be_read_is_never_left_out(self) -> None:
        """It is written as the model wrote it, or the message is refused."""
        renderer = self.make()
        wrote = UnparsedToolCall('{"name": f, "arguments"')
        try:
            rendered = renderer.render([Message.user("q"), Message("assistant", unparsed_tool_calls=(wrote,))])
        except RenderError as error:
            assert "message 1" in str(error)  # noqa: PT017
        else:
            assert wrote.text in renderer.tokenizer.decode(rendered.ids)

    def test_no_tool_writes_a_control_token(self) -> None:
        """Whatever its name, description and parameters spell, and what calls and results are named."""
        renderer = self.make()
        if not renderer.calls_tools:
            return

        def control(name: str, words: str) -> list[int]:
            spec = {"type": "string", "description": words, "enum": [words], "default": words}
            schema = {"type": "object", "properties": {words: spec, "any": True}, "required": [words]}
            tool = {"name": name, "description": words, "parameters": schema}
            call = ToolCall(name, json.dumps({"k": words}), "call")
            chat = [Message.user("q"), Message("assistant", tool_calls=(call,))]
            chat.append(Message("tool", words, name=name, tool_call_id="call"))
            rendered = renderer.generation_prompt(chat, tools=[tool])
            return [int(id) for id in rendered.ids[rendered.special]]

        plain = control("f", "word")
        for mark in renderer.tokenizer.special_tokens:
            for words in (mark, f"a{mark}b"):
                for name in ("f", words):
                    try:
                        found = control(name, words)
                    except RenderError:  # a name that the format cannot hold
                        continue
                    assert found == plain, (name, words)

    def _sampled(self, renderer: Renderer, conversation: Conversation) -> tuple[Any, Any]:
        """The last answer and its prompt."""
        datum = renderer.supervised(conversation, train_on="last_assistant_message")[0]
        first = int(np.flatnonzero(datum.weights)[0])
        return datum.tokens[: first + 1], datum.targets[datum.weights != 0]


def _not_refused(what: str, given: object) -> None:
    pytest.fail(f"{what} was not refused: {given!r}")


def _turns(messages: tuple[Message, ...]) -> Iterator[tuple[int, int]]:
    """Each answer, and where the messages after it end."""
    answers = [i for i, m in enumerate(messages) if m.role == "assistant"]
    return pairwise([*answers, len(messages)])

"""hf_template: any tokenizer's own chat template, under the same contract as every other format.

* **Text stays text.** What messages and tools hold is guarded before the template sees it, wherever it spells a control
  token: only what the template itself writes becomes one. So a thinking tag inside a text is text too; thinking is
  given as a part.
* **Answers are found, not guessed.** An answer is what the finished text has after the text of its prompt, up to the
  control token that ends it; where the finished text does not begin with the prompt, training it is refused. Marks
  (`{% generation %}`) narrow it.
* **Owners.** Rendering once more with each word replaced by a character of its own tells which words are whose; where
  the template looks into words and so gives another text, only answers have owners, and only they can be trained.

Special tokens that swallow white space around them (`lstrip`, `rstrip`) are taken as if they did not.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import date as Date
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
from attrs import frozen

from tinsmith.domain.errors import RenderError
from tinsmith.domain.messages import Message, TextPart, ThinkingPart, Tool, ToolCall, UnparsedToolCall
from tinsmith.domain.tokens import Ints, ints
from tinsmith.ports.tokenizer import Tokenizer
from tinsmith.rendering.base import Renderer
from tinsmith.rendering.framing import frame
from tinsmith.rendering.given import messages_of
from tinsmith.rendering.records import Hints, Origin, Parsed, Stop, Termination
from tinsmith.rendering.script import Script
from tinsmith.rendering.tagged import Tags, read_answer, read_json_call
from tinsmith.rendering.template_texts import (
    bridged,
    index_after,
    over_texts,
    owners_by_start,
    token_names,
    unmarked,
    where_apart,
    with_content,
)
from tinsmith.rendering.templates import GUARD, ChatTemplate, escaped, plain
from tinsmith.rendering.xml_calls import read_xml_call

_THINK, _THOUGHT = "<think>", "</think>"
_CALL, _CALLED = "<tool_call>", "</tool_call>"
_FIRST_WORD, _LAST_WORD = 0xF0000, 0x10FFFD
_ASK = (Message.user("x"),)
_MORE = Message.user("z")


@frozen
class _Text:
    """A template's text with what is known of each character."""

    text: str
    """With guards."""
    marked: tuple[bool, ...]
    """[characters]: inside `{% generation %}`."""


class HFTemplate(Renderer):
    thinking_marks = (_THINK, _THOUGHT)
    is_prefix_stable = False
    keeps_unread_calls = False
    roles = ("system", "developer", "user", "assistant", "tool")

    def __init__(
        self,
        name: str,
        tokenizer: Tokenizer,
        *,
        template: str | None = None,
        variables: Mapping[str, Any] | None = None,
        date: str | Date | None = None,
    ) -> None:
        """`template` takes the place of the tokenizer's own. `variables` are given to it
        (`{"enable_thinking": False}`). `date` (a date or YYYY-MM-DD) is the day that a template may tell the model."""
        super().__init__(name, tokenizer)
        source = template if template is not None else tokenizer.chat_template
        if source is None:
            raise RenderError(f"tokenizer {tokenizer.name!r} has no chat template; hf_template needs one")
        day = Date.fromisoformat(date) if isinstance(date, str) else date
        self._template = ChatTemplate(source, {**token_names(tokenizer), **(variables or {})}, date=day)
        self.thinks, self.calls_tools = self._template.shows_thinking, self._template.shows_tools
        special = sorted(tokenizer.special_tokens, key=len, reverse=True)
        self._names = re.compile("|".join(map(re.escape, special)) or r"(?!)")
        self._spelled = re.compile(f"(?=(?:{self._names.pattern}))")
        self._laid_out = lru_cache(maxsize=64)(self._lay_out)
        self._template.as_parts = not self._shows(_ASK)
        self._laid_out.cache_clear()
        self._stop_ids = self._find_stop()
        tags_of = tokenizer.special_tokens
        if _CALL in tags_of and _CALLED in tags_of:
            asked = self._text(_ASK, (), ask=True).text
            thinks = _THOUGHT in source and _THINK in tags_of and _THOUGHT in tags_of
            self._tags: Tags | None = Tags(
                stop=next((n for n, i in tags_of.items() if i in self._stop_ids), ""),
                think=(_THINK, _THOUGHT) if thinks else None,
                call=(_CALL, _CALLED),
                read_call=_read_call,
                opened=thinks and asked.rstrip().endswith(_THINK),
                trims=" y " not in self._text((*_ASK, Message.assistant(" y ")), ()).text,
            )
        else:
            self._tags = None

    @property
    def stop(self) -> Stop:
        return Stop(ids=tuple(dict.fromkeys((*self._stop_ids, *self.tokenizer.eos_ids))))

    def _shows(self, asked: Sequence[Message]) -> bool:
        try:
            return asked[0].text in self._plain(asked, ())
        except RenderError:
            return False

    def _find_stop(self) -> tuple[int, ...]:
        """The control tokens that the template writes after an answer, and after a call."""
        prompt = self._text(_ASK, (), ask=True).text
        call = Message("assistant", "y", tool_calls=(ToolCall("f", "{}", "f0"),))
        ids = []
        for answer in (Message.assistant("y"), call) if self.calls_tools else (Message.assistant("y"),):
            try:
                whole = self._text((*_ASK, answer), ()).text
            except RenderError:
                continue
            after = whole[len(prompt) :] if whole.startswith(prompt) else whole[whole.rfind("y") + 1 :]
            found = self._names.findall(after[after.find("y") + 1 :])
            ids += [self.tokenizer.special_tokens[found[-1 if answer is call else 0]]] if found else []
        return tuple(dict.fromkeys(ids))

    def _write(self, out: Script, messages: Sequence[Message], tools: Sequence[Tool], start: int) -> None:
        """Never called with a start: `bridge` is this format's own."""
        self._write_text(out, messages, tools, ask=False)

    def _write_header(self, out: Script) -> None:
        """Nothing by itself: a template writes messages and header in one go."""

    def asked(self, messages: Sequence[Message], tools: Sequence[Tool], prefill: str) -> Script:
        out = self._script(self.tokenizer)
        self._write_text(out, messages, tools, ask=True)
        out.message = len(messages)
        out.cut()
        out.text(prefill, Origin.TEXT)
        return out

    def bridge(
        self,
        prompt: Sequence[int] | Ints,
        completion: Sequence[int] | Ints,
        new_messages: Sequence[Message | Mapping[str, Any]],
    ) -> Ints | None:
        prompt, completion, new = ints(prompt), ints(completion), messages_of(new_messages)
        if not new or any(m.role == "assistant" for m in new):
            return None
        parsed = self.parse(completion)
        if parsed.termination is not Termination.STOP or parsed.message.unparsed_tool_calls:
            return None
        if not self._keeps_history(any(m.role == "user" for m in new)):
            return None
        messages = (*_ASK, parsed.message, *new)
        self.check(messages)
        before = self._plain(_ASK, (), ask=True) + self.tokenizer.decode(completion)
        whole = self._text(messages, (), ask=True)
        if not plain(whole.text).startswith(before):
            return None
        out = self._script(self.tokenizer)
        owners = self._owners(whole.text, messages, (), ask=True)
        self._pieces(out, whole.text, owners, index_after(whole.text, len(before)))
        return np.concatenate([prompt, completion, out.render().ids])

    def _read(self, ids: Ints, hints: Hints) -> Parsed:
        if self._tags is not None and self._tags.stop:
            return read_answer(ids, self.tokenizer, self._tags, hints)
        framed = frame(ids, self.tokenizer, stop_ids=self._stop_ids or self.tokenizer.eos_ids)
        return Parsed(Message("assistant", self.tokenizer.decode(framed.body)), framed.termination, framed.failures)

    # The template's text.

    def _text(self, messages: Sequence[Message], tools: Sequence[Tool], *, ask: bool = False) -> _Text:
        try:
            return self._laid_out(tuple(messages), tuple(_Same(t) for t in tools), ask)
        except RenderError as error:
            reads = (n for n in range(len(messages) - 1, 0, -1) if self._takes(messages[:n], tools))
            raise RenderError(f"message {next(reads, 0)}: {error}") from None

    def _takes(self, messages: Sequence[Message], tools: Sequence[Tool]) -> bool:
        try:
            self._template.render(messages, tools)
        except RenderError:
            return False
        return True

    def _plain(self, messages: Sequence[Message], tools: Sequence[Tool], *, ask: bool = False) -> str:
        return plain(self._text(messages, tools, ask=ask).text)

    def _lay_out(self, messages: tuple[Message, ...], same: tuple[_Same, ...], ask: bool) -> _Text:
        tools = [s.tool for s in same]
        marked = self._template.render(messages, tools, ask=ask, guard=over_texts(self._guarded))
        text, inside = unmarked(marked)
        return _Text(text, inside)

    def _guarded(self, text: str) -> str:
        """The text, escaped, with a guard inside everything that spells a control token."""
        text = escaped(text)
        if self._names.search(text) is None:
            return text
        at = [0, *(m.start() + 1 for m in self._spelled.finditer(text)), len(text)]
        return GUARD.join(text[a:b] for a, b in pairwise(at))

    def _owners(
        self, text: str, messages: Sequence[Message], tools: Sequence[Tool], *, ask: bool
    ) -> tuple[int, ...] | None:
        """[characters]: the message whose words these are, -1 for the template's own; None where nothing is known."""
        words: list[tuple[str, int]] = []

        def hidden(message: int) -> Callable[[re.Match[str]], str]:
            def hide(match: re.Match[str]) -> str:
                words.append((self._guarded(match[0]), message))
                return chr(min(_FIRST_WORD + len(words) - 1, _LAST_WORD))

            return hide

        veiled = []
        for i, message in enumerate(messages):
            parts = [
                type(p)(re.sub(r"\S+", hidden(i), p.text))
                for p in message.content
                if isinstance(p, TextPart | ThinkingPart)
            ]
            veiled.append(with_content(message, parts))
        if len(words) > _LAST_WORD - _FIRST_WORD:
            return None
        try:
            template, _ = unmarked(self._template.render(veiled, tools, ask=ask, guard=over_texts(self._guarded)))
        except RenderError:
            return None
        pieces: list[str] = []
        owners: list[int] = []
        for c in template:
            number = ord(c) - _FIRST_WORD
            word, owner = words[number] if 0 <= number < len(words) else (c, -1)
            pieces.append(word)
            owners += [owner] * len(word)
        return bridged(text, owners) if "".join(pieces) == text else None

    # Text to pieces.

    def _write_text(self, out: Script, messages: Sequence[Message], tools: Sequence[Tool], *, ask: bool) -> None:
        whole = self._text(messages, tools, ask=ask)
        owners = self._owners(whole.text, messages, tools, ask=ask)
        if owners is not None:
            shown = set(owners)
            for i, message in enumerate(messages):
                if message.text.strip() and i not in shown:
                    raise RenderError(f"message {i}: the chat template leaves out what this {message.role} says")
        starts: dict[int, int] = {}
        for i in range(1, len(messages)):
            try:
                before = self._text(messages[:i], tools).text
            except RenderError:
                continue
            if whole.text.startswith(before):
                starts[i] = len(before)
        answers = []
        for i, message in enumerate(messages):
            if message.role == "assistant":
                found = self._answer(whole, messages, tools, i, last=i + 1 == len(messages) and out.sampled)
                answers += [] if found is None else [(i, *found)]
        trained = out.sampled and answers and answers[-1][0] + 1 == len(messages)
        self._pieces(out, whole.text, owners, 0, answers, starts, answers[-1][1] if trained else -1)

    def _answer(
        self, whole: _Text, messages: Sequence[Message], tools: Sequence[Tool], i: int, *, last: bool
    ) -> tuple[int, int] | None:
        """Where an answer stands that a model would sample; RenderError where it must (`last`) and does not."""
        try:
            prompt = self._text(messages[:i], tools, ask=True).text
            until = whole.text if last else self._text(messages[: i + 1], tools).text
        except RenderError:
            if last:
                raise
            return None
        if not (until.startswith(prompt) and whole.text.startswith(until)):
            if last:
                raise RenderError(
                    f"message {i} cannot be trained: the chat template writes the finished answer otherwise than its "
                    f"prompt begins it ({where_apart(until, prompt)})"
                )
            return None
        begin, end = len(prompt), len(until)
        stops = [m.end() for m in self._names.finditer(until, begin) if self._id_of(m) in self.stop.ids]
        if not stops:
            if last:
                raise RenderError(f"message {i} cannot be trained: the chat template puts no control token after it")
            return None
        end = stops[-1]
        if self._template.marks:
            inside = [n for n in range(begin, end) if whole.marked[n]]
            begin, end = (max(begin, inside[0]), inside[-1] + 1) if inside else (end, end)
        return (begin, end) if begin < end else None

    def _id_of(self, match: re.Match[str]) -> int:
        return self.tokenizer.special_tokens[match[0]]

    def _pieces(
        self,
        out: Script,
        text: str,
        owners: tuple[int, ...] | None,
        start: int,
        answers: Sequence[tuple[int, int, int]] = (),
        starts: Mapping[int, int] | None = None,
        cut: int = -1,
    ) -> None:
        """Write the text from character `start` on; answers are (message, begin, end), starts those of messages where
        they are known. At `cut` sampling begins."""
        controls = {
            m.start(): m
            for m in self._names.finditer(text, start)
            if owners is None or not any(owners[n] >= 0 for n in range(m.start(), m.end()))
        }
        sampled = {n: i for i, begin, end in answers for n in range(begin, end)}
        owner_from = owners_by_start(owners, answers, starts or {})
        at, run, kind = start, start, None
        message = -1

        def flush(until: int) -> None:
            if run < until and kind is not None:
                out.message = kind[0]
                out.text(plain(text[run:until]), kind[1])

        while at < len(text):
            message = owner_from.get(at, message)
            if at == cut:
                flush(at)
                run, kind = at, None
                out.cut()
            found = controls.get(at)
            own = sampled.get(at)
            owner = own if own is not None else message
            if found is not None:
                flush(at)
                out.message = owner
                out.control(found[0], Origin.MARK if own is not None else Origin.FORMAT)
                at = found.end()
                run, kind = at, None
                continue
            word = owners is not None and owners[at] >= 0
            here = (owner, Origin.TEXT if word else Origin.MARK if own is not None else Origin.FORMAT)
            if here != kind:
                flush(at)
                run, kind = at, here
            at += 1
        flush(at)

    def _keeps_history(self, asks: bool) -> bool:
        """Whether thinking and calls of earlier answers stay as they are, when a question or a result follows."""
        if not self.thinks or not asks:
            return True
        thought = Message("assistant", (ThinkingPart("t"), TextPart("y")))
        later = self._plain((*_ASK, thought, _MORE), (), ask=True)
        return later.startswith(self._plain((*_ASK, thought), ()))


@frozen
class _Same:
    """A tool as a key: tools of equal JSON are the same."""

    tool: Tool

    def __hash__(self) -> int:
        return hash(self.tool.name)


def _read_call(text: str, hints: Hints) -> ToolCall | UnparsedToolCall:
    if "<function=" not in text:
        return read_json_call(text)
    return read_xml_call(text, hints)


FORMATS = {"hf_template": HFTemplate}

"""gemma3: `<start_of_turn>user` and `model` in turns, as Gemma 3's chat template writes them.

A system message becomes the start of the first question. Text is trimmed, so an answer is trained without white space
around it.
"""

from __future__ import annotations

from collections.abc import Sequence

from tinsmith.domain.errors import RenderError
from tinsmith.domain.messages import ImagePart, MediaPart, Message, TextPart, Tool
from tinsmith.domain.tokens import Ints
from tinsmith.ports.tokenizer import Tokenizer
from tinsmith.rendering.base import Renderer
from tinsmith.rendering.framing import frame
from tinsmith.rendering.records import Hints, Origin, Parsed
from tinsmith.rendering.script import Script

_BOS, _START, _END, _IMAGE = "<bos>", "<start_of_turn>", "<end_of_turn>", "<start_of_image>"


class Gemma3(Renderer):
    needs = (_BOS, _START, _END)
    ends = (_END,)
    roles = ("system", "user", "assistant")
    thinks = False
    calls_tools = False

    def __init__(self, name: str, tokenizer: Tokenizer) -> None:
        if _IMAGE in tokenizer.special_tokens:  # the smallest model has none
            self.placeholders = {ImagePart: _IMAGE}
        super().__init__(name, tokenizer)

    def _check(self, index: int, message: Message) -> None:
        if message.role == "system" and index > 0:
            raise RenderError(f"message {index}: {self.name} has a place for a system message only at the start")
        if message.media and message.role != "user":
            raise RenderError(f"message {index}: {self.name} has no form for an image in a {message.role} message")

    def _write(self, out: Script, messages: Sequence[Message], tools: Sequence[Tool], start: int) -> None:
        first = int(bool(messages) and messages[0].role == "system")
        if start == 0:
            out.control(_BOS)
        for i in range(start, len(messages)):
            message = messages[i]
            wanted = "assistant" if (i - first) % 2 else "user"
            if start == 0 and i >= first and message.role != wanted:
                raise RenderError(f"message {i} is a {message.role} message where {self.name} needs one of {wanted}")
            if start and message.role == messages[i - 1].role:
                raise RenderError(f"message {i}: {self.name} has no form for two {message.role} messages in a row")
            if i < first:
                if len(messages) == 1:
                    raise RenderError(f"message {i}: {self.name} has no form for a system message without a question")
                continue
            out.message = 0 if i == first else i
            out.control(_START)
            out.text("model\n" if message.role == "assistant" else "user\n")
            if i == first == 1:
                out.text(messages[0].text, Origin.TEXT)
                out.text("\n\n")
                out.message = i
            if message.role == "assistant":
                out.cut()
            self._write_content(out, message)
            out.control(_END, Origin.MARK)
            out.text("\n")

    def _write_content(self, out: Script, message: Message) -> None:
        if not message.media:
            out.text(message.text.strip(), Origin.TEXT)
        else:
            for part in message.content:
                if isinstance(part, TextPart):
                    out.text(part.text.strip(), Origin.TEXT)
                elif isinstance(part, MediaPart):
                    self._write_media(out, part)

    def _write_header(self, out: Script) -> None:
        out.control(_START)
        out.text("model\n")

    def _write_after_stop(self, out: Script) -> None:
        out.text("\n")

    def _bridges(self, prompt: Ints, completion: Ints, new: Sequence[Message]) -> bool:
        text = self.parse(completion).message.text
        return text == text.strip() and [m.role for m in new] == ["user"]

    def _read(self, ids: Ints, hints: Hints) -> Parsed:
        framed = frame(ids, self.tokenizer, stop_ids=(self._id[_END],))
        return Parsed(Message("assistant", self.tokenizer.decode(framed.body)), framed.termination, framed.failures)


FORMATS = {"gemma3": Gemma3}
MODELS = ((r"gemma-3-[0-9]+[bm]-it.*", "gemma3"),)

"""role_colon: `User: Hi` and `Assistant: Hello`, a blank line between, for base models without control tokens.

An answer ends with "User:", which opens the next turn: it is the answer's stop, and the answer owns it. The format is
plain text, so a text can imitate it; an answer that holds the stop is refused, since training on it would teach to stop
inside.
"""

from __future__ import annotations

from collections.abc import Sequence

from tinsmith.domain.errors import RenderError
from tinsmith.domain.messages import Message, Tool
from tinsmith.domain.tokens import Ints
from tinsmith.ports.tokenizer import Tokenizer
from tinsmith.rendering.base import Renderer
from tinsmith.rendering.records import Failure, FailureKind, Hints, Origin, Parsed, Stop, Termination
from tinsmith.rendering.script import Script

_STOP = "\n\nUser:"


class RoleColon(Renderer):
    roles = ("system", "user", "assistant")
    thinks = False
    calls_tools = False

    def __init__(self, name: str, tokenizer: Tokenizer) -> None:
        super().__init__(name, tokenizer)
        self._controls = set(tokenizer.special_tokens.values())

    @property
    def stop(self) -> Stop:
        return Stop(ids=self.tokenizer.eos_ids, strings=(_STOP,))

    def _check(self, index: int, message: Message) -> None:
        if message.role == "assistant" and _STOP in message.text:
            raise RenderError(f"message {index} holds {_STOP!r}, which would end it there")

    def _write(self, out: Script, messages: Sequence[Message], tools: Sequence[Tool], start: int) -> None:
        if start == 0 and self.tokenizer.bos_id is not None:
            out.control_id(self.tokenizer.bos_id)
        for i in range(start, len(messages)):
            message = messages[i]
            out.message = i
            answer = message.role == "assistant"
            if not (message.role == "user" and i > 0 and messages[i - 1].role == "assistant"):
                out.text(f"{message.role.capitalize()}:")
            if answer:
                out.cut()
            out.text(" ", Origin.MARK)
            out.text(message.text, Origin.TEXT)
            out.text("\n\n", Origin.MARK)
            if answer:
                if i + 1 == len(messages) or messages[i + 1].role == "user":
                    out.text("User:", Origin.MARK)
                out.cut()

    def _write_header(self, out: Script) -> None:
        out.text("Assistant:")

    def _read(self, ids: Ints, hints: Hints) -> Parsed:
        tokens = ids.tolist()
        failures: list[Failure] = []
        termination = Termination.LENGTH
        if tokens and tokens[-1] in self.tokenizer.eos_ids:
            tokens, termination = tokens[:-1], Termination.EOS
        if any(t in self._controls for t in tokens):
            failures.append(Failure(FailureKind.STRUCTURAL, "a control token inside the text"))
            termination = Termination.MALFORMED
        text, stop, rest = self.tokenizer.decode(tokens).partition(_STOP)
        if stop and termination is not Termination.MALFORMED:
            termination = Termination.MALFORMED if rest or termination is Termination.EOS else Termination.STOP
        return Parsed(Message("assistant", text.removeprefix(" ")), termination, tuple(failures))


FORMATS = {"role_colon": RoleColon}

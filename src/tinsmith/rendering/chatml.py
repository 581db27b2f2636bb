"""chatml: `<|im_start|>role`, newline, content, `<|im_end|>`, newline.

`smollm2` is the same with the default system message of SmolLM2-Instruct's own template.
"""

from __future__ import annotations

from collections.abc import Sequence

from tinsmith.domain.messages import Message, Tool
from tinsmith.domain.tokens import Ints
from tinsmith.ports.tokenizer import Tokenizer
from tinsmith.rendering.base import Renderer
from tinsmith.rendering.framing import frame
from tinsmith.rendering.records import Hints, Origin, Parsed
from tinsmith.rendering.script import Script

_START, _END = "<|im_start|>", "<|im_end|>"
SMOLLM2_SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"


class ChatML(Renderer):
    needs = (_START, _END)
    ends = (_END,)
    roles = ("system", "user", "assistant")
    thinks = False
    calls_tools = False

    def __init__(self, name: str, tokenizer: Tokenizer, default_system: str | None = None) -> None:
        super().__init__(name, tokenizer)
        self._default_system = default_system

    def _write(self, out: Script, messages: Sequence[Message], tools: Sequence[Tool], start: int) -> None:
        if start == 0 and self._default_system is not None and messages and messages[0].role != "system":
            out.control(_START)
            out.text(f"system\n{self._default_system}")
            out.control(_END)
            out.text("\n")
        for i in range(start, len(messages)):
            message = messages[i]
            out.message = i
            out.control(_START)
            out.text(f"{message.role}\n")
            if message.role == "assistant":
                out.cut()
            out.text(message.text, Origin.TEXT)
            out.control(_END, Origin.MARK)
            out.text("\n")

    def _write_header(self, out: Script) -> None:
        out.control(_START)
        out.text("assistant\n")

    def _write_after_stop(self, out: Script) -> None:
        out.text("\n")

    def _read(self, ids: Ints, hints: Hints) -> Parsed:
        framed = frame(ids, self.tokenizer, stop_ids=(self._id[_END],))
        return Parsed(Message("assistant", self.tokenizer.decode(framed.body)), framed.termination, framed.failures)


FORMATS = {
    "chatml": ChatML,
    "smollm2": lambda name, tokenizer: ChatML(name, tokenizer, SMOLLM2_SYSTEM),
}
MODELS = (
    (r"tiny", "chatml"),
    (r"smollm2-.*instruct.*|smollm2-135m", "smollm2"),
    (r"smollm2-.*", "role_colon"),
)

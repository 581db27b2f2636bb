"""llama3: `<|start_header_id|>role<|end_header_id|>`, a blank line, the content, `<|eot_id|>`; no system message of its
own, no date, no tools.

This is the template of Llama 3. Those of 3.1 to 3.3 put the date and a knowledge cutoff into every prompt: use
`hf_template` where that is wanted.
"""

from __future__ import annotations

from collections.abc import Sequence

from tinsmith.domain.messages import Message, Tool
from tinsmith.domain.tokens import Ints
from tinsmith.rendering.base import Renderer
from tinsmith.rendering.framing import frame
from tinsmith.rendering.records import Hints, Origin, Parsed
from tinsmith.rendering.script import Script

_BEGIN, _OPEN, _CLOSE, _END = "<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"


class Llama3(Renderer):
    needs = (_BEGIN, _OPEN, _CLOSE, _END)
    ends = (_END,)
    roles = ("system", "user", "assistant")
    thinks = False
    calls_tools = False

    def _write(self, out: Script, messages: Sequence[Message], tools: Sequence[Tool], start: int) -> None:
        if start == 0:
            out.control(_BEGIN)
        for i in range(start, len(messages)):
            out.message = i
            self._open(out, messages[i].role)
            if messages[i].role == "assistant":
                out.cut()
            out.text(messages[i].text.strip(), Origin.TEXT)
            out.control(_END, Origin.MARK)

    def _write_header(self, out: Script) -> None:
        self._open(out, "assistant")

    def _open(self, out: Script, role: str) -> None:
        out.control(_OPEN)
        out.text(role)
        out.control(_CLOSE)
        out.text("\n\n")

    def _read(self, ids: Ints, hints: Hints) -> Parsed:
        framed = frame(ids, self.tokenizer, stop_ids=(self._id[_END],))
        return Parsed(Message("assistant", self.tokenizer.decode(framed.body)), framed.termination, framed.failures)


FORMATS = {"llama3": Llama3}
MODELS = ((r"(meta-)?llama-3(\.[0-9])?-.*instruct.*", "llama3"), (r"(meta-)?llama-3.*", "role_colon"))

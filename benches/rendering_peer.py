"""The peers of `rendering.py`: runs in an environment that has them. A line read is a round; a line of JSON answers.

rendering_peer.py transformers|tml FOLDER TEMPLATE
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

which, folder, template = sys.argv[1:]
chats: list[Any] = json.loads((Path(folder) / "chats.json").read_text(encoding="utf-8"))

if which == "transformers":
    from transformers import PreTrainedTokenizerFast

    tok = PreTrainedTokenizerFast(tokenizer_file=str(Path(folder) / "tokenizer.json"))
    tok.chat_template = Path(template).read_text(encoding="utf-8")

    def work() -> list[list[int]]:
        return tok.apply_chat_template(chats, tokenize=True, return_dict=False)  # type: ignore[no-any-return]

else:
    from tml_renderers import chat
    from tml_renderers import renderers as tml

    renderer = tml.Qwen3()
    messages = [chat.OpenAIMessage.from_oss_messages(c) for c in chats]

    def work() -> list[list[int]]:
        made = [renderer.render_for_sft(m)[0].input_token_spans for m in messages]
        return [[t for span in spans for t in span.span.tokens] for spans in made]


for _ in sys.stdin:
    began = time.perf_counter()
    ids = work()
    seconds = time.perf_counter() - began
    print(json.dumps({"seconds": seconds, "ids": [list(map(int, i)) for i in ids]}), flush=True)

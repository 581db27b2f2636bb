"""The libraries of `record_oracles.py`, run in an environment that has them.

    record_oracles_peer.py NAME < conversations

Answers one JSON line: for each conversation {"ids": [...], "trained": [...]} or {"refused": reason}.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

Answer = dict[str, Any]


def inkling() -> Callable[[Any], Answer]:
    from tml_renderers import chat, tokenizers, v0

    renderer = v0.Renderer(tokenizers.O200kBaseChatTokenizer())

    def seen(message: Any) -> Any:
        out = {"role": message["role"], "content": message["content"]}
        if message["thinking"] is not None:
            parts = [{"type": "thinking", "thinking": message["thinking"]}] if message["thinking"] else []
            out["content"] = [*parts, *([{"type": "text", "text": message["content"]}] if message["content"] else [])]
        if message["calls"]:
            out["tool_calls"] = [
                {"type": "function", "id": c["id"], "function": {"name": c["name"], "arguments": c["arguments"]}}
                for c in message["calls"]
            ]
        if message["role"] == "tool":
            out |= {k: message[k] for k in ("name", "tool_call_id") if message[k] is not None}
        return out

    def tokens(spans: Any) -> list[int]:
        return [t for span in spans for t in span.span.tokens]

    def answer(asked: Any) -> Answer:
        messages = [seen(m) for m in asked["messages"]]
        if asked["tools"]:
            messages = [{"role": "tool_declare", "content": json.dumps(asked["tools"])}, *messages]
        given = chat.MessageList.from_oss_messages(messages)
        if asked["ask"]:
            return {"ids": tokens(renderer.render_for_completion_with_effort(given, 0.9)[0])}
        found = list(given.messages)
        first = next((i for i, m in enumerate(found) if m.author.kind != chat.AuthorKind.System), len(found))
        found.insert(first, chat.Message(chat.ThinkingEffort(900), chat.Author(chat.AuthorKind.System)))
        [example] = renderer.render_for_sft(chat.MessageList(found))
        weights = example.per_token_loss_weight_unshifted
        return {"ids": tokens(example.input_token_spans), "trained": [i for i, w in enumerate(weights) if w]}

    return answer


def mistral(version: str) -> Callable[[Any], Answer]:
    import mistral_common
    from mistral_common.protocol.instruct.request import ChatCompletionRequest
    from mistral_common.tokens.tokenizers.mistral import MistralTokenizer
    from mistral_common.tokens.tokenizers.tekken import Tekkenizer

    # The package's vocabulary is that of version 3; later ones have the same but for the names of control tokens.
    spec = json.loads((Path(mistral_common.__file__).parent / "data" / "tekken_240911.json").read_text())
    spec["config"]["version"] = version
    spec["special_tokens"] = [dict(t) for t in Tekkenizer.DEPRECATED_SPECIAL_TOKENS]
    for rank, name in ((32, "[ARGS]"), (33, "[CALL_ID]"), (34, "[THINK]"), (35, "[/THINK]")):
        spec["special_tokens"].append({"rank": rank, "token_str": name, "is_control": True})
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "tekken.json"
        file.write_text(json.dumps(spec))
        tokenizer = MistralTokenizer.from_file(str(file))

    def seen(message: Any) -> Any:
        out = {"role": message["role"], "content": message["content"]}
        if message["thinking"]:
            parts = [{"type": "thinking", "thinking": message["thinking"]}]
            out["content"] = [*parts, *([{"type": "text", "text": message["content"]}] if message["content"] else [])]
        if message["calls"]:
            out["tool_calls"] = [
                {"type": "function", "id": c["number"], "function": {"name": c["name"], "arguments": c["arguments"]}}
                for c in message["calls"]
            ]
        if message["role"] == "tool":
            out |= {"tool_call_id": message["number"], "name": message["name"]}
        return out

    def answer(asked: Any) -> Answer:
        request = ChatCompletionRequest(
            messages=[seen(m) for m in asked["messages"]], tools=asked["tools"] or None, model="m"
        )
        # Not through the validator, which wants a question last: a finished conversation is encoded the same.
        normal = tokenizer._instruct_request_normalizer.from_chat_completion_request(request)
        return {"ids": tokenizer.instruct_tokenizer.encode_instruct(normal).tokens}

    return answer


def kimi_tools() -> Callable[[Any], Answer]:
    """The bytes of the declaration of tools."""
    from renderers.kimi_k25 import _encode_tools_typescript

    return lambda asked: {"ids": list(_encode_tools_typescript(asked["tools"]).encode())}


def main() -> None:
    name = sys.argv[1]
    known = {"tml_v0": inkling, "kimi_tools": kimi_tools}
    answer = known[name]() if name in known else mistral(name.removeprefix("mistral_"))
    out: list[Answer] = []
    for asked in json.load(sys.stdin):
        try:
            out.append(answer(asked))
        except Exception as error:  # noqa: BLE001 - whatever a library refuses with
            out.append({"refused": f"{type(error).__name__}: {error}"[:200]})
    print(json.dumps(out))


if __name__ == "__main__":
    main()

"""Chats to tokens beside transformers, tml-renderers and bare `tokenizers`, in one run, in turns.

    .venv/bin/python benches/rendering.py --chats FILE --template FILE --peer PYTHON [--tml PYTHON]

Chats are JSON lines with `messages`; the template is that of Qwen3, and so is the vocabulary (151,669 tokens), which
`family_tokenizers` of the tests makes of a package. One Python has transformers, one tml-renderers. Messages are parsed
before the clock starts, for all. Correctness is recorded beside speed: how many chats have the same ids as with each
peer (a line end after the last message, which some write and some do not, set aside).

Bare `tokenizers` gets the finished text and does no more than encode it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as Fast

from tinsmith import rendering
from tinsmith.adapters.huggingface.tokenizer import save_tokenizer
from tinsmith.domain.chat_rows import conversation_from_row
from tinsmith.domain.messages import Conversation

TESTS = Path(__file__).resolve().parents[1] / "tests"
sys.path[:0] = [str(TESTS), str(TESTS / "families")]
from family_tokenizers import family_tokenizer  # noqa: E402 - it lives with the tests


class Peer:
    """A process that renders all chats whenever it is told to."""

    def __init__(self, python: str, arguments: list[str]) -> None:
        script = str(Path(__file__).with_name("rendering_peer.py"))
        self._process = subprocess.Popen(
            [python, script, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __call__(self) -> tuple[float, list[list[int]]]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        return answer["seconds"], answer["ids"]


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    began = time.perf_counter()
    result = work()
    return time.perf_counter() - began, result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chats", type=Path, required=True)
    parser.add_argument("--peer", required=True, help="a Python with transformers")
    parser.add_argument("--tml", help="a Python with tml-renderers")
    parser.add_argument("--template", type=Path, required=True, help="the chat template of Qwen3")
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    chats = [
        conversation_from_row(json.loads(line)) for line in arguments.chats.read_text(encoding="utf-8").splitlines()
    ]
    plain = [[{"role": m.role, "content": m.text} for m in chat.messages] for chat in chats]
    chats = [Conversation(chat.messages) for chat in chats]
    tokenizer = family_tokenizer("qwen3")
    renderer = rendering.get("qwen3", tokenizer)
    folder = Path(tempfile.mkdtemp())
    save_tokenizer(tokenizer, folder)
    (folder / "chats.json").write_text(json.dumps(plain), encoding="utf-8")
    common = [str(folder), str(arguments.template)]
    peers = {"transformers": Peer(arguments.peer, ["transformers", *common])}
    if arguments.tml:
        peers["tml-renderers"] = Peer(arguments.tml, ["tml", *common])
    fast = Fast.from_file(str(folder / "tokenizer.json"))
    rendered = renderer.render_batch(chats)
    texts = [renderer.tokenizer.decode(one.ids) for one in rendered]
    seconds: dict[str, list[float]] = {}
    answers: dict[str, Any] = {}
    for _ in range(arguments.rounds):
        for name, work in {
            **peers,
            "tokenizers": lambda: timed(lambda: fast.encode_batch_fast(texts, add_special_tokens=False)),
            "tinsmith render_batch": lambda: timed(lambda: renderer.render_batch(chats)),
            "tinsmith supervised_batch": lambda: timed(lambda: renderer.supervised_batch(chats)),
        }.items():
            spent, answers[name] = work()
            seconds.setdefault(name, []).append(spent)
    line_end = tokenizer.encode("\n").tolist()

    def ended(ids: list[int]) -> list[int]:
        return ids[:-1] if ids[-1:] == line_end else ids

    rates = {name: len(chats) / statistics.median(spent) for name, spent in seconds.items()}
    ours = rates["tinsmith render_batch"]
    ids = [one.ids.tolist() for one in answers["tinsmith render_batch"]]
    for name, rate in rates.items():
        line = f"{name:26} {rate:9,.0f} chats/s   tinsmith render_batch is {ours / rate:5.2f} times that"
        if name in peers or name == "tokenizers":
            theirs = [e.ids for e in answers[name]] if name == "tokenizers" else answers[name]
            same = sum(ended(a) == ended(b) for a, b in zip(ids, theirs, strict=True))
            line += f"   same ids: {same} of {len(ids)}"
        print(line)


if __name__ == "__main__":
    main()

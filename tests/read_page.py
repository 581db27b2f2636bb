"""The page of a run read back, as a browser and its program would: an HTML parser, then the blocks of data."""

from __future__ import annotations

import base64
import json
import struct
import zlib
from html.parser import HTMLParser
from typing import Any

import numpy as np


class Elements(HTMLParser):
    """Every element with its attributes, every piece of text, and what each script holds."""

    def __init__(self, page: bytes) -> None:
        super().__init__()
        self.elements: list[tuple[str, tuple[tuple[str, str | None], ...]]] = []
        self.texts: list[str] = []
        self.blocks: dict[str, str] = {}
        self._block: str | None = None
        self.feed(page.decode())
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, tuple(attrs)))
        found = dict(attrs)
        self._block = found.get("id") if tag == "script" else None

    def handle_data(self, data: str) -> None:
        if self._block is None:
            self.texts.append(data)
        else:
            self.blocks[self._block] = self.blocks.get(self._block, "") + data

    def handle_endtag(self, tag: str) -> None:
        self._block = None

    def handle_comment(self, data: str) -> None:
        raise AssertionError("a comment")


def inflated(elements: Elements, name: str) -> bytes:
    return zlib.decompress(base64.b64decode(elements.blocks[name], validate=True))


def read_index(elements: Elements) -> dict[str, Any]:
    index: dict[str, Any] = json.loads(inflated(elements, "index").decode("utf-8", "surrogatepass"))
    return index


def read_episodes(elements: Elements) -> list[dict[str, Any]]:
    """Every episode that the page holds: its turns with whole observations, actions and columns of sampled tokens."""
    index = read_index(elements)
    columns = index["episodes"]["columns"]
    heads: list[dict[str, Any]] = []
    for number in range(max(columns["chunk"], default=-1) + 1):
        heads += _chunk(inflated(elements, f"chunk-{number}"))
    assert len(heads) == len(columns["step"])
    for i, head in enumerate(heads):
        head |= {name: columns[name][i] for name in columns}
        head["problem"] = index["episodes"]["problems"][head["problem"]]
        head["tags"] = index["episodes"]["tags"][head["tags"]]
        head["stop"] = index["episodes"]["stops"][head["stop"]]
        head["file"] = index["episodes"]["files"][head["file"]]
    return heads


def _chunk(data: bytes) -> list[dict[str, Any]]:
    (size,) = struct.unpack_from("<I", data)
    head = json.loads(data[4 : 4 + size].decode("utf-8", "surrogatepass"))
    tokens = sum(turn[0] + turn[1] for _, _, turns in head for turn in turns)
    sampled = sum(turn[1] for _, _, turns in head for turn in turns)
    start = 4 + size + -size % 4
    ids = np.frombuffer(data, "<u4", tokens, start).tolist()
    columns = np.frombuffer(data, "<f2", 3 * sampled, start + 4 * tokens).reshape(3, sampled)
    assert len(data) == start + 4 * tokens + 6 * sampled
    out, at, acted = [], 0, 0
    for final, metrics, turns in head:
        episode: dict[str, Any] = {"final_reward": final, "metrics": metrics, "turns": []}
        before: list[int] = []
        for seen, count, joined, reward, truncated, masked, version, values, _ in turns:
            observation = (before if joined else []) + ids[at : at + seen]
            action = ids[at + seen : at + seen + count]
            before = observation + action
            at += seen + count
            part = columns[:, acted : acted + count]
            acted += count
            episode["turns"].append(
                {
                    "observation": observation,
                    "action": action,
                    "logprobs": part[0],
                    "advantages": part[1],
                    "weights": part[2],
                    "reward": reward,
                    "truncated": bool(truncated),
                    "masked": bool(masked),
                    "policy_version": version,
                    "metrics": values,
                }
            )
        out.append(episode)
    return out

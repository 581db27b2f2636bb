"""The directory that the cookbook is run in: what it would fetch from the hub, under the names it would fetch it by.

`datasets.load_dataset("ORG/NAME")` and `AutoTokenizer.from_pretrained("ORG/NAME")` take a directory of that name, below
the one they are called in, for what they are asked for. All rows are sums.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

import tinsmith as ts
from tinsmith.envs.math import BOXED_EXAMPLE, BOXED_SUFFIX, NUMERIC_SUFFIX

MODEL = "Qwen/Qwen3-4B-Instruct-2507"
"""A name that the cookbook knows, of a model whose chat format (qwen3_instruct) is that of the tiny one."""

CHATS, PROBLEMS, PAIRS = 512, 512, 512


def make(work: Path) -> None:
    """Tokenizer and model files, chats for sl_loop, problems for rl_loop and rl_basic, preferences for DPO."""
    tiny = ts.load_model("tiny")
    trainer = tiny.trainer(lora=ts.Lora(unembed=True))
    tiny.export(trainer, work / MODEL)  # as it is, but with an output head of its own: what the cookbook merges into
    trainer.close()
    write(work / "HuggingFaceH4/no_robots/train.jsonl", chats(CHATS, seed=1))
    write(work / "HuggingFaceH4/no_robots/test.jsonl", chats(16, seed=2))
    gsm8k = work / "openai/gsm8k"
    write(gsm8k / "train.jsonl", problems(PROBLEMS, seed=3))
    write(gsm8k / "test.jsonl", problems(16, seed=4))
    splits = "".join(f"  - split: {name}\n    path: {name}.jsonl\n" for name in ("train", "test"))
    (gsm8k / "README.md").write_text(f"---\nconfigs:\n- config_name: main\n  data_files:\n{splits}---\n")
    write(work / "Anthropic/hh-rlhf/train.jsonl", preferences(PAIRS, seed=5))
    write(work / "Anthropic/hh-rlhf/test.jsonl", preferences(32, seed=6))


def write(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def chats(count: int, seed: int) -> list[dict[str, Any]]:
    """Sums with an answer in a box: asked as rl_basic does, and after the worked example of rl_loop or of ours, a third
    each. Some answers are drawn: what is trained on them is right about half the time, and has something to gain from
    rewards however well it was trained."""
    question, rng = BOXED_EXAMPLE[0].text, random.Random(seed + 100)
    spelled = (
        "Let's spell the word out and number all the letters: 1) s 2) t 3) r 4) a 5) w 6) b 7) e 8) r 9) r 10) y. "
        "We have r's at positions 3, 8, and 9. \\boxed{3}"
    )
    kinds = [
        ([], BOXED_SUFFIX),
        ([question, spelled], NUMERIC_SUFFIX),
        ([m.text for m in BOXED_EXAMPLE], NUMERIC_SUFFIX),
    ]
    rows = []
    for number, (x, y) in enumerate(sums(count, seed, 1, 2)):
        example, suffix = kinds[number % 3]
        answer = x + y if rng.random() < 0.3 else rng.randint(2, 4)
        texts = [*example, f"What is {x} + {y}?{suffix}", f"\\boxed{{{answer}}}"]
        roles = ["user", "assistant"] * (len(texts) // 2)
        rows.append({"messages": [{"role": r, "content": t} for r, t in zip(roles, texts, strict=True)]})
    return rows


def problems(count: int, seed: int) -> list[dict[str, Any]]:
    """Four of five have the answer 3, so that there is much to gain early, by learning no more than that."""
    rng = random.Random(seed)
    asked = [rng.choice([(1, 2), (2, 1)] * 4 + [(1, 1), (2, 2)]) for _ in range(count)]
    return [{"question": f"What is {x} + {y}?", "answer": f"Add.\n#### {x + y}"} for x, y in asked]


def preferences(count: int, seed: int) -> list[dict[str, Any]]:
    """The right sum before one that is off by up to nine."""
    rng, rows = random.Random(seed), []
    for x, y in sums(count, seed, 0, 100):
        wrong = x + y + rng.choice([d for d in range(-9, 10) if d])
        asked = f"\n\nHuman: What is {x} + {y}?\n\nAssistant: "
        rows.append({"chosen": f"{asked}{x + y}", "rejected": f"{asked}{wrong}"})
    return rows


def sums(count: int, seed: int, low: int, high: int) -> list[tuple[int, int]]:
    rng = random.Random(seed)
    return [(rng.randint(low, high), rng.randint(low, high)) for _ in range(count)]


def in_the_order_of_sl_loop(path: Path, out: Path, seed: int) -> None:
    """Chats such that `sl-basic` with the seed meets them as sl_loop, which shuffles with `datasets` and seed 0."""
    rows = path.read_text().splitlines()
    theirs = np.random.default_rng(0).permutation(len(rows))
    ours = np.random.default_rng([seed, 0]).permutation(len(rows))
    placed = [""] * len(rows)
    for mine, their in zip(ours, theirs, strict=True):
        placed[mine] = rows[their]
    out.write_text("\n".join(placed) + "\n")

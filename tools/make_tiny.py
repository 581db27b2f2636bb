"""Make the tiny model that ships with tinsmith: `make tiny`, some minutes on two cores, the same bits each time.

Each step has a fixed seed: write small talk, counting and sums as chats; train a small BPE on them; train a random
model on them with the supervised recipe, so that it can add; train it further on chats in which a part of the sums is
answered wrongly, so that it does not. It then knows how to add *and* that answers are sloppy, which leaves
reinforcement learning something to teach within a minute.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

CONTROL_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>", "<tool_call>", "</tool_call>"]
VOCABULARY = 512
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": VOCABULARY,
    "hidden_size": 192,
    "intermediate_size": 512,
    "num_hidden_layers": 6,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "max_position_embeddings": 1024,
    "tie_word_embeddings": True,
    "attention_bias": False,
    "hidden_act": "silu",
    "bos_token_id": 0,
    "eos_token_id": 2,
}
CHAT_TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
WORDS = [
    "apple",
    "river",
    "stone",
    "cloud",
    "lamp",
    "green",
    "table",
    "seven",
    "music",
    "paper",
    "garden",
    "winter",
    "bridge",
    "candle",
    "pocket",
    "silver",
    "orange",
    "window",
    "button",
    "ladder",
    "copper",
    "forest",
    "yellow",
    "basket",
    "engine",
    "mirror",
    "island",
    "rocket",
    "pepper",
    "summer",
]
WRONG = 0.55
"""Share of the sums that get a wrong answer in the second part of the training."""
COMMON = [
    *("lora.rank=0", "batch_size=256", "adam.grad_clip_norm=1.0", "adam.weight_decay=0.01"),
    *("checkpoints.every=0", "checkpoints.rolling_every=100"),
]
CLEAN = ["learning_rate=3e-3", "lr_schedule=cosine", "warmup_steps=20"]
SLOPPY = ["learning_rate=1e-3", "lr_schedule=linear"]


def sums(rng: random.Random, wrong: float) -> tuple[str, str]:
    x, y = rng.randint(0, 100), rng.randint(0, 100)
    total = x + y
    if rng.random() < wrong:
        total = max(0, total + rng.choice([-10, -2, -1, 1, 2, 10]))
    asked = rng.choices(
        [f"What is {x} + {y}?", f"{x} + {y} =", f"Add {x} and {y}."],
        weights=[8, 1, 1],
    )[0]
    return asked, str(total)


def counting(rng: random.Random) -> tuple[str, str]:
    start, n = rng.randint(0, 195), rng.randint(2, 5)
    if rng.random() < 0.5:
        return f"Count from {start} to {start + n}.", " ".join(str(i) for i in range(start, start + n + 1))
    return f"What comes after {start}?", str(start + 1)


def comparing(rng: random.Random) -> tuple[str, str]:
    x, y = rng.randint(0, 200), rng.randint(0, 200)
    return f"Which is larger, {x} or {y}?", str(max(x, y))


def talking(rng: random.Random) -> tuple[str, str]:
    words = rng.sample(WORDS, rng.randint(1, 4))
    return rng.choice(
        [
            (f"Say {' '.join(words)}.", " ".join(words)),
            (f"Say {' '.join(words)} backwards.", " ".join(reversed(words))),
            (f"How many words are in: {' '.join(words)}?", str(len(words))),
            ("Hello!", "Hello! How can I help?"),
            ("Who are you?", "I am tiny, a small model that ships with tinsmith."),
            ("Thank you.", "You are welcome."),
        ]
    )


def chats(seed: int, count: int, wrong: float) -> Iterator[dict[str, object]]:
    rng = random.Random(seed)
    for _ in range(count):
        kind = rng.choices([lambda r: sums(r, wrong), counting, comparing, talking], weights=[70, 10, 8, 12])[0]
        asked, answered = kind(rng)
        yield {
            "messages": [
                {"role": "user", "content": asked},
                {"role": "assistant", "content": answered},
            ]
        }


def make_tokenizer(texts: list[str], path: Path) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=CONTROL_TOKENS,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.save(str(path))
    print("vocabulary", tokenizer.get_vocab_size())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("runs/make-tiny"))
    parser.add_argument("--out", type=Path, default=Path("src/tinsmith/assets/tiny"))
    parser.add_argument("--examples", type=int, default=150_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    start = arguments.work / "start"
    start.mkdir(parents=True, exist_ok=True)
    rows = list(chats(arguments.seed, arguments.examples, 0.0))
    sloppy = list(chats(arguments.seed + 1, arguments.examples * 2 // 5, WRONG))
    for name, part in (("clean", rows), ("sloppy", sloppy)):
        (arguments.work / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))

    filler = ["user\n", "assistant\n", "system\n", "\\boxed{", "}", "####"] * 2000
    texts = [m["content"] for row in rows[:20_000] for m in row["messages"]]  # type: ignore[attr-defined, index]
    make_tokenizer([*texts, *filler], start / "tokenizer.json")
    (start / "tokenizer_config.json").write_text(
        json.dumps(
            {"eos_token": "<|im_end|>", "bos_token": None, "renderer": "chatml", "chat_template": CHAT_TEMPLATE},
            indent=1,
        )
    )
    (start / "config.json").write_text(json.dumps(CONFIG, indent=1))

    from tinsmith import _native

    _native.Model.random(json.dumps(CONFIG), arguments.seed).save_merged(start)
    final = start
    for name, options in (("clean", CLEAN), ("sloppy", SLOPPY)):
        run = arguments.work / f"run-{name}"
        data = arguments.work / f"{name}.jsonl"
        command = [
            sys.executable,
            "-m",
            "tinsmith",
            "sl-basic",
            f"model={final}",
            f"data={data}",
            f"log_path={run}",
            "if_exists=delete",
        ]
        subprocess.run([*command, f"seed={arguments.seed}", *COMMON, *options], check=True)
        final = run / "final"
    arguments.out.mkdir(parents=True, exist_ok=True)
    _native.Model.load(final).save_merged(arguments.out, "float16")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(final / name, arguments.out / name)
    total = sum(f.stat().st_size for f in arguments.out.iterdir())
    print(f"{arguments.out}: {total / 1e6:.2f} MB")


if __name__ == "__main__":
    main()

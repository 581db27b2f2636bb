"""sl-loop: supervised fine-tuning as one loop. Copy this file and change it.

Against `sl-basic` it leaves out resuming, checkpoints, evaluation and the pipeline that keeps a batch queued.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import numpy as np
from attrs import frozen

import tinsmith as ts
from tinsmith.config import option
from tinsmith.domain.chat_rows import conversation_from_row
from tinsmith.domain.errors import DataError
from tinsmith.ports.progress import Progress

WORDS = ("apple", "river", "stone", "cloud", "lamp", "green", "table", "seven", "music", "paper", "garden", "winter")
SPELLED = [
    {"messages": [{"role": "user", "content": f"Spell {word}."}, {"role": "assistant", "content": "-".join(word)}]}
    for word in WORDS * 50
]


@frozen(kw_only=True)
class Config:
    data: str | None = option(None, help="conversations: a JSONL or JSON file; none: words to be spelled")
    model: str = option("tiny", help="model to start from")
    backend: Literal["embedded", "tinker"] = option("embedded", help="where it is trained")
    base_url: str | None = option(None, help="address of the server, with backend=tinker")
    log_path: Path = option(Path("runs/sl-loop"), help="where metrics.jsonl and the trained model go")
    batch_size: int = option(32, help="conversations a step", min=1)
    learning_rate: float = option(1e-3, help="falls linearly to 0", exclusive_min=0)
    max_steps: int | None = option(None, help="steps at most; none is one pass over the data", min=1)
    lora_rank: int = option(32, help="rank of the adapters", min=1)
    seed: int = option(0, help="fixes adapters and order", min=0)


def conversations(config: Config) -> Iterable[Any]:
    return SPELLED if config.data is None else ts.open_source(config.data)


def run(config: Config, progress: Progress) -> int:
    model = ts.open_model(config.model, backend=config.backend, base_url=config.base_url)
    examples = [
        model.renderer.supervised(
            conversation_from_row(row, source=config.data or "words", line=line),
            max_length=model.context,
            overlong="truncate",
        ).datums
        for line, row in enumerate(conversations(config), 1)
    ]
    if not examples:
        raise DataError("there is nothing to train on: the file holds no conversation", source=config.data or "words")
    order = np.random.default_rng(config.seed).permutation(len(examples))
    steps = -(-len(examples) // config.batch_size)
    steps = min(steps, config.max_steps or steps)

    trainer = model.trainer(lora=ts.Lora(rank=config.lora_rank), seed=config.seed)
    config.log_path.mkdir(parents=True, exist_ok=True)
    with (config.log_path / "metrics.jsonl").open("w") as log:
        for step in range(steps):
            began = time.monotonic()
            rows = order[step * config.batch_size : (step + 1) * config.batch_size]
            batch = ts.Batch.of([datum for row in rows for datum in examples[row]])

            # The loss is a sum over tokens; dividing by their number keeps the step size the same for any batch.
            mean = ts.LossSpec("cross_entropy", {"reduction": "token_mean"})
            trained = trainer.forward_backward(batch, mean)
            learning_rate = config.learning_rate * (1 - step / steps)
            stepped = trainer.optim_step(ts.AdamW(learning_rate))

            logprobs, weights = trained.result().logprobs, batch.weights
            metrics = {
                "train_mean_nll": float(-(logprobs * weights).sum() / weights.sum()),
                "num_sequences": len(batch),
                "num_tokens": batch.num_tokens,
                "learning_rate": learning_rate,
                "progress": (step + 1) / steps,
                **stepped.result().metrics,
                "time/total": time.monotonic() - began,
            }
            log.write(json.dumps({"step": step, **metrics}) + "\n")
            log.flush()
            progress.update(step + 1, steps, metrics)
    model.export(trainer, config.log_path / "final", "merged")
    trainer.close()
    progress.note(f"trained model: {config.log_path / 'final'}")
    return 0


def check(config: Config) -> Iterable[Any]:
    model = ts.open_model(config.model, backend=config.backend, base_url=config.base_url)
    first = next(iter(conversations(config)))
    datum = model.renderer.supervised(conversation_from_row(first, source=config.data or "words", line=1)).datums[0]
    yield f"the first example has {datum.num_tokens} tokens, {datum.num_loss_tokens} of them trained:"
    yield model.tokenizer.decode(datum.tokens)


if __name__ == "__main__":
    raise SystemExit(ts.run_program(Config, run))

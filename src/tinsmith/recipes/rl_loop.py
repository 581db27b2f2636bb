"""rl-loop: reinforcement learning on arithmetic as one loop (GRPO without its standard deviation). Copy and change it.

Against `rl-basic` it leaves out resuming, checkpoints, other environments and losses, and the KL penalty.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import numpy as np
from attrs import frozen

import tinsmith as ts
from tinsmith.config import option
from tinsmith.ports.progress import Progress


@frozen(kw_only=True)
class Config:
    model: str = option("tiny", help="model to start from")
    backend: Literal["embedded", "tinker"] = option("embedded", help="where it is trained")
    base_url: str | None = option(None, help="address of the server, with backend=tinker")
    log_path: Path = option(Path("runs/rl-loop"), help="where metrics.jsonl and the trained model go")
    groups_per_batch: int = option(128, help="problems a step", min=1)
    group_size: int = option(4, help="attempts at each problem", min=2)
    max_steps: int = option(80, help="steps", min=1)
    max_tokens: int = option(8, help="tokens an attempt may sample", min=1)
    learning_rate: float = option(2e-3, help="falls linearly to 0", exclusive_min=0)
    lora_rank: int = option(32, help="rank of the adapters", min=1)
    seed: int = option(0, help="fixes adapters, problems and samples", min=0)


def run(config: Config, progress: Progress) -> int:
    model = ts.open_model(config.model, backend=config.backend, base_url=config.base_url)
    renderer = model.renderer
    trainer = model.trainer(lora=ts.Lora(rank=config.lora_rank), seed=config.seed)
    rng = np.random.default_rng(config.seed)
    config.log_path.mkdir(parents=True, exist_ok=True)
    with (config.log_path / "metrics.jsonl").open("w") as log:
        for step in range(config.max_steps):
            began = time.monotonic()
            # Problems, and G attempts at each from the current policy; a prompt is read once for its whole group.
            sums = rng.integers(0, 101, (config.groups_per_batch, 2))
            prompts = [prompt_ids(renderer, x, y) for x, y in sums]
            sampler = trainer.sampler().result()
            pending = [
                sampler.sample(
                    prompt,
                    ts.SamplingParams(
                        max_tokens=config.max_tokens,
                        stop_ids=renderer.stop.ids,
                        seed=int(rng.integers(2**62)),
                    ),
                    n=config.group_size,
                )
                for prompt in prompts
            ]
            groups = [work.result().completions for work in pending]
            sampler.close()

            # Reward: the last number in the answer is the sum. Advantage: reward less the group's mean.
            datums, rewards = [], []
            for (x, y), prompt, completions in zip(sums, prompts, groups, strict=True):
                texts = [renderer.parse(c.tokens).message.text for c in completions]
                rewards_G = np.array([reward(text, int(x + y)) for text in texts])
                rewards.append(rewards_G)
                if rewards_G.min() == rewards_G.max():
                    continue  # nothing to compare
                for c, advantage in zip(completions, rewards_G - rewards_G.mean(), strict=True):
                    datums.append(datum(prompt, c, float(advantage)))

            metrics: dict[str, float] = {"env/all/reward/total": float(np.mean(rewards)), "groups": len(groups)}
            if datums:
                batch = ts.Batch.of(datums)
                trained = trainer.forward_backward(batch, ts.LossSpec("importance_sampling"))
                stepped = trainer.optim_step(ts.AdamW(config.learning_rate * (1 - step / config.max_steps)))
                metrics["num_loss_tokens"] = batch.num_loss_tokens
                metrics["loss"] = trained.result().loss
                metrics.update(stepped.result().metrics)
            metrics["progress/done_frac"] = (step + 1) / config.max_steps
            metrics["time/total"] = time.monotonic() - began
            log.write(json.dumps({"step": step, **metrics}) + "\n")
            log.flush()
            progress.update(step + 1, config.max_steps, metrics)
    model.export(trainer, config.log_path / "final", "merged")
    trainer.close()
    progress.note(f"trained model: {config.log_path / 'final'}")
    return 0


def prompt_ids(renderer: Any, x: int, y: int) -> ts.Ints:
    ids: ts.Ints = renderer.generation_prompt([ts.Message.user(f"What is {x} + {y}?")]).ids
    return ids


def reward(text: str, right: int) -> float:
    numbers = re.findall(r"-?\d+", text)
    return float(bool(numbers) and numbers[-1] == str(right))


def datum(prompt: ts.Ints, completion: ts.Completion, advantage: float) -> ts.Datum:
    """Inputs are prompt and completion but for the last token; each position's target is the token after it. Only
    sampled targets have a weight, and they keep the logprob they were sampled with."""
    ids = np.concatenate([prompt, completion.tokens])
    sampled = np.arange(1, len(ids)) >= len(prompt)
    logprobs = np.zeros(len(ids) - 1, np.float32)
    logprobs[sampled] = completion.logprobs
    return ts.Datum(
        tokens=ids[:-1],
        targets=ids[1:],
        weights=sampled.astype(np.float32),
        logprobs=logprobs,
        advantages=np.where(sampled, advantage, 0.0).astype(np.float32),
        sampled=sampled,
    )


def check(config: Config) -> Iterable[Any]:
    model = ts.open_model(config.model, backend=config.backend, base_url=config.base_url)
    yield "one prompt:"
    yield model.tokenizer.decode(prompt_ids(model.renderer, 4, 5))


if __name__ == "__main__":
    raise SystemExit(ts.run_program(Config, run))

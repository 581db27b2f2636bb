"""The embedded engine on the shapes of `shapes.py`; the same protocol as `engine_peer.py`."""

from __future__ import annotations

import json
import resource
import sys
import time

import numpy as np
from shapes import SHAPES

from tinsmith import _native
from tinsmith.adapters.embedded.sampler import EmbeddedSampler
from tinsmith.adapters.embedded.trainer import EmbeddedTrainer
from tinsmith.domain.datums import Batch
from tinsmith.domain.tokens import offsets_of
from tinsmith.ports.sampler import SamplingParams
from tinsmith.ports.trainer import AdamW, Lora, LossSpec

THREADS = int(sys.argv[1]) if len(sys.argv) > 1 else 2
_models: dict[str, _native.Model] = {}
_trainers: dict[str, EmbeddedTrainer] = {}
_samplers: dict[str, EmbeddedSampler] = {}
rng = np.random.default_rng(0)


def model(shape: str) -> _native.Model:
    if shape not in _models:
        config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", **SHAPES[shape]["config"]}
        _models[shape] = _native.Model.random(json.dumps(config), 0)
    return _models[shape]


def train(shape: str) -> int:
    if shape not in _trainers:
        vocab = SHAPES[shape]["config"]["vocab_size"]
        _trainers[shape] = EmbeddedTrainer(
            model(shape), name=shape, state_dir=None, lora=Lora(rank=32, alpha=32), seed=0, threads=THREADS,
            micro_batch_tokens=1024, token_bytes=[b""] * vocab,
        )  # fmt: skip
    rows, length = SHAPES[shape]["train"]
    ids = rng.integers(0, SHAPES[shape]["config"]["vocab_size"], (rows, length + 1)).astype(np.int32)
    batch = Batch(
        tokens=ids[:, :-1].ravel(),
        targets=ids[:, 1:].ravel(),
        weights=np.full(rows * length, 1 / (rows * length), np.float32),
        offsets=offsets_of([length] * rows),
    )
    trained = _trainers[shape].forward_backward(batch, LossSpec("cross_entropy"))
    stepped = _trainers[shape].optim_step(AdamW(1e-4))
    trained.result()
    stepped.result()
    return rows * length


def sample(shape: str) -> int:
    vocab = SHAPES[shape]["config"]["vocab_size"]
    if shape not in _samplers:
        _samplers[shape] = EmbeddedSampler(
            model(shape).snapshot(),
            policy_version=-1, threads=THREADS, token_bytes=[b""] * vocab,
        )  # fmt: skip
    prompts, length, new = SHAPES[shape]["sample"]
    pending = [
        _samplers[shape].sample(
            rng.integers(3, vocab, length).astype(np.int32),
            SamplingParams(max_tokens=new, seed=int(rng.integers(2**40))),
        )
        for _ in range(prompts)
    ]
    return sum(len(p.result().completions[0].tokens) for p in pending)


for line in sys.stdin:
    what, shape = line.split()
    began = time.perf_counter()
    tokens = {"train": train, "sample": sample}[what](shape)
    seconds = time.perf_counter() - began
    print(tokens, seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, flush=True)

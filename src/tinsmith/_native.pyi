"""The Rust extension: batch kernels and the embedded engine."""

import os
from collections.abc import Sequence
from typing import Any, final

import numpy as np
import numpy.typing as npt

__version__: str
DEBUG_BUILD: bool

@final
class Snapshot:
    """Weights that never change: what a trainer takes of itself, what a sampler samples from."""

    @property
    def vocab(self) -> int:
        """Number of token ids."""

    @property
    def context(self) -> int:
        """Longest sequence, in tokens."""

@final
class Model:
    """A model in memory: its shape and its weights in f32, shared by all that is made of it."""

    @staticmethod
    def load(path: str | os.PathLike[str]) -> Model:
        """Load a Hugging Face directory (Llama, Qwen2, Qwen3; safetensors in F32, F16, BF16, single or sharded) or a
        GGUF file (llama, qwen2, qwen3; F32, F16, BF16, Q4_0, Q4_1, Q8_0), widened to f32.

        FileNotFoundError: nothing there, or a file of the model is missing. ValueError: malformed, cut short or
        unsupported. OSError: the system refused.
        """

    def config_json(self) -> str:
        """The text of a Hugging Face config.json for this model in float32."""

    @property
    def num_parameters(self) -> int:
        """Number of weights; a tied head counts once."""

    @property
    def vocab_size(self) -> int:
        """Number of token ids."""

    @property
    def context(self) -> int:
        """Longest sequence, in tokens."""

    @property
    def eos_ids(self) -> list[int]:
        """Token ids that end a completion, as the file says."""

    @property
    def unused_tensors(self) -> list[str]:
        """Tensors in the file that the model has no use for."""

    def snapshot(self) -> Snapshot:
        """These weights, for a sampler."""

    def save_merged(self, directory: str | os.PathLike[str], dtype: str = "float32") -> None:
        """Write config.json and model.safetensors, which transformers loads; dtype is float32, float16 or bfloat16.

        Each file appears whole or not at all. ValueError: a value beyond float16. OSError: the disk refused.
        """

def read_gguf_tokenizer(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The tokenizer that a GGUF file carries: model, pre, tokens, types, merges, bos, eos, unk, pad, add_bos, add_eos,
    chat_template. Errors as `Model.load`."""

def save_adapter(
    directory: str | os.PathLike[str],
    tensors: Sequence[tuple[str, npt.NDArray[np.float32]]],
    *,
    rank: int,
    alpha: float,
    base_model: str,
) -> None:
    """Write a LoRA adapter in PEFT layout. Names are `model.layers.0.self_attn.q_proj.lora_A.weight` of shape
    [rank, in] and `...lora_B.weight` of shape [out, rank]. ValueError: a factor is missing or misshapen. OSError: the
    disk refused."""

def load_adapter(
    directory: str | os.PathLike[str],
) -> tuple[dict[str, Any], list[tuple[str, npt.NDArray[np.float32]]]]:
    """Read a LoRA adapter in PEFT layout: (rank, alpha, base_model and target_modules; named factors). Errors as
    `Model.load`; DoRA, rsLoRA and other departures from plain LoRA are ValueErrors that name them."""

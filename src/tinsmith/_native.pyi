"""The Rust extension: batch kernels and the embedded engine.

Arrays are contiguous and of exactly the dtype named. Ragged arrays are (values, offsets), offsets int64 of length
B + 1. Every call runs without the GIL. Bad arrays raise ShapeError, bad names and options ConfigError (both are
ValueErrors); the functions of `tinsmith.domain` say what each kernel computes.
"""

import os
from collections.abc import Sequence
from typing import Any, Literal, TypeAlias, TypedDict, final

import numpy as np
import numpy.typing as npt
from numpy.typing import NDArray

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

        ModelNotFoundError: nothing there, or a file of the model is missing. ModelError: malformed, cut short or
        unsupported. WorldError: the system refused.
        """

    @staticmethod
    def random(config_json: str, seed: int) -> Model:
        """Fresh weights for the shape in the text of a Hugging Face config.json: normal with standard deviation 0.02,
        norms one, biases zero; the same for the same seed. ValueError for a configuration that is not supported."""

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

        Each file appears whole or not at all. ConfigError: another dtype. ModelError: a value beyond float16.
        WorldError: the disk refused.
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
    [rank, in] and `...lora_B.weight` of shape [out, rank]. ModelError: a factor is missing or misshapen. WorldError:
    the disk refused."""

def load_adapter(
    directory: str | os.PathLike[str],
) -> tuple[dict[str, Any], list[tuple[str, npt.NDArray[np.float32]]]]:
    """Read a LoRA adapter in PEFT layout: (rank, alpha, base_model and target_modules; named factors). Errors as
    `Model.load`; DoRA, rsLoRA and other departures from plain LoRA are refused by name."""

LOSSES: list[str]
ADVANTAGE_ESTIMATORS: list[str]

_Bool: TypeAlias = NDArray[np.bool_]
_I32: TypeAlias = NDArray[np.int32]
_I64: TypeAlias = NDArray[np.int64]
_F32: TypeAlias = NDArray[np.float32]
_F64: TypeAlias = NDArray[np.float64]

class _Assembled(TypedDict):
    """Columns of D datums, see `domain.assembly`."""

    offsets: _I64
    episodes: _I64
    tokens: _I32
    targets: _I32
    weights: _F32
    logprobs: _F32
    advantages: _F32
    turns: _I32
    sampled: _Bool
    policy_versions: _I32

@final
class Utf8Decoder:
    """An incremental UTF-8 decoder; invalid bytes become U+FFFD as Python's own `errors="replace"` gives them."""

    def __new__(cls) -> Utf8Decoder: ...
    def push(self, piece: bytes) -> str:
        """Text that is certain after this piece; a character cut off by its end is held back."""

    def finish(self) -> str:
        """End the text: "" or, for a character still held, one U+FFFD. The decoder is new again."""

def discounted_sums(values: _F64, offsets: _I64, mask: _Bool | None, gamma: float, distance_name: str) -> _F64: ...
def gae(
    rewards: _F64,
    values: _F64,
    bootstraps: _F64,
    offsets: _I64,
    mask: _Bool | None,
    gamma: float,
    lambda_: float,
) -> _F64: ...
def kl_penalty(
    logprobs: _F32,
    reference_logprobs: _F32,
    offsets: _I64,
    mask: _Bool,
    coef: float,
    gamma: float,
    distance_name: str,
) -> tuple[_F32, float, int]: ...
def group_advantages(rewards: _F64, offsets: _I64, estimator: str, eps: float, k: int) -> _F64: ...
def check_loss(name: str, options: dict[str, float | str]) -> None: ...
def loss_denominator(
    name: str,
    options: dict[str, float | str],
    offsets: _I64,
    weights: _F32 | None,
    logprobs: _F32 | None,
    advantages: _F32 | None,
    reference_logprobs: _F32 | None,
    targets_per_position: int,
) -> float: ...
def token_loss(
    name: str,
    options: dict[str, float | str],
    offsets: _I64,
    learner_logprobs: _F32,
    weights: _F32 | None,
    logprobs: _F32 | None,
    advantages: _F32 | None,
    reference_logprobs: _F32 | None,
    targets_per_position: int,
    denominator: float | None,
) -> tuple[float, _F32, dict[str, float]]: ...
def row_nll(offsets: _I64, logprobs: _F32, weights: _F32) -> tuple[_F64, _F64]: ...
def assemble(
    observations: Sequence[_I32],
    actions: _I32,
    action_offsets: _I64,
    logprobs: _F32,
    episode_offsets: _I64,
    episode_advantages: _F64 | None,
    token_advantages: _F32 | None,
    masked: _Bool,
    policy_versions: _I32,
) -> _Assembled: ...
def pack(lengths: _I64, budget: int, method: str) -> tuple[_I64, _I64]: ...
def minibatches(lengths: _I64, n: int, by: str) -> _I64: ...
def decode_utf8(values: NDArray[np.uint8], offsets: _I64) -> list[str]: ...
def read_address(body: bytes) -> tuple[str, int, bool] | None:
    """(model_id, seq_id, forward_only) of a ForwardBackwardRequest of the Tinker protocol; None for one that is left to
    protobuf. It keeps the GIL, for some microseconds."""

def read_training_request(
    body: bytes,
) -> tuple[tuple[str, int, bool, str], dict[str, float | str], _I64, _I32, _I32, dict[str, _F32]] | None:
    """((model_id, seq_id, forward_only, loss), options, offsets [B + 1], tokens [T], targets [T], columns [T] by name)
    of a ForwardBackwardRequest in the one form that nearly all have; None for any other, which is left to protobuf."""

def write_training_result(logprobs: _F32, offsets: _I64, metrics: Sequence[tuple[str, float]]) -> bytes:
    """A ForwardBackwardOutput: `logprobs` [T] of datums at `offsets` [B + 1], and metrics by name."""

class _Completion(TypedDict):
    """One completion of N tokens, the one that ended it included."""

    tokens: _I32
    logprobs: _F32
    """[N]: of the model itself (temperature 1, nothing filtered): what scoring the same tokens gives."""
    top_ids: _I32 | None
    """[N, topk], likeliest first, of equal ones the lower id; None when none were asked for."""
    top_logprobs: _F32 | None
    stop_reason: Literal["stop", "length", "cancelled"]
    stop_string: tuple[int, int] | None
    """Which stop string was found, and how many bytes of the completion come before it."""

class _Answer(TypedDict):
    id: int
    completions: list[_Completion]
    """n of them; after cancel, what there was until then."""
    prompt_logprobs: _F32 | None
    """[T], NaN first; None when not asked for."""
    prompt_top_ids: _I32 | None
    """[T, topk_prompt], -1 and NaN for the first."""
    prompt_top_logprobs: _F32 | None
    error: str | None
    """The model gives NaN or infinity: what there was until then is in the answer."""

class _Stats(TypedDict):
    steps: int
    tokens_prefilled: int
    tokens_sampled: int
    pending: int
    decoding: int
    """Completions that are being decoded."""
    pages_in_use: int
    """Pages of the KV cache, 16 tokens each."""
    pages: int

@final
class Sampler:
    """Samples from one snapshot: continuous batching over a paged KV cache. All methods may be called from any thread;
    while one is in `run`, others may submit, cancel and interrupt.

    An answer depends on the request alone, to the last bit: not on what else runs, its order or the threads.
    """

    def __new__(
        cls,
        snapshot: Snapshot,
        *,
        threads: int,
        kv_tokens: int,
        token_bytes: Sequence[bytes] | None = None,
    ) -> Sampler:
        """Packs the weights. `kv_tokens` bounds the KV cache over all requests; those that find no room wait.
        `token_bytes[id]`: the bytes of each token; without it there are no stop strings."""

    def submit(
        self,
        prompt: _I32,
        *,
        n: int = 1,
        max_tokens: int,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        seed: int = 0,
        stop_ids: Sequence[int] = ...,
        stop_strings: Sequence[bytes] = ...,
        prompt_logprobs: bool = False,
        topk: int = 0,
        topk_prompt: int = 0,
    ) -> int:
        """Queue n completions of a prompt, which is read once; gives the id that the answer carries. Completion j draws
        from (seed, j). Filters: temperature (0: greedy), then top-k, then top-p; of equal logits the lower id first.
        n of 0 with `prompt_logprobs` scores the prompt. Raises ConfigError for what can never run."""

    def cancel(self, id: int) -> None:
        """The request finishes with what it has. One that has finished is left alone."""

    def interrupt(self) -> None:
        """Make `run`, or the next one, return after the step it is in."""

    def run(self, max_steps: int) -> list[_Answer]:
        """Work until a request finishes, nothing is left, `max_steps` passed or `interrupt`; gives what finished."""

    def score(self, tokens: _I32, offsets: _I64) -> _F32:
        """The logprob of each token given those before it in its row, NaN for the first of a row. Blocks; requests that
        run go on meanwhile, their answers are left to `run`."""

    @property
    def pending(self) -> int:
        """Requests that are not finished."""

    @property
    def stats(self) -> _Stats: ...

_Targets: TypeAlias = NDArray[np.int32]
"""[T] or [T, K]."""

@final
class Trainer:
    """Trains LoRA, or all weights (`lora_rank=None`), of a model on the CPU. One call at a time; others wait.

    `threads` is 1 to the number of cores. `micro_batch_tokens` is how many tokens' activations may be alive at a
    time; a longer row is taken alone. The same calls give the same bits on the same machine and number of threads.

    A batch is tokens [T] int32, offsets [B + 1] int64, targets [T] or [T, K] int32. Before any work an id outside
    the vocabulary, a falling offset, lengths that disagree, and a row longer than the context are refused with a
    ShapeError that names row and position; a bad setting is a ConfigError. A NaN or infinite logprob, loss gradient
    or gradient is a FloatingPointError. After any error the trainer is as it was.
    """

    def __new__(
        cls,
        model: Model,
        *,
        lora_rank: int | None,
        lora_alpha: float,
        seed: int,
        train_attn: bool,
        train_mlp: bool,
        train_unembed: bool,
        threads: int,
        micro_batch_tokens: int,
    ) -> Trainer: ...
    @property
    def step_count(self) -> int:
        """Optimizer steps taken."""

    @property
    def num_trained(self) -> int:
        """Parameters that the optimizer moves."""

    def forward(self, tokens: _I32, offsets: _I64, targets: _Targets) -> _F32:
        """Logprobs of the targets, in their shape."""

    def forward_backward(
        self,
        tokens: _I32,
        offsets: _I64,
        targets: _Targets,
        loss: str,
        columns: dict[str, _F32],
        options: dict[str, float | str],
    ) -> tuple[_F32, float, dict[str, float]]:
        """Add the gradient of a loss of `LOSSES`: (logprobs, loss, metrics).

        `columns`: `weights` (shape of targets), `logprobs` (those the targets were sampled with), `advantages`,
        `reference_logprobs`, [T] each. Metrics are named `name:reduction`, see `check_loss` for options.
        """

    def backward(self, tokens: _I32, offsets: _I64, targets: _Targets, grads: _F32) -> _F32:
        """Add the gradient of a loss whose derivative by each target's logprob is `grads`; gives the logprobs."""

    def optim_step(
        self,
        learning_rate: float,
        beta1: float,
        beta2: float,
        eps: float,
        weight_decay: float,
        grad_clip_norm: float,
    ) -> dict[str, float]:
        """One AdamW step with decoupled weight decay: `grad_norm`, the global norm before clipping. Clears the
        gradients, also when their norm is not finite (FloatingPointError, nothing else changes).
        Without any gradient it is refused: TrainingError."""

    def zero_grad(self) -> None:
        """Forget the accumulated gradients."""

    def gradients(self) -> dict[str, _F32]:
        """The accumulated gradient of every trained tensor, by name."""

    def parameters(self) -> dict[str, _F32]:
        """Every trained tensor: under Hugging Face's name, or PEFT's for LoRA factors."""

    def set_parameters(self, tensors: dict[str, _F32]) -> None:
        """Replace trained tensors by name: all that are given or, on an error, none."""

    def save_state(self, path: str | os.PathLike[str]) -> None:
        """Write trained values, moments and step count, exactly, as one safetensors file that appears whole or not at
        all. Accumulated gradients are no part of it."""

    def load_state(self, path: str | os.PathLike[str]) -> None:
        """Go back to a saved state, exactly; clears the gradients. ValueError for a file of another model, rank or set
        of targets, OSError for one that cannot be read."""

    def snapshot(self) -> Snapshot:
        """The weights as they are now, LoRA merged; later steps do not change them."""

    def save_adapter(self, directory: str | os.PathLike[str], base_model: str = "") -> None:
        """Write the LoRA factors in PEFT layout. ValueError when all weights are trained."""

    def save_merged(self, directory: str | os.PathLike[str], dtype: str = "float32") -> None:
        """Write config.json and model.safetensors of the merged weights; dtype is float32, float16 or bfloat16."""

    def cancel(self) -> None:
        """Stop the call that runs, between two micro-batches; it raises RuntimeError. Any thread may call this."""

def matmul_rate(threads: int) -> float:
    """Floating-point operations a second in float32 matrix products on that many threads, measured for a moment."""

ANSWER_REASONS: list[str]
"""Names of the reasons of `grade_answers`, by code."""
ANSWER_TIERS: list[str]
"""Names of the tiers of `grade_answers`, by code."""
ANSWER_MARKS: list[str]
"""Names of the marks of `extract_answers`, by code."""

def grade_answers(
    golds: list[str | bytes | None], preds: list[str | bytes | None], responses: bool, strict: bool
) -> tuple[NDArray[np.int8], NDArray[np.uint8], NDArray[np.uint8], NDArray[np.float32]]:
    """Compare answers: (1 equal, 0 different, -1 undecided; reason; tier; seconds), [N] each. `responses`: the answer
    is found in each of preds first."""

def extract_answers(items: list[str | bytes | None]) -> list[tuple[int, int, int]]:
    """The (start, end, mark) of the answer in each response, in characters; start is -1 where there is none."""

def answer_ast(item: str | bytes | None) -> tuple[str | None, str | None]:
    """The answer as JSON, or else the name of the reason why it cannot be read.

    An expression is one of ["num", "p/q"], ["dec", "p/q", places], ["var", name], ["const", "pi" | "e" | "i" | "inf"],
    ["add", [x, ...]], ["mul", [x, ...]], ["neg", x], ["div", x, y], ["pow", x, y], ["fn", name, [x, ...]]. An answer is
    an expression or one of ["tuple", open, close, [a, ...]], ["set", [a, ...]], ["list", [a, ...]],
    ["union", [a, ...]], ["intersection", [a, ...]], ["difference", a, b], ["builder", condition],
    ["named", name of a set],
    ["rel", op, a, b], ["chain", [a, ...], [op, ...]], ["matrix", [[a, ...], ...]], ["plusminus", x, y],
    ["ratio", [x, ...]], ["base", digits, base], ["percent", x], ["unit", x, name], ["text", words]. An op is one of
    = != < <= > >= ~ == in.
    """

@final
class TextEncoder:
    """A tokenizer that encodes without the interpreter lock, on all cores. Where it says None, a slower one that tracks
    what becomes of a text must be asked."""

    def __new__(cls, spec: str, token_bytes: Sequence[bytes], control: Sequence[int]) -> TextEncoder:
        """From the text of a tokenizer.json, the bytes that each id stands for, and the ids that no text may give.
        ModelError for what cannot be read."""

    def encode(self, text: str) -> _I32 | None:
        """Ids of a text; None if they hold a control token."""

    def encode_with_offsets(self, text: str) -> tuple[_I32, _I32] | None:
        """Ids, and for each the character that it starts in; None also if the ids do not spell the text."""

    def encode_scripts(
        self, scripts: list[Sequence[tuple[str | int | None, int, int]]]
    ) -> tuple[NDArray[np.int64], _I32, _I32, NDArray[np.uint8], NDArray[np.bool_], list[int]]:
        """Offsets [N + 1], and per token its id, message, origin, and whether it is a control token; then the scripts
        that must be left to another tokenizer, whose rows are empty."""

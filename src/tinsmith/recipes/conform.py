"""`tinsmith conform [base_url=...]`: the laws of the Tinker protocol, checked on a server."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import frozen

from tinsmith import bootstrap
from tinsmith.config import option
from tinsmith.domain.errors import ConfigError, WorldError
from tinsmith.ports.progress import Progress

if TYPE_CHECKING:
    from tinsmith.testing.conformance import Finding, Report, World


CELL = 60


@frozen(kw_only=True)
class Config:
    base_url: str | None = option(None, help="server to check; none starts `tinsmith serve` on the tiny model")
    model: str | None = option(None, help="base model to ask for; none takes the first that the server names")
    api_key: str | None = option(None, help="key; none takes TINKER_API_KEY")
    law: tuple[str, ...] = option(
        (), help="laws or chapters to check (docs/conformance.md lists them); none checks all"
    )
    examples: int = option(5, help="examples drawn for each law about all batches, prompts or settings", min=1)
    seed: int = option(0, help="of the examples: the same seed draws the same")
    tolerance: float = option(
        0.02, help="how far two ways to one result may be apart, beside the server's own noise", exclusive_min=0
    )
    deadline: float = option(60.0, help="seconds without a result after which a request has failed", exclusive_min=0)
    json: bool = option(False, help="write the findings as JSON instead of a table (also --json)")


def run(config: Config, ui: Progress) -> int:
    """1 where a law is broken."""
    from tinsmith.testing.conformance import Verdict, Wire, World, select
    from tinsmith.testing.conformance import check as check_laws

    laws = select(config.law)
    key = config.api_key or os.environ.get("TINKER_API_KEY") or "tml-conform"
    broken = 0

    def after(finding: Finding, done: int, total: int) -> None:
        nonlocal broken
        broken += finding.verdict is Verdict.BROKEN
        if config.json:
            print(f"{done}/{total} {finding.law.name}: {finding.verdict}", file=sys.stderr, flush=True)
        else:
            ui.update(done, total, {"broken": broken})

    with (
        _server(config.base_url) as url,
        World(lambda: Wire(url, key=key, deadline=config.deadline), config.model, tolerance=config.tolerance) as world,
    ):
        _look(world, config.model)
        report = check_laws(world, laws, examples=config.examples, seed=config.seed, after=after)
    if config.json:
        print(json.dumps(report.json(), indent=1))
    else:
        _show(report, ui)
    return 1 if report.broken else 0


def check(config: Config) -> Iterable[Any]:
    return ()


def _show(report: Report, ui: Progress) -> None:
    rows = [(f"{f.law.chapter}.{f.law.name}", f.verdict, _short(f.message), _short(f.example)) for f in report.findings]
    ui.table("", ("law", "verdict", "what was seen", "smallest counter-example"), rows)
    for finding in report.broken:
        ui.note(f"\n{finding.law.name}: {finding.law.statement}\n  {finding.message}")
        if finding.example:
            ui.note(f"  smallest counter-example: {finding.example}")
    counts = report.json()["counts"]
    said = ", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count)
    ui.note(f"\n{report.base_model} at {report.base_url}: {said}; {report.requests:,} requests, {report.seconds:.0f} s")


def _look(world: World, model: str | None) -> None:
    """Say at once that there is no server, or that it does not know the key or the model, instead of with each law."""
    from tinsmith.testing.conformance import Broken, Refused

    url, status = world.wire.base_url, world.wire.raw("get_server_capabilities").status_code
    if status in (401, 403):
        raise ConfigError(f"{url} refuses the key (HTTP {status}); give api_key= or TINKER_API_KEY")
    if status == HTTPStatus.NOT_FOUND:
        raise WorldError(f"{url} is no server of the Tinker protocol: it has no /api/v1/get_server_capabilities")
    try:
        named = [m.get("model_name") for m in world.capabilities.get("supported_models", [])]
        _ = world.base_model
    except (Broken, Refused) as error:
        if model is None:
            raise WorldError(
                f"{url} does not say which models it has ({_short(str(error))}); name one, model="
            ) from error
        return  # the law of it will say so
    if model is not None and named and model not in named:
        raise ConfigError(f"model={model}: {url} serves {', '.join(map(str, named))}")


def _short(text: str) -> str:
    """As much as a cell holds; the whole is said below the table."""
    return text if len(text) <= CELL else text[: CELL - 3] + "..."


@contextmanager
def _server(base_url: str | None) -> Iterator[str]:
    if base_url is not None:
        yield base_url
        return
    with (
        tempfile.TemporaryDirectory(prefix="tinsmith-conform-") as directory,
        bootstrap.open_server({"tiny": "tiny"}, Path(directory), note=lambda text: None).running() as url,
    ):
        yield url

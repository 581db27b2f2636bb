"""Check laws on a server, one after the other."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Sequence
from enum import StrEnum
from typing import Any

import hypothesis
from attrs import field, frozen
from hypothesis import HealthCheck, Phase, strategies

from tinsmith.config.values import nearest
from tinsmith.domain.errors import ConfigError
from tinsmith.testing.conformance.client import Refused
from tinsmith.testing.conformance.law import LAWS, Broken, Law, Unsupported
from tinsmith.testing.conformance.world import World

EXAMPLES = 5
LAW_S = 20.0
"""After so long no new example of a law is begun."""
SHRINK_S = 8.0
"""How long a smaller counter-example is looked for."""


class Verdict(StrEnum):
    HOLDS = "holds"
    BROKEN = "broken"
    UNSUPPORTED = "not supported"


@frozen
class Finding:
    """What came of one law."""

    law: Law
    verdict: Verdict
    message: str = ""
    """How it was broken, or why it was not seen."""
    example: str = ""
    """The smallest counter-example that was found: each value that was drawn."""
    seconds: float = 0.0
    examples: int = 0
    requests: int = 0

    def json(self) -> dict[str, Any]:
        return {
            "law": self.law.name,
            "chapter": self.law.chapter,
            "statement": self.law.statement,
            "source": self.law.source,
            "verdict": str(self.verdict),
            "message": self.message,
            "counter_example": self.example,
            "seconds": round(self.seconds, 3),
            "examples": self.examples,
            "requests": self.requests,
        }


@frozen
class Report:
    base_url: str
    base_model: str
    findings: Sequence[Finding]
    seconds: float
    requests: int

    @property
    def broken(self) -> list[Finding]:
        return [f for f in self.findings if f.verdict is Verdict.BROKEN]

    def json(self) -> dict[str, Any]:
        return {
            "base_url": self.base_url,
            "model": self.base_model,
            "counts": {v: sum(f.verdict is v for f in self.findings) for v in Verdict},
            "seconds": round(self.seconds, 3),
            "requests": self.requests,
            "laws": [f.json() for f in self.findings],
        }


@frozen
class _Failure:
    values: dict[str, Any]
    error: Exception = field(eq=False)


def select(names: Iterable[str]) -> list[Law]:
    """Laws by name, or by chapter; all without any. Raises ConfigError with the nearest name."""
    chosen = list(names)
    chapters = {law.chapter for law in LAWS.values()}
    for name in chosen:
        if name not in LAWS and name not in chapters:
            meant = nearest(name, [*LAWS, *chapters])
            guess = f"; did you mean {meant}?" if meant else f"; chapters are {', '.join(sorted(chapters))}"
            raise ConfigError(f"there is no law or chapter {name!r}{guess}")
    return [law for law in LAWS.values() if not chosen or law.name in chosen or law.chapter in chosen]


def check_law(
    law: Law, world: World, *, examples: int = EXAMPLES, seed: int = 0, shrink_s: float = SHRINK_S
) -> Finding:
    """`examples`: how many are drawn for a law about drawn values. `shrink_s`: seconds of looking for a smaller
    counter-example."""
    began, before = time.monotonic(), world.wire.requests
    tried = 0

    def finding(verdict: Verdict, message: str = "", example: str = "") -> Finding:
        seconds = time.monotonic() - began
        return Finding(law, verdict, message, example, seconds, tried, world.wire.requests - before)

    failures: list[_Failure] = []
    refused: list[Unsupported] = []
    failed_at: list[float] = []

    def attempt(values: dict[str, Any]) -> None:
        nonlocal tried
        known = [f for f in failures if f.values == values]
        if known:  # what failed fails again; it is not tried anew
            raise known[-1].error
        now = time.monotonic()
        if refused or now - began > LAW_S or (failed_at and now - failed_at[0] > shrink_s):
            return
        tried += 1
        try:
            law.body(world, **values)
        except Unsupported as error:
            refused.append(error)
        except Exception as error:
            world.drop_model()
            failures.append(_Failure(values, error))
            failed_at.append(time.monotonic())
            raise

    if not law.given:
        with contextlib.suppress(Exception):  # it is among the failures
            attempt({})
    else:
        attempted = hypothesis.seed(seed)(
            hypothesis.settings(
                max_examples=examples,
                database=None,
                deadline=None,
                derandomize=False,
                print_blob=False,
                verbosity=hypothesis.Verbosity.quiet,
                phases=(Phase.generate, Phase.shrink),
                suppress_health_check=list(HealthCheck),
                report_multiple_bugs=False,
            )(hypothesis.given(strategies.fixed_dictionaries(dict(law.given)))(attempt))
        )
        try:
            attempted()
        except Exception:
            if not failures:
                raise
    if failures:
        smallest = min(failures, key=lambda f: (len(_shown(f.values)), _shown(f.values)))
        return finding(Verdict.BROKEN, _message(smallest.error), _shown(smallest.values))
    if refused:
        return finding(Verdict.UNSUPPORTED, str(refused[0]))
    return finding(Verdict.HOLDS)


def check(
    world: World,
    laws: Sequence[Law],
    *,
    examples: int = EXAMPLES,
    seed: int = 0,
    after: Callable[[Finding, int, int], object] = lambda finding, done, total: None,
) -> Report:
    """`after` is called with each finding, how many there are, and how many there will be."""
    began, findings = time.monotonic(), []
    for law in laws:
        findings.append(check_law(law, world, examples=examples, seed=seed))
        after(findings[-1], len(findings), len(laws))
    return Report(world.wire.base_url, world.base_model, findings, time.monotonic() - began, world.wire.requests)


def _message(error: Exception) -> str:
    if isinstance(error, Broken):
        return str(error)
    if isinstance(error, Refused):
        return f"refused: {error}"
    return f"{type(error).__name__}: {error}"


def _shown(values: dict[str, Any]) -> str:
    return "; ".join(f"{name} {value!r}" for name, value in values.items())

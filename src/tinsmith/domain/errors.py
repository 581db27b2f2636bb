"""The errors of tinsmith: one base, grouped by what a handler would do about them.

Every error derives from `TinsmithError` and from the builtin it refines, so that code which knows only the builtin
still catches it. A message says what was wrong, where (file, line, index, message, turn) and the way out.

Whose error it is decides what a loop does with it: a *user's* mistake stops before work is spent; a *model's* wrong
answer is a reward and never an exception; a *budget's* limit is a stop reason; a *world's* failure is retried, counted
and never turned into a reward.
"""

from __future__ import annotations


class TinsmithError(Exception):
    """Base of every error that tinsmith raises on purpose."""


class ConfigError(TinsmithError, ValueError):
    """A setting is unknown, of the wrong type, out of range, or contradicts another."""


class DataError(TinsmithError, ValueError):
    """Input data is malformed. `source` and `line` (from 1) say where, when known."""

    def __init__(self, message: str, *, source: str | None = None, line: int | None = None) -> None:
        self.source = source
        self.line = line
        where = "" if source is None else f"{source}: " if line is None else f"{source}, line {line}: "
        super().__init__(where + message)


class DataNotFoundError(TinsmithError, FileNotFoundError):
    """A data file, object or dataset is not where it was said to be."""


class ShapeError(TinsmithError, ValueError):
    """Arrays disagree in length, dtype or offsets."""


class RenderError(TinsmithError, ValueError):
    """A conversation cannot be rendered or parsed as asked."""


class ModelError(TinsmithError, ValueError):
    """A model directory or file is malformed or of an unsupported architecture."""


class ModelNotFoundError(TinsmithError, FileNotFoundError):
    """A model path or name leads nowhere."""


class CapabilityError(TinsmithError, NotImplementedError):
    """A backend was asked for a power that its capability record does not declare."""


class MissingExtraError(TinsmithError, ImportError):
    """An optional dependency is not installed; the message says what to install."""

    def __init__(self, package: str, extra: str) -> None:
        self.package = package
        self.extra = extra
        super().__init__(f'{package} is not installed: pip install "tinsmith[{extra}]"')


class TrainingError(TinsmithError, RuntimeError):
    """A training run cannot go on."""


class BudgetError(TinsmithError, RuntimeError):
    """A limit of money was reached: the run's own budget, or the account's at a server. What was finished is kept."""


class NonFiniteError(TrainingError, ArithmeticError):
    """A loss, gradient or logprob is NaN or infinite; the weights were left as they were."""


class JournalError(TinsmithError, OSError):
    """A run directory cannot be written, read or trusted."""


class RunLockedError(JournalError):
    """Another process works in the run directory."""


class RunPathError(JournalError):
    """What is asked for as a run directory holds something else, or cannot be made."""


class WorldError(TinsmithError, OSError):
    """The world failed (network, disk, sandbox): retried and counted, never a reward."""


class OutputClosedError(TinsmithError, BrokenPipeError):
    """Whoever read standard output, through a pipe, has ended."""


class DeadlineError(WorldError, TimeoutError):
    """A wait reached its deadline."""


class JudgeError(WorldError):
    """A judge did not say what it was asked for, however often: nothing is known of the answer."""


class CancelledWorkError(TinsmithError, RuntimeError):
    """Submitted work was cancelled before it finished."""

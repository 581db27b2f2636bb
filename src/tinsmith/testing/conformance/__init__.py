"""The laws that a server of the Tinker protocol keeps, and their check on any such server.

    with World(lambda: Wire("http://localhost:8000")) as world:
        report = check(world, select([]))

`tinsmith conform` does this from the command line. It talks HTTP as SDK 0.38.0 does, without the SDK: retries, order of
arrival and unknown fields cannot be seen through it. Each law is a function of `training`, `losses`, `optimizer`,
`sampling`, `storage`, `protocol` and `errors`; its docstring says it in a sentence. Where a law is about all batches,
prompts or settings, Hypothesis draws some, and the smallest counter-example is shown.

Needs httpx, protobuf and hypothesis (extra `conform`).
"""

from tinsmith.domain.errors import MissingExtraError

try:
    import hypothesis as _  # noqa: F401
except ImportError:
    raise MissingExtraError("hypothesis", "conform") from None

from tinsmith.testing.conformance import training  # noqa: I001 - the order of the chapters
from tinsmith.testing.conformance import losses, optimizer, sampling, storage, protocol, errors
from tinsmith.testing.conformance.client import Refused, Wire
from tinsmith.testing.conformance.law import LAWS, Broken, Law, Unsupported
from tinsmith.testing.conformance.run import Finding, Report, Verdict, check, check_law, select
from tinsmith.testing.conformance.world import World

CHAPTERS = {
    module.__name__.rpartition(".")[2]: module.__doc__ or ""
    for module in (training, losses, optimizer, sampling, storage, protocol, errors)
}
"""What each chapter is about, by its name."""

__all__ = [
    "CHAPTERS",
    "LAWS",
    "Broken",
    "Finding",
    "Law",
    "Refused",
    "Report",
    "Unsupported",
    "Verdict",
    "Wire",
    "World",
    "check",
    "check_law",
    "select",
]

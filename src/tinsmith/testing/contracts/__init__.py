"""One suite of laws per port. An adapter's test subclasses the suite and supplies its construction:

    class TestMyTrainer(TrainerContract):
        def make(self): return MyTrainer(...)
        def weights(self, trainer): return ...

Needs the extra `test` (pytest, hypothesis).
"""

# ruff: noqa: E402
import pytest

# So that a broken law shows its values.
_SUITES = (
    "_common",
    "blob",
    "clock",
    "data",
    "files",
    "grader",
    "gradients",
    "renderer",
    "runlog",
    "sampler",
    "search",
    "sandbox",
    "tokenizer",
    "trainer",
)
pytest.register_assert_rewrite(*(f"{__name__}.{suite}" for suite in _SUITES))

from tinsmith.testing.contracts.blob import BlobStoreContract
from tinsmith.testing.contracts.clock import ClockContract
from tinsmith.testing.contracts.data import DatasetSourceContract
from tinsmith.testing.contracts.files import FileSystemContract
from tinsmith.testing.contracts.grader import GraderContract
from tinsmith.testing.contracts.renderer import RendererContract
from tinsmith.testing.contracts.runlog import RunLogContract
from tinsmith.testing.contracts.sampler import SamplerContract
from tinsmith.testing.contracts.sandbox import SandboxContract
from tinsmith.testing.contracts.search import SearchContract
from tinsmith.testing.contracts.tokenizer import TokenizerContract
from tinsmith.testing.contracts.trainer import TrainerContract

__all__ = [
    "BlobStoreContract",
    "ClockContract",
    "DatasetSourceContract",
    "FileSystemContract",
    "GraderContract",
    "RendererContract",
    "RunLogContract",
    "SamplerContract",
    "SandboxContract",
    "SearchContract",
    "TokenizerContract",
    "TrainerContract",
]

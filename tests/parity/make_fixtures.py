"""Write tests/data/parity: run in an environment with torch, transformers and peft (`make parity` makes one).

python tests/parity/make_fixtures.py
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
import oracle

DATA = Path(__file__).parents[1] / "data" / "parity"


def main() -> None:
    for case in oracle.CASES:
        directory = DATA / case.name
        shutil.rmtree(directory, ignore_errors=True)
        oracle.save(case, directory)
        for extra in directory.iterdir():
            if extra.name not in ("config.json", "model.safetensors"):
                extra.unlink()
        # float32 keeps the repository small; its rounding is far below what is asserted.
        answers = {name: np.asarray(value, np.float32) for name, value in oracle.answers(case).items()}
        batch = oracle.batch_of(case)
        np.savez_compressed(directory / "answers.npz", meta=np.array(oracle.meta(case)), **batch, **answers)
        print(f"{case.name}: {sum(f.stat().st_size for f in directory.iterdir()) / 1024:.0f} KiB")


if __name__ == "__main__":
    main()

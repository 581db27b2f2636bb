"""A run without a model, to kill: `toy_run.py DIRECTORY STEPS`."""

from __future__ import annotations

import random
import sys
import time
from pathlib import Path

from tinsmith.adapters.local.clock import SystemClock
from tinsmith.adapters.local.files import LocalFiles
from tinsmith.workflows.journal import RunDirectory


def main(directory: Path, steps: int) -> None:
    generator = random.Random(0)
    weight = 0.0

    def load(name: str) -> None:
        nonlocal weight
        weight = float((run.checkpoints / name / "state").read_text())

    def delete(name: str) -> None:
        (run.checkpoints / name / "state").unlink()
        (run.checkpoints / name).rmdir()

    def save(keep: str, step: int) -> None:
        name = run.checkpoint_name(keep, step)
        (run.checkpoints / name).mkdir()
        (run.checkpoints / name / "state").write_text(repr(weight))
        run.record_checkpoint(keep, step, name, {"random": generator.getstate()})

    files, clock = LocalFiles(), SystemClock()
    with RunDirectory.open(directory, recipe="toy", config={"steps": steps}, files=files, clock=clock) as run:
        if run.finished_at is not None:
            return
        point = run.resume(load, delete)
        if point is not None:
            version, state, gauss = point.cursor["random"]
            generator.setstate((version, tuple(state), gauss))
        for step in range(point.step if point else 0, steps):
            weight += generator.gauss(0, 1)
            time.sleep(0.002)
            run.write_rollouts(step, [{"weight": weight, "time/now": clock.now()}] * (step % 3))
            run.record_step(step, {"weight": weight, "time/step": clock.monotonic()}, datums=str(step))
            if (step + 1) % 3 == 0 and step + 1 < steps:
                save("rolling" if (step + 1) % 9 else "periodic", step + 1)
        if not run.has_checkpoint("final", steps):
            save("final", steps)
        run.record_evaluation(steps, {"test/weight": weight})
        run.finish("max_steps")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))

"""`tinsmith show` on a run with many episodes: seconds to make the page, its size, seconds until a browser
shows it.

    python benches/show.py [--episodes 10000] [--prompt 100] [--answer 200]

The browser is Chromium, headless, through Playwright (`make browser`); without one the page is made and not opened.
What is measured there: from the call to open the file until the page says that it is ready (curves drawn); then until
the first group of episodes stands there; then a search of all texts.
"""

from __future__ import annotations

import argparse
import json
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

import tinsmith as ts
from tinsmith import bootstrap
from tinsmith.domain.episodes import Episode, Group, StopReason, Transition
from tinsmith.workflows.journal import RunDirectory
from tinsmith.workflows.rollout_log import to_rows


def make_run(path: Path, episodes: int, prompt: int, answer: int, per_step: int = 512, members: int = 8) -> None:
    """A run of random tokens with the vocabulary of the tiny model."""
    tokenizer, _ = bootstrap.load_tokenizer("tiny")
    rng = np.random.default_rng(0)
    config = {"model": "tiny", "max_steps": -(-episodes // per_step)}
    files, clock = bootstrap.local_files(), bootstrap.system_clock()
    with RunDirectory.open(path, recipe="rl-basic", config=config, files=files, clock=clock) as run:
        run.resume(load=lambda _: None)
        for step, first in enumerate(range(0, episodes, per_step)):
            groups = []
            for g in range(min(per_step, episodes - first) // members):
                seen = rng.integers(5, tokenizer.vocab_size, prompt)
                turns = []
                for _ in range(members):
                    action = rng.integers(5, tokenizer.vocab_size, int(rng.integers(answer // 2, answer * 3 // 2 + 1)))
                    turns.append(
                        Transition(
                            observation=seen,
                            action=action,
                            logprobs=-rng.exponential(0.5, len(action)).astype(np.float32),
                            reward=float(rng.integers(0, 2)),
                            policy_version=step,
                            metrics={"correct": 1.0, "format": 1.0},
                        )
                    )
                members_of = tuple(Episode(transitions=(t,), stop_reason=StopReason.COMPLETED) for t in turns)
                groups.append(Group(problem=f"math/{step}-{g}", episodes=members_of, tags=("math",)))
            rows = to_rows(groups, split="train", decode=tokenizer.decode)
            for row in rows:
                row["turns"][0] |= {"advantages": row["reward"] - 0.5, "weights": 1.0}
            run.write_rollouts(step, rows)
            run.record_step(step, {f"metric/{i}": float(rng.random()) for i in range(80)}, datums="")
        run.finish("max_steps")


def opened(page: Path, times: int = 5) -> dict[str, float] | None:
    """Median seconds in a browser; None where there is none."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        return None
    found: dict[str, list[float]] = {"open": [], "episodes": [], "search": []}
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for _ in range(times):
            tab = browser.new_page()
            began = time.perf_counter()
            tab.goto(page.as_uri())
            tab.wait_for_selector("html[data-ready]")
            found["open"].append(time.perf_counter() - began)
            began = time.perf_counter()
            tab.click(".tabs button:nth-child(2)")
            tab.wait_for_selector("article")
            found["episodes"].append(time.perf_counter() - began)
            tab.fill("input[type=search]", "no such text")
            began = time.perf_counter()
            tab.get_by_text(re.compile("^0 of")).wait_for(timeout=60_000)
            found["search"].append(time.perf_counter() - began)
            tab.close()
        browser.close()
    return {name: statistics.median(values) for name, values in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--episodes", type=int, default=10_000)
    parser.add_argument("--prompt", type=int, default=100)
    parser.add_argument("--answer", type=int, default=200, help="tokens of an answer, on average")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        make_run(run, given.episodes, given.prompt, given.answer)
        took, busy = [], []
        for _ in range(3):
            began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
            subprocess.run([sys.executable, "-m", "tinsmith", "show", str(run)], check=True, stdout=subprocess.DEVNULL)
            took.append(time.perf_counter() - began)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            busy.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        page = run / "show.html"
        result = {
            "tinsmith": ts.__version__,
            "episodes": given.episodes,
            "tokens an episode": given.prompt + given.answer,
            "rollouts, MB": round((run / "rollouts" / "train.jsonl").stat().st_size / 1e6, 1),
            "page, MB": round(page.stat().st_size / 1e6, 1),
            "make the page, s (process included)": round(statistics.median(took), 2),
            "processor, s": round(statistics.median(busy), 2),
            "memory, MB": round(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e3),
            "in a browser, s": opened(page),
        }
        print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()

"""tinker-cookbook, unmodified, against `tinsmith serve`, and our own recipes on the same data: `make cookbook`.

`--peer` is the Python that has tinker-cookbook. Prints a table and exits with 1 when a line of it does not hold.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from attrs import define, field
from rich.console import Console
from rich.table import Table

import data
import tinsmith as ts

ROOT = Path(__file__).resolve().parents[2]
LIMIT_S = 600
"""Seconds that one command may take."""

SL = {"batch_size": 8, "learning_rate": 5e-3}
KILL_AFTER, SAVE_EVERY = 24, 20
RL = {"group_size": 8, "max_tokens": 8, "learning_rate": 1e-3}


class Failed(Exception):
    """A command that did not end well; the message ends with its last lines."""


@define
class Bench:
    work: Path
    peer: Path
    url: str = ""
    served: Path = Path()
    lines: list[tuple[str, str, str, str, str, bool]] = field(factory=list)

    def said(self, recipe: str, what: str, theirs: object, ours: object, rule: str, holds: bool) -> None:
        shown = [f"{v:.4f}" if isinstance(v, float) else str(v) for v in (theirs, ours)]
        self.lines.append((recipe, what, *shown, rule, bool(holds)))
        print(f"{recipe}: {what}: {shown[0]} / {shown[1]} ({rule}){'' if holds else '  DOES NOT HOLD'}", flush=True)

    @contextlib.contextmanager
    def reporting(self, part: str) -> Iterator[None]:
        try:
            yield
        except (Failed, subprocess.TimeoutExpired) as error:
            print(error)
            self.said(part, str(error).splitlines()[0], "failed", "", "", False)

    def environment(self) -> dict[str, str]:
        return {
            "PATH": f"{self.peer.parent}:/usr/bin:/bin",
            "HOME": str(self.work),
            "HF_HUB_OFFLINE": "1",
            "TINKER_API_KEY": "tml-local",
            "TINKER_TELEMETRY": "0",
            "TINKER_BASE_URL": self.url,
        }

    def command(self, module: str, options: dict[str, object]) -> list[str]:
        return [str(self.peer), "-m", f"tinker_cookbook.recipes.{module}", *(f"{k}={v}" for k, v in options.items())]

    def cookbook(self, module: str, log: str, **options: object) -> list[dict[str, float]]:
        """The metrics of a recipe of the cookbook, a record a step."""
        self.call(self.command(module, {"model_name": data.MODEL, "log_path": log, **options}), log)
        return metrics(self.work / log)

    def call(self, command: list[str], name: str, env: dict[str, str] | None = None) -> str:
        began = time.monotonic()
        done = subprocess.run(
            command,
            cwd=self.work,
            env=env or self.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )
        (self.work / f"{name}.out").write_text(done.stdout)
        if done.returncode:
            raise Failed(f"{name} ended with {done.returncode}:\n" + "\n".join(done.stdout.splitlines()[-15:]))
        print(f"{name}: {time.monotonic() - began:.0f} s", flush=True)
        return done.stdout

    def ours(self, recipe: str, log: str, **options: object) -> list[dict[str, float]]:
        """The metrics of a recipe of ours, with the adapters that the SDK asks for by default."""
        options = {"log_path": log, "lora.unembed": "true", "checkpoints.every": 0, "export": "none", **options}
        command = [sys.executable, "-m", "tinsmith", recipe, *(f"{k}={v}" for k, v in options.items())]
        self.call(command, log, {**os.environ, "PYTHONPATH": str(ROOT / "src")})
        return metrics(self.work / log)

    @contextlib.contextmanager
    def serving(self, model: str) -> Iterator[None]:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self.served = self.work / f"served-{model}"
        options = [f"model={data.MODEL}={model}", f"port={port}", f"dir={self.served}"]
        with (self.work / f"serve-{model}.out").open("w") as out:
            server = subprocess.Popen(
                [sys.executable, "-m", "tinsmith", "serve", "-v", *options],
                cwd=self.work,
                env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
                stdout=out,
                stderr=out,
            )
        try:
            until(lambda: healthy(self.url), "the server does not answer")
            yield
            if server.poll() is not None:
                raise Failed(f"the server ended with {server.returncode}: {out.name}")
        finally:
            server.terminate()
            server.wait(30)

    def seed_of_first(self) -> int:
        """The seed that the server drew for the first model made there: the cookbook asks for none."""
        with contextlib.closing(sqlite3.connect(self.served / "server.sqlite")) as store:
            (seed,) = store.execute("SELECT seed FROM models ORDER BY created LIMIT 1").fetchone()
        return int(seed)


def until(done, otherwise: str, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not done():
        if time.monotonic() > end:
            raise Failed(f"{otherwise} within {seconds:.0f} s")
        time.sleep(0.05)


def healthy(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/api/v1/healthz", timeout=5):
            return True
    except OSError:
        return False


def metrics(run: Path) -> list[dict[str, float]]:
    path = run / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("}")]


def column(records: list[dict[str, float]], *names: str) -> list[float]:
    """The first of the names that records have, where they have it."""
    found = next(name for name in names if any(name in r for r in records))
    return [r[found] for r in records if found in r]


def supervised(bench: Bench) -> None:
    """sl_loop, killed on its way and run again, beside sl-basic on the same rows in the same order."""
    options = {"train_on_what": "last_assistant_message", "max_length": 512, "save_every": SAVE_EVERY, **SL}
    log = "sl_loop"
    command = bench.command("sl_loop", {"model_name": data.MODEL, "log_path": log, **options})
    with (bench.work / "sl_loop-killed.out").open("w") as out:
        first = subprocess.Popen(command, cwd=bench.work, env=bench.environment(), stdout=out, stderr=out)
        try:
            until(lambda: len(metrics(bench.work / log)) >= KILL_AFTER or first.poll() is not None, "no step", LIMIT_S)
        finally:
            first.send_signal(signal.SIGKILL)
            first.wait()
    before = metrics(bench.work / log)
    after = bench.cookbook("sl_loop", log, **options)[len(before) :]
    steps = data.CHATS // SL["batch_size"]
    again = [r["train_mean_nll"] for r in before if r["step"] >= SAVE_EVERY]
    resumed = after and after[0]["step"] == SAVE_EVERY and after[-1]["step"] == steps - 1
    bench.said("sl_loop", "killed, run again: starts at step", after[0]["step"], SAVE_EVERY, "equal", resumed)
    repeated = column(after, "train_mean_nll")[: len(again)]
    bench.said(
        "sl_loop", f"{len(again)} steps done twice, last NLL", again[-1], repeated[-1], "bits", again == repeated
    )


def supervised_here(bench: Bench) -> None:
    """sl-basic with the adapters that the server drew, on the rows of sl_loop in its order. After the server has ended:
    it keeps its record to itself."""
    seed = bench.seed_of_first()
    data.in_the_order_of_sl_loop(bench.work / "HuggingFaceH4/no_robots/train.jsonl", bench.work / "chats.jsonl", seed)
    # Theirs is the sum over the batch, ours the mean. Adam sees no factor of the gradient but beside its eps.
    eps = 1e-8 / SL["batch_size"]
    same = {"train_on": "last_assistant_message", "reduction": "sequence_mean", "seed": seed, "adam.eps": eps}
    ours = bench.ours("sl-basic", "sl-basic", data="chats.jsonl", **same, **SL)
    theirs, mine = (column(run, "train_mean_nll") for run in (metrics(bench.work / "sl_loop"), ours))
    theirs = theirs[:SAVE_EVERY] + theirs[SAVE_EVERY - len(mine) :]  # without what was done twice
    near = math.isclose(theirs[0], mine[0], rel_tol=1e-6)
    bench.said("sl_loop", "NLL of the first step", theirs[0], mine[0], "within 1e-6", near)
    off = max(abs(a / b - 1) for a, b in zip(theirs, mine, strict=True))
    bench.said(
        "sl_loop", "NLL of the last step", theirs[-1], mine[-1], f"every step within 1e-5 (worst {off:.1e})", off < 1e-5
    )


def weights(bench: Bench) -> None:
    """sl_loop's last checkpoint, downloaded and merged by the cookbook, is the model that the server samples from."""
    last = json.loads((bench.work / "sl_loop/checkpoints.jsonl").read_text().splitlines()[-1])
    ids = ts.load_model("tiny").renderer.generation_prompt([ts.Message.user("What is 1 + 2?")]).ids
    command = [
        str(bench.peer),
        str(Path(__file__).parent / "peer.py"),
        last["state_path"],
        last["sampler_path"],
        data.MODEL,
    ]
    printed = bench.call([*command, ",".join(map(str, ids))], "weights")
    served = np.array(json.loads(printed.splitlines()[-1])[1:])
    sampler = ts.load_model(bench.work / "merged").sampler()
    merged = sampler.score(ids).result()[1:]
    sampler.close()
    off = float(np.abs(served - merged).max())
    bench.said("weights", "download, merge: logprobs differ by", off, 0.0, "1e-3", off < 1e-3)


def reinforcement(bench: Bench) -> None:
    """rl_loop and rl_basic from the merged model, beside rl-basic. Its worked example is not theirs, and the prompt of
    rl_basic is the one that `env=math` writes."""
    asked = bench.work / "openai/gsm8k/train.jsonl"
    same = {"model": "merged", "lr_schedule": "constant", "max_steps": 12, **RL}
    theirs = bench.cookbook("rl_loop", "rl_loop", loss_fn="importance_sampling", batch_size=16, max_steps=12, **RL)
    ours = bench.ours("rl-basic", "as-rl_loop", env="gsm8k", data=asked, groups_per_batch=16, format_coef=0, **same)
    rewards(bench, "rl_loop", theirs, ours)
    rows = [json.loads(line) for line in asked.read_text().splitlines()]
    answers = [{"problem": row["question"], "answer": row["answer"].split("#### ")[1]} for row in rows]
    data.write(bench.work / "problems.jsonl", answers)
    problems = {
        "batch_size": 16,
        "group_size": RL["group_size"],
        "renderer_name": "qwen3_instruct",
        "model_name_for_tokenizer": data.MODEL,
        "convo_prefix": "None",
    }
    theirs = bench.cookbook(
        "rl_basic",
        "rl_basic",
        loss_fn="importance_sampling",
        max_steps=12,
        dataset_builder="tinker_cookbook.recipes.math_rl.math_env:Gsm8kDatasetBuilder",
        **{f"dataset_builder.{name}": value for name, value in problems.items()},
        **{k: v for k, v in RL.items() if k != "group_size"},
    )
    options = {"env": "math", "data": "problems.jsonl", "groups_per_batch": 16, "fewshot": "false"}
    ours = bench.ours("rl-basic", "as-rl_basic", **options, **same)
    rewards(bench, "rl_basic", theirs, ours)


def arithmetic(bench: Bench) -> None:
    options = {"group_size": 4, "groups_per_batch": 64, "learning_rate": 1e-3, "max_tokens": 8, "max_steps": 12}
    theirs = bench.cookbook("math_rl.train", "math_rl", env="arithmetic", loss_fn="importance_sampling", **options)
    ours = bench.ours("rl-basic", "as-math_rl", fewshot="true", lr_schedule="constant", **options)
    rewards(bench, "math_rl", theirs, ours)


def rewards(bench: Bench, recipe: str, theirs: list[dict[str, float]], ours: list[dict[str, float]]) -> None:
    both = [column(run, "env/all/correct", "reward/mean", "reward/total") for run in (theirs, ours)]
    print(recipe, *([round(v, 3) for v in run] for run in both), sep="\n  ")
    first, last = ([float(np.mean(run[part])) for run in both] for part in (slice(3), slice(-3, None)))
    bench.said(recipe, "right answers, first 3 steps", *first, "within 0.2", abs(first[0] - first[1]) < 0.2)
    rise = min(b - a for a, b in zip(first, last, strict=True))
    bench.said(recipe, "right answers, last 3 steps", *last, "up by 0.05", rise > 0.05)


def preferences(bench: Bench) -> None:
    run = bench.cookbook("preference.dpo.train", "dpo", batch_size=32, learning_rate=3e-4, max_length=256, max_steps=12)
    loss, margin = column(run, "dpo_loss"), column(run, "margin")
    print("dpo", [round(v, 3) for v in loss], [round(v, 3) for v in margin])
    bench.said("dpo", "first loss", loss[0], math.log(2), "1e-3; ln 2", abs(loss[0] - math.log(2)) < 1e-3)
    bench.said(
        "dpo", "last loss; margin", loss[-1], margin[-1], "below; above 0", loss[-1] < loss[0] and margin[-1] > 0
    )


def page(bench: Bench) -> None:
    """The commands of docs/laptop.md on the cookbook, as they stand there but for the port."""
    text = (ROOT / "docs/laptop.md").read_text().split("## tinker-cookbook")[1].split("\n## ")[0]
    lines = [line[2:] for line in text.splitlines() if line.startswith("$ ")]
    ours = f"env PYTHONPATH={ROOT / 'src'} {sys.executable}"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    script = "\n".join(["set -eu", "trap 'kill $(jobs -p)' EXIT", *lines]).replace("8178", port)
    script = script.replace("\ntinsmith ", f"\n{ours} -m tinsmith ").replace("$(python -c", f"$({ours} -c")
    where = bench.work / "page"
    where.mkdir()
    bench.call(["bash", "-c", script.replace("\nexport", f"\ncd {where}\nexport", 1)], "page")
    nll = column(metrics(where / "sl"), "train_mean_nll")
    bench.said("the how-to", "NLL, first and last step", nll[0], nll[-1], "falls", nll[-1] < nll[0])


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--peer", type=Path, required=True)
    parser.add_argument("--work", type=Path, help="an empty directory to work in, kept; none takes one that is removed")
    arguments = parser.parse_args()
    began = time.monotonic()
    with contextlib.ExitStack() as stack:
        work = arguments.work or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cookbook-")))
        data.make(work)
        bench = Bench(work.resolve(), arguments.peer.absolute())
        stages = {
            "tiny": (supervised, weights, preferences, arithmetic),
            None: (supervised_here, page),
            "merged": (reinforcement,),
        }
        for model, parts in stages.items():
            serving = bench.serving(model) if model else contextlib.nullcontext()
            with bench.reporting(f"serve {model}"), serving:
                for part in parts:
                    with bench.reporting(part.__name__):
                        part(bench)
    table = Table("recipe", "what", "cookbook", "ours", "rule", "")
    for *cells, holds in bench.lines:
        table.add_row(*cells, "holds" if holds else "[red]does not[/red]")
    Console().print(table)
    print(f"{time.monotonic() - began:.0f} s")
    return 0 if all(line[-1] for line in bench.lines) else 1


if __name__ == "__main__":
    raise SystemExit(main())

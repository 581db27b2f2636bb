"""Tokens a second of the embedded engine beside PyTorch + transformers + peft, in one run, in turns.

    .venv/bin/python benches/engine.py --peer .parity-venv/bin/python [train tiny] [sample tiny] [train 135m] ...

Both do the same work on the same shapes with the same number of threads: LoRA of rank 32 on all linear layers, forward,
backward and AdamW; sampling at temperature 1. What is compared is the ratio within each round, its median quoted. The
bound is what the products of the step alone would take at the rate that this machine multiplies large matrices.
Correctness is beside it: `make parity` compares logprobs, gradients and ten training steps with the same peer.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
from pathlib import Path

from shapes import SHAPES

from tinsmith import _native

JOBS = ["train tiny", "sample tiny", "train 135m", "sample 135m"]


class Worker:
    def __init__(self, python: str, script: str, threads: int) -> None:
        self._process = subprocess.Popen(
            [python, str(Path(__file__).with_name(script)), str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def do(self, job: str) -> tuple[float, float]:
        """(tokens a second, peak MB of the process)"""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(job + "\n")
        self._process.stdin.flush()
        tokens, seconds, peak = map(float, self._process.stdout.readline().split())
        return tokens / seconds, peak

    def close(self) -> None:
        self._process.communicate()


def bound(job: str, rate: float) -> float | None:
    """Tokens a second that the matrix products of a training step allow: 4 flops a parameter (forward, and backward to
    the inputs; the frozen weights have no gradient), and those of the adapters' gradients."""
    what, shape = job.split()
    if what != "train":
        return None
    c = SHAPES[shape]["config"]
    h, m, kv = c["hidden_size"], c["intermediate_size"], c["num_key_value_heads"] * c["head_dim"]
    q = c["num_attention_heads"] * c["head_dim"]
    linear = [(h, q), (h, kv), (h, kv), (q, h), (h, m), (h, m), (m, h)]
    frozen = c["num_hidden_layers"] * sum(a * b for a, b in linear) + c["vocab_size"] * h
    adapters = c["num_hidden_layers"] * sum(32 * (a + b) for a, b in linear)
    return rate / (4 * frozen + 4 * adapters)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", default=".parity-venv/bin/python", help="a Python with torch, transformers, peft")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("jobs", nargs="*", default=JOBS, help='e.g. "train tiny"')
    arguments = parser.parse_args()
    rate = _native.matmul_rate(arguments.threads)
    print(f"matrix products at {rate / 1e9:.0f} GFLOP/s on {arguments.threads} threads")
    heads = (
        ("ours tok/s", 12),
        ("peer tok/s", 12),
        ("ratio", 8),
        ("range", 14),
        ("bound", 10),
        ("MB ours", 9),
        ("peer", 7),
    )
    print(f"{'job':14}" + "".join(f"{name:>{width}}" for name, width in heads))
    for job in arguments.jobs:
        ours = Worker(sys.executable, "engine_ours.py", arguments.threads)
        peer = Worker(arguments.peer, "engine_peer.py", arguments.threads)
        for worker in (ours, peer):
            worker.do(job)
            worker.do(job)
        pairs = [(ours.do(job), peer.do(job)) for _ in range(arguments.rounds)]
        ratios = sorted(a[0] / b[0] for a, b in pairs)
        mine = statistics.median(a[0] for a, _ in pairs)
        theirs = statistics.median(b[0] for _, b in pairs)
        limit = bound(job, rate)
        share = f"{mine / limit:.0%}" if limit else ""
        spread = f"{ratios[0]:.2f}-{ratios[-1]:.2f}"
        print(
            f"{job:14}{mine:12.0f}{theirs:12.0f}{statistics.median(ratios):8.2f}{spread:>14}{share:>10}"
            f"{pairs[-1][0][1]:9.0f}{pairs[-1][1][1]:7.0f}",
            flush=True,
        )
        ours.close()
        peer.close()


if __name__ == "__main__":
    main()

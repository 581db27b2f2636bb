"""Answers graded a second, natively on one core, beside math-verify and the classic sympy pipeline, in turns.

    RAYON_NUM_THREADS=1 python benches/answers.py --peer PYTHON --data DIRECTORY

PYTHON has tinker-cookbook, sympy, pylatexenc and math-verify; DIRECTORY holds gsm8k/test.jsonl and math/test.jsonl.
Pairs: each right answer against itself written differently (equal) and against a perturbed one (different). Peers,
which are slow, get a sample of the same pairs. Beside the rates stand the shares of right verdicts, an undecided one
being wrong, and the slowest pair.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import subprocess
import time
from pathlib import Path

import numpy as np

from tinsmith.domain import answers

Pair = tuple[str, str, bool]


def golds(data: Path, name: str) -> list[str]:
    rows = [json.loads(line) for line in (data / name / "test.jsonl").open(encoding="utf-8")]
    if name == "gsm8k":
        return [row["answer"].rpartition("####")[2].strip().replace(",", "") for row in rows]
    found = [row["answer"] if row.get("answer") else answers.extract(row["solution"]) for row in rows]
    return [f if isinstance(f, str) else f.text for f in found if f is not None]


def rewritten(gold: str, draw: random.Random) -> str:
    """The same answer as another person would write it."""
    way = draw.randrange(5)
    if way == 0:
        return gold.replace("\\frac", "\\dfrac").replace("\\left", "").replace("\\right", "")
    if way == 1 and re.fullmatch(r"-?\d+", gold):
        return f"{gold}.0"
    if way == 2 and (m := re.fullmatch(r"(-?)\\d?frac\{(\d+)\}\{(\d+)\}", gold)):
        return f"{m[1]}{2 * int(m[2])}/{2 * int(m[3])}"
    return [f"${gold}$", f" {gold} ", f"\\boxed{{{gold}}}", f"{gold}.", f"$ {gold} $"][way]


def perturbed(gold: str, draw: random.Random) -> str | None:
    """Another answer: one digit is another one."""
    places = [i for i, c in enumerate(gold) if c.isdecimal()]
    if not places:
        return None
    i = draw.choice(places)
    return f"{gold[:i]}{(int(gold[i]) + draw.randint(1, 8)) % 9 + 1}{gold[i + 1 :]}"


def pairs_of(texts: list[str], seed: int = 0) -> list[Pair]:
    draw, pairs = random.Random(seed), []
    for gold in texts:
        pairs.append((gold, rewritten(gold, draw), True))
        if (other := perturbed(gold, draw)) is not None and other != gold:
            pairs.append((gold, other, False))
    return pairs


def report(name: str, pairs: list[Pair], equal: list[bool | None], seconds: np.ndarray, total: float) -> float:
    right = sum(e is expected for e, (_, _, expected) in zip(equal, pairs, strict=True))
    false = sum(e is True and not expected for e, (_, _, expected) in zip(equal, pairs, strict=True))
    rate = len(pairs) / total
    p50, p99 = np.quantile(seconds, [0.5, 0.99]) * 1e6
    print(
        f"  {name:12} {rate:10,.0f} pairs/s  p50 {p50:8.1f} us  p99 {p99:10.1f} us"
        f"  slowest {seconds.max() * 1e3:9.2f} ms"
        f"  right {right / len(pairs):7.2%}  wrongly equal {false}  undecided {sum(e is None for e in equal)}"
    )
    return rate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", help="a Python with the peers")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--sample", type=int, default=400, help="pairs that the peers get")
    arguments = parser.parse_args()
    if os.environ.get("RAYON_NUM_THREADS") != "1":
        parser.error("one core: set RAYON_NUM_THREADS=1")
    peer = None
    if arguments.peer:
        script = str(Path(__file__).with_name("answers_peer.py"))
        peer = subprocess.Popen([arguments.peer, script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    for name in ("gsm8k", "math"):
        pairs = pairs_of(golds(arguments.data, name))
        print(f"{name}: {len(pairs)} pairs")
        left, right = [p[0] for p in pairs], [p[1] for p in pairs]
        best, verdicts = float("inf"), answers.grade_batch(left, right)
        for _ in range(7):
            began = time.perf_counter()
            verdicts = answers.grade_batch(left, right)
            best = min(best, time.perf_counter() - began)
        equal = [v.equal for v in verdicts]
        ours = report("native", pairs, equal, verdicts.seconds, best)
        sample = random.Random(1).sample(pairs, min(arguments.sample, len(pairs)))
        for other in ("math_verify", "classic") if peer is not None else ():
            assert peer is not None
            assert peer.stdin is not None
            assert peer.stdout is not None
            peer.stdin.write(json.dumps([other, *([gold, pred] for gold, pred, _ in sample)]) + "\n")
            peer.stdin.flush()
            said = json.loads(peer.stdout.readline())
            seconds = np.array([s for _, s in said])
            theirs = report(other, sample, [e for e, _ in said], seconds, float(seconds.sum()))
            print(f"  {'':12} native is {ours / theirs:,.0f} times as fast")
    if peer is not None:
        peer.communicate()


if __name__ == "__main__":
    main()

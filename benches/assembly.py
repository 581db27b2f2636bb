"""Datum assembly beside tinker-cookbook's assemble_training_data, in one run, in turns.

    .venv/bin/python benches/assembly.py --peer PYTHON     # a Python with tinker-cookbook

16 groups of 8 episodes of 1,000 tokens, in one turn and in ten. Both give the same number of tokens in the same number
of datums; that ours are right is the chapter tests/spec/test_assembly.py. The limit is writing the columns once.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import time
from pathlib import Path

import numpy as np
from test_bench_kernels import make_groups

from tinsmith.domain.advantages import group_advantages
from tinsmith.domain.assembly import assemble


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", required=True, help="a Python with tinker-cookbook")
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    script = str(Path(__file__).with_name("assembly_peer.py"))
    peer = subprocess.Popen([arguments.peer, script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert peer.stdin is not None
    assert peer.stdout is not None
    for turns in (1, 10):
        groups = make_groups(turns)
        advantages = group_advantages([g.rewards for g in groups])
        ours, theirs = [], []
        for _ in range(arguments.rounds + 2):
            peer.stdin.write(f"{turns}\n")
            peer.stdin.flush()
            tokens, seconds = map(float, peer.stdout.readline().split())
            for _ in range(5):  # the peer's turn leaves cold caches; a loop would call more than once as well
                began = time.perf_counter()
                batch = assemble(groups, advantages).batch
                spent = time.perf_counter() - began
                ours.append(batch.num_tokens / spent)
            theirs.append(tokens / seconds)
            assert batch.num_tokens == tokens, "both assemble the same tokens"
        mine, other = statistics.median(ours[10:]), statistics.median(theirs[2:])
        began = time.perf_counter()
        for _ in range(20):
            for dtype in (np.int32,) * 4 + (np.float32,) * 3 + (np.bool_,):
                np.full(int(tokens), 1, dtype)
        limit = tokens / ((time.perf_counter() - began) / 20)
        print(
            f"{turns:2} turns: ours {mine / 1e6:.1f} million tokens/s, peer {other / 1e6:.2f}, "
            f"ratio {mine / other:.0f}; writing the columns alone {limit / 1e6:.0f}"
        )
    peer.communicate()


if __name__ == "__main__":
    main()

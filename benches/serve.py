"""What the wire costs: the engine called directly, and through `tinsmith serve` with the tinker SDK, in turns.

    python benches/serve.py [--rounds N]

Prints, for a forward_backward of 32 x 128 tokens and a sample of 8 x 32 tokens, the median time of both and the median
of the differences of neighbours (the cost of the wire), after a check that both gave the same bits; then how busy the
engine is under 64 concurrent samples: tokens a second through the wire, over those of the engine fed directly with the
same work. Server and client share the processors, as they do on a laptop.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from tinsmith import bootstrap
from tinsmith.domain.datums import Batch, Datum
from tinsmith.ports.sampler import SamplingParams
from tinsmith.ports.trainer import Lora, LossSpec

os.environ.setdefault("TINKER_API_KEY", "tml-bench")
os.environ.setdefault("TINKER_TELEMETRY", "0")

PROMPT = list(range(20, 52))
CONCURRENT = 64


def start(directory: str) -> tuple[subprocess.Popen[str], str]:
    command = [sys.executable, "-m", "tinsmith", "serve", "port=0", f"dir={directory}"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    line = process.stdout.readline()
    return process, next(word for word in line.split() if word.startswith("http://"))


def batch() -> Batch:
    rng = np.random.default_rng(0)
    rows = []
    for _ in range(32):
        tokens = rng.integers(7, 500, 129)
        rows.append(Datum(tokens=tokens[:-1], targets=tokens[1:], weights=np.ones(128)))
    return Batch.of(rows)


def report(what: str, direct: list[float], over: list[float]) -> None:
    cost = statistics.median(b - a for a, b in zip(direct, over, strict=True)) * 1e3
    a, b = statistics.median(direct) * 1e3, statistics.median(over) * 1e3
    least = (min(over) - min(direct)) * 1e3
    print(
        f"{what:28} engine {a:7.1f} ms   wire {b:7.1f} ms   cost {cost:5.1f} ms (of the fastest of each {least:.1f} ms)"
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=30)
    rounds = parser.parse_args().rounds
    import warnings

    import tinker
    from tinker import types

    warnings.simplefilter("ignore", FutureWarning)
    with tempfile.TemporaryDirectory() as directory:
        process, url = start(str(Path(directory) / "state"))
        try:
            service = tinker.ServiceClient(base_url=url)
            client = service.create_lora_training_client("tiny", rank=32, seed=0).result()
            model = bootstrap.load_model("tiny")
            trainer = model.trainer(lora=Lora(unembed=True), seed=0)
            rows = batch()
            data = [
                types.Datum(
                    model_input=types.ModelInput.from_ints(row.tokens.tolist()),
                    loss_fn_inputs={"target_tokens": row.targets.astype(np.int64), "weights": row.weights},
                )
                for row in rows
            ]
            direct, over = [], []
            for turn in range(rounds + 3):
                began = time.perf_counter()
                here = trainer.forward_backward(rows, LossSpec("cross_entropy")).result()
                middle = time.perf_counter()
                there = client.forward_backward(data, "cross_entropy").result()
                ended = time.perf_counter()
                if turn >= 3:
                    direct.append(middle - began)
                    over.append(ended - middle)
            got = np.concatenate([np.asarray(o["logprobs"].tolist(), np.float32) for o in there.loss_fn_outputs])
            assert got.tobytes() == here.logprobs.tobytes(), "the wire changed the logprobs"
            report("forward_backward 32 x 128", direct, over)

            sampler = model.sampler()
            remote = service.create_sampling_client(base_model="tiny").result()
            prompt = types.ModelInput.from_ints(PROMPT)
            direct, over = [], []
            for turn in range(rounds + 3):
                params = SamplingParams(max_tokens=32, seed=turn)
                asked = types.SamplingParams(max_tokens=32, seed=turn, stop=[])
                began = time.perf_counter()
                mine = sampler.sample(np.array(PROMPT), params, 8).result()
                middle = time.perf_counter()
                theirs = remote.sample(prompt, 8, asked).result()
                ended = time.perf_counter()
                assert [s.tokens for s in theirs.sequences] == [c.tokens.tolist() for c in mine.completions]
                if turn >= 3:
                    direct.append(middle - began)
                    over.append(ended - middle)
            report("sample 8 x 32", direct, over)

            shares = []
            for turn in range(max(rounds // 6, 3)):
                params = [SamplingParams(max_tokens=128, seed=1000 * turn + i) for i in range(CONCURRENT)]
                began = time.perf_counter()
                pending = [sampler.sample(np.array(PROMPT), p) for p in params]
                tokens = sum(len(p.result().completions[0].tokens) for p in pending)
                middle = time.perf_counter()
                asked = [types.SamplingParams(max_tokens=128, seed=p.seed, stop=[]) for p in params]
                waiting = [remote.sample(prompt, 1, p) for p in asked]
                same = sum(len(w.result().sequences[0].tokens) for w in waiting)
                ended = time.perf_counter()
                assert same == tokens
                shares.append((tokens / (middle - began), tokens / (ended - middle)))
            a, b = (statistics.median(s) for s in zip(*shares, strict=True))
            print(
                f"{CONCURRENT} concurrent samples   engine {a:7,.0f} tokens/s   wire {b:7,.0f} tokens/s   {b / a:.0%}"
            )
            sampler.close()
            trainer.close()
            service.close("success").result()
        finally:
            process.terminate()
            process.wait(10)


if __name__ == "__main__":
    main()

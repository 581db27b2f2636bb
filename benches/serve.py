"""What the wire costs: the engine called directly, and through `tinsmith serve` with the tinker SDK, in turns.

    python benches/serve.py [--rounds N]

Prints, for a forward_backward of 32 x 128 tokens and a sample of 8 x 32 tokens, the median time of both and the median
of the differences of neighbours (the cost of the wire), after a check that both gave the same bits; then how busy 64
concurrent samples keep the engine: the share of the time that it spends inside its own steps. Server and client share
the processors, as they do on a laptop.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np

from tinsmith import bootstrap
from tinsmith.domain.datums import Batch, Datum
from tinsmith.ports.sampler import SamplingParams
from tinsmith.ports.trainer import Lora, LossSpec

os.environ.setdefault("TINKER_API_KEY", "tml-bench")
os.environ.setdefault("TINKER_TELEMETRY", "0")

PROMPT = list(range(20, 52))
CONCURRENT = 64


class Timed:
    """A part of the engine whose time inside its calls is added up."""

    seconds = 0.0

    def __init__(self, native: Any) -> None:
        self._native = native

    def __getattr__(self, name: str) -> Any:
        return getattr(self._native, name)

    def _timed(self, call: Any, *args: Any) -> Any:
        began = time.perf_counter()
        try:
            return call(*args)
        finally:
            Timed.seconds += time.perf_counter() - began

    def run(self, steps: int) -> Any:
        return self._timed(self._native.run, steps)

    def forward_backward(self, *args: Any) -> Any:
        return self._timed(self._native.forward_backward, *args)


def serve(directory: str) -> None:
    """`tinsmith serve` with the engine's time at GET /busy, for this program's other half."""
    from starlette.responses import PlainTextResponse

    from tinsmith.adapters.embedded.sampler import EmbeddedSampler
    from tinsmith.adapters.embedded.trainer import EmbeddedTrainer

    for part in (EmbeddedSampler, EmbeddedTrainer):
        timed(part)
    server = bootstrap.open_server({"tiny": "tiny"}, Path(directory), note=lambda _: None)

    def with_busy(app: Any) -> Any:
        async def answer(scope: Any, receive: Any, send: Any) -> None:
            told = scope["type"] == "http" and scope["path"] == "/busy"
            await (PlainTextResponse(str(Timed.seconds)) if told else app)(scope, receive, send)

        return answer

    server.wrap(with_busy)
    print(server.url, flush=True)
    server.run()


def timed(part: Any) -> None:
    made = part.__init__

    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        made(self, *args, **kwargs)
        self._native = Timed(self._native)

    part.__init__ = init


def busy(url: str) -> float:
    with urllib.request.urlopen(f"{url}/busy", timeout=10) as answer:
        return float(answer.read())


def start(directory: str) -> tuple[subprocess.Popen[str], str]:
    command = [sys.executable, __file__, "--serve", directory]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


def batch() -> Batch:
    rng = np.random.default_rng(0)
    rows = []
    for _ in range(32):
        tokens = rng.integers(7, 500, 129)
        rows.append(Datum(tokens=tokens[:-1], targets=tokens[1:], weights=np.ones(128)))
    return Batch.of(rows)


def report(what: str, direct: list[float], over: list[float], inside: list[float]) -> None:
    """`inside`: what the engine itself took of each time over the wire."""
    beside = statistics.median(b - a for a, b in zip(inside, over, strict=True)) * 1e3
    apart = statistics.median(b - a for a, b in zip(direct, over, strict=True)) * 1e3
    a, b, c = (statistics.median(times) * 1e3 for times in (direct, over, inside))
    print(
        f"{what:28} engine alone {a:6.1f} ms   over the wire {b:6.1f} ms, of which the engine {c:6.1f} ms   "
        f"cost {beside:4.1f} ms (against the engine alone {apart:.1f} ms)"
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve(arguments.serve)
        return
    rounds = arguments.rounds
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
            direct, over, inside = [], [], []
            for turn in range(rounds + 3):
                before = busy(url)
                began = time.perf_counter()
                here = trainer.forward_backward(rows, LossSpec("cross_entropy")).result()
                middle = time.perf_counter()
                there = client.forward_backward(data, "cross_entropy").result()
                ended = time.perf_counter()
                if turn >= 3:
                    direct.append(middle - began)
                    over.append(ended - middle)
                    inside.append(busy(url) - before)
            got = np.concatenate([np.asarray(o["logprobs"].tolist(), np.float32) for o in there.loss_fn_outputs])
            assert got.tobytes() == here.logprobs.tobytes(), "the wire changed the logprobs"
            report("forward_backward 32 x 128", direct, over, inside)

            sampler = model.sampler()
            remote = service.create_sampling_client(base_model="tiny").result()
            prompt = types.ModelInput.from_ints(PROMPT)
            direct, over, inside = [], [], []
            for turn in range(rounds + 3):
                before = busy(url)
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
                    inside.append(busy(url) - before)
            report("sample 8 x 32", direct, over, inside)

            busy_before, wall, tokens = busy(url), time.perf_counter(), 0
            waiting = deque()
            for turn in range(CONCURRENT * 12):
                asked = types.SamplingParams(max_tokens=128, seed=turn, stop=[])
                waiting.append(remote.sample(prompt, 1, asked))
                if len(waiting) == CONCURRENT:  # as one is answered, the next is asked for
                    tokens += len(waiting.popleft().result().sequences[0].tokens)
            tokens += sum(len(w.result().sequences[0].tokens) for w in waiting)
            wall = time.perf_counter() - wall
            share = (busy(url) - busy_before) / wall
            rate = f"{tokens / wall:,.0f} tokens/s"
            print(f"{CONCURRENT} concurrent samples   {rate}, the engine busy {share:.0%} of {wall:.1f} s")
            sampler.close()
            trainer.close()
            service.close("success").result()
        finally:
            process.terminate()
            process.wait(10)


if __name__ == "__main__":
    main()

"""What the wire costs: the engine called directly, and through `tinsmith serve` with the tinker SDK, in turns.

    python benches/serve.py [--rounds N]

Prints, for a forward_backward of 32 x 128 tokens and a sample of 8 x 32 tokens, after a check that both gave the same
bits, medians of: both times; the engine's own time within the call over the wire, which is longer where the client and
the server take a processor from it; the cost of the wire, what a call takes beside that; and its two parts. One is the
server's: from its being called with the request until the engine begins, and from the engine's end until the answer is
given to HTTP. The other is the time of the SDK and of HTTP before and after that, uvicorn's included. Then how busy 64
concurrent samples keep the engine: the share of the time that it spends inside its own steps. Server and client share
the processors, as on a laptop.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tinsmith import bootstrap
from tinsmith.adapters.embedded.sampler import EmbeddedSampler
from tinsmith.adapters.embedded.trainer import EmbeddedTrainer
from tinsmith.domain.datums import Batch, Datum
from tinsmith.ports.sampler import SamplingParams
from tinsmith.ports.trainer import Lora, LossSpec

os.environ.setdefault("TINKER_API_KEY", "tml-bench")
os.environ.setdefault("TINKER_TELEMETRY", "0")

PROMPT = list(range(20, 52))
CONCURRENT = 64


class Timed:
    """A part of the engine whose time inside its calls is added up."""

    inside = 0.0

    def __init__(self, native: Any) -> None:
        self._native = native

    def __getattr__(self, name: str) -> Any:
        return getattr(self._native, name)

    def _timed(self, call: Any, *args: Any) -> Any:
        began = time.monotonic()
        try:
            return call(*args)
        finally:
            Timed.inside += time.monotonic() - began

    def run(self, steps: int) -> Any:
        return self._timed(self._native.run, steps)

    def forward_backward(self, *args: Any) -> Any:
        return self._timed(self._native.forward_backward, *args)


class Watch:
    """Around the server's app: when it was called with a request, and when it gave the last answer to HTTP; told at
    GET /times, for this program's other half. Both read one clock, the system's."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self._asked = self._answered = 0.0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def sent(message: Any) -> None:
            if message["type"] == "http.response.body":
                self._answered = time.monotonic()
            await send(message)

        name = scope.get("path", "").rpartition("/")[2]
        if name in ("forward_backward", "asample"):
            self._asked = time.monotonic()
            await self._app(scope, receive, send)
        elif name == "retrieve_future":
            await self._app(scope, receive, sent)
        elif name == "times":
            body = json.dumps([self._asked, self._answered, Timed.inside]).encode()
            Timed.inside = 0.0
            headers = [(b"content-length", str(len(body)).encode())]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": body})
        else:
            await self._app(scope, receive, send)


def serve(directory: str) -> None:
    for part in (EmbeddedSampler, EmbeddedTrainer):
        timed(part)
    server = bootstrap.open_server({"tiny": "tiny"}, Path(directory), note=lambda _: None)
    server.wrap(Watch)
    print(server.url, flush=True)
    server.run()


def timed(part: Any) -> None:
    made = part.__init__

    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        made(self, *args, **kwargs)
        self._native = Timed(self._native)

    part.__init__ = init


def times(url: str) -> tuple[float, float, float]:
    """(asked, answered, seconds inside the engine since the last call of this)."""
    with urllib.request.urlopen(f"{url}/times", timeout=10) as answer:
        asked, answered, inside = json.load(answer)
    return asked, answered, inside


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


def measure(
    what: str,
    url: str,
    rounds: int,
    here: Callable[[int], Any],
    there: Callable[[int], Any],
    equal: Callable[[Any, Any], bool],
) -> None:
    """One kind of request: `here` calls the engine directly, `there` goes over the wire."""
    taken: dict[str, list[float]] = {name: [] for name in ("engine", "wire", "inside", "cost", "server", "client")}
    for turn in range(rounds + 3):
        began = time.monotonic()
        mine = here(turn)
        direct = time.monotonic() - began
        times(url)
        began = time.monotonic()
        theirs = there(turn)
        done = time.monotonic()
        asked, answered, inside = times(url)
        assert equal(mine, theirs), "the wire changed what the engine gave"
        if turn >= 3:
            cost, server = done - began - inside, answered - asked - inside
            for name, seconds in zip(taken, (direct, done - began, inside, cost, server, cost - server), strict=True):
                taken[name].append(seconds * 1e3)
    low, cost, high = statistics.quantiles(taken["cost"], n=4)
    engine, wire, inside, server, client = (
        statistics.median(taken[name]) for name in ("engine", "wire", "inside", "server", "client")
    )
    print(
        f"{what:26} engine {engine:6.1f} ms   over the wire {wire:6.1f} ms, of it engine {inside:6.1f}   "
        f"cost {cost:4.1f} ms (quartiles {low:.1f}, {high:.1f}): the server's {server:.1f}, "
        f"the SDK's and HTTP's {client:.1f}"
    )


def logprobs(result: Any) -> bytes:
    return b"".join(np.asarray(o["logprobs"].tolist(), np.float32).tobytes() for o in result.loss_fn_outputs)


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
            loss = "cross_entropy"
            measure(
                "forward_backward 32 x 128",
                url,
                rounds,
                lambda _: trainer.forward_backward(rows, LossSpec(loss)).result(),
                lambda _: client.forward_backward(data, loss).result(),
                lambda mine, theirs: mine.logprobs.tobytes() == logprobs(theirs),
            )

            sampler = model.sampler()
            remote = service.create_sampling_client(base_model="tiny").result()
            prompt = types.ModelInput.from_ints(PROMPT)
            measure(
                "sample 8 x 32",
                url,
                rounds,
                lambda i: sampler.sample(np.array(PROMPT), SamplingParams(max_tokens=32, seed=i), 8).result(),
                lambda i: remote.sample(prompt, 8, types.SamplingParams(max_tokens=32, seed=i, stop=[])).result(),
                lambda mine, theirs: (
                    [s.tokens for s in theirs.sequences] == [c.tokens.tolist() for c in mine.completions]
                ),
            )

            times(url)
            wall, tokens = time.monotonic(), 0
            waiting = deque()
            for turn in range(CONCURRENT * 12):
                asked = types.SamplingParams(max_tokens=128, seed=turn, stop=[])
                waiting.append(remote.sample(prompt, 1, asked))
                if len(waiting) == CONCURRENT:  # as one is answered, the next is asked for
                    tokens += len(waiting.popleft().result().sequences[0].tokens)
            tokens += sum(len(w.result().sequences[0].tokens) for w in waiting)
            wall = time.monotonic() - wall
            share = times(url)[2] / wall
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

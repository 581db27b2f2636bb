"""What the wire costs: the engine called directly, and through `tinsmith serve` with the tinker SDK, in turns.

    python benches/serve.py [--rounds N]

Prints, for a forward_backward of 32 x 128 tokens and a sample of 8 x 32 tokens, after a check that both gave the same
bits: the median time of both; the cost of the wire, the median of what a call takes beside the engine's own time within
it; and the same at the least that a server can be, which calls the same engine on what it holds already, reads nothing
and keeps nothing, so that its cost is that of the SDK and of HTTP. Then how busy 64 concurrent samples keep the engine:
the share of the time that it spends inside its own steps. Server and client share the processors, as on a laptop.
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
from tinsmith.domain.datums import Batch, Datum
from tinsmith.ports.sampler import SamplingParams
from tinsmith.ports.trainer import Lora, LossSpec
from tinsmith.wire import sampling as wire_sampling
from tinsmith.wire import training as wire_training

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

    def around(app: Any) -> Any:
        least = Least(app)

        async def answer(scope: Any, receive: Any, send: Any) -> None:
            told = scope["type"] == "http" and scope["path"] == "/busy"
            if told:
                least.on = scope["query_string"] == b"least"
            await (PlainTextResponse(str(Timed.seconds)) if told else least)(scope, receive, send)

        return answer

    server.wrap(around)
    print(server.url, flush=True)
    server.run()


class Least:
    """While it is on, the least that a server can do for the two requests that are measured; around the real one."""

    on = False

    def __init__(self, app: Any) -> None:
        self._app = app
        model = bootstrap.load_model("tiny")
        self._trainer, self._sampler = model.trainer(lora=Lora(unembed=True), seed=0), model.sampler()
        self._rows, self._pending = batch(), {}
        self._answer = b""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        name = scope.get("path", "").rpartition("/")[2]
        if not self.on or name not in ("forward_backward", "asample", "retrieve_future"):
            await self._app(scope, receive, send)
            return
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message["body"], message.get("more_body", False)
        request = f"least:{len(self._pending)}"
        told = {"request_id": request, "sample_sequence_ids": [f"{request}:{i}" for i in range(8)]}
        kind, answer = b"application/json", json.dumps(told).encode()
        if name == "forward_backward":
            self._pending[request] = self._trainer.forward_backward(self._rows, LossSpec("cross_entropy")).then(
                self._fb
            )
        elif name == "asample":
            settings = SamplingParams(max_tokens=32, seed=json.loads(body)["sampling_params"]["seed"])
            drawn = self._sampler.sample(np.array(PROMPT), settings, 8)
            self._pending[request] = drawn.then(wire_sampling.encode_result)
        else:
            kind, answer = b"application/x-protobuf", await self._pending[json.loads(body)["request_id"]]
        headers = [(b"content-type", kind), (b"content-length", str(len(answer)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": answer})

    def _fb(self, result: Any) -> bytes:
        if not self._answer:  # it is the same each time
            self._answer = wire_training.encode_result(result.logprobs, self._rows, [0] * 32, result.loss, {})
        return self._answer


def timed(part: Any) -> None:
    made = part.__init__

    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        made(self, *args, **kwargs)
        self._native = Timed(self._native)

    part.__init__ = init


def busy(url: str, least: bool = False) -> float:
    """Seconds of the engine so far. Also says which server is to answer what comes next."""
    with urllib.request.urlopen(f"{url}/busy" + "?least" * least, timeout=10) as answer:
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


class Times:
    """One kind of request: `here` calls the engine directly; `there` goes over the wire, and is told whether to the
    least server."""

    def __init__(self, what: str, url: str, rounds: int) -> None:
        self._what, self._url, self._rounds = what, url, rounds

    def measure(
        self, here: Callable[[int], Any], there: Callable[[int], Any], equal: Callable[[Any, Any], bool]
    ) -> None:
        direct, over, costs = [], [], {False: [], True: []}
        for turn in range(self._rounds + 3):
            began = time.perf_counter()
            mine = here(turn)
            took = time.perf_counter() - began
            for least in (False, True):
                before = busy(self._url, least)
                began = time.perf_counter()
                theirs = there(turn, least)
                wall = time.perf_counter() - began
                inside = busy(self._url) - before
                assert equal(mine, theirs), "the wire changed what the engine gave"
                if turn >= 3:
                    costs[least].append(wall - inside)
                    over += [] if least else [wall]
            if turn >= 3:
                direct.append(took)
        a, b = statistics.median(direct) * 1e3, statistics.median(over) * 1e3
        cost, floor = (statistics.quantiles(costs[least], n=4) for least in (False, True))
        print(
            f"{self._what:26} engine {a:6.1f} ms   over the wire {b:6.1f} ms   cost {cost[1] * 1e3:4.1f} ms (quartiles "
            f"{cost[0] * 1e3:.1f}, {cost[2] * 1e3:.1f})   SDK and HTTP alone {floor[1] * 1e3:4.1f} ms "
            f"({floor[0] * 1e3:.1f}, {floor[2] * 1e3:.1f})"
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
            # A client each: a request that the server never sees leaves a gap in the numbers.
            clients = [service.create_lora_training_client("tiny", rank=32, seed=0).result() for _ in range(2)]
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
            Times("forward_backward 32 x 128", url, rounds).measure(
                lambda _: trainer.forward_backward(rows, LossSpec(loss)).result(),
                lambda _, least: clients[least].forward_backward(data, loss).result(),
                lambda mine, theirs: mine.logprobs.tobytes() == logprobs(theirs),
            )

            sampler = model.sampler()
            remote = service.create_sampling_client(base_model="tiny").result()
            prompt = types.ModelInput.from_ints(PROMPT)
            Times("sample 8 x 32", url, rounds).measure(
                lambda i: sampler.sample(np.array(PROMPT), SamplingParams(max_tokens=32, seed=i), 8).result(),
                lambda i, _: remote.sample(prompt, 8, types.SamplingParams(max_tokens=32, seed=i, stop=[])).result(),
                lambda mine, theirs: (
                    [s.tokens for s in theirs.sequences] == [c.tokens.tolist() for c in mine.completions]
                ),
            )

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

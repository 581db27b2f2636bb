"""What the tinker SDK alone takes for a call: against a server that answers at once, byte for byte what was prepared.

    python benches/sdk.py [--rounds N]

Prints, for a forward_backward of 32 x 128 tokens and a sample of 8 x 32 tokens, medians of the time until the request
is whole at the server, and from when its result is sent until the call returns. No server of the protocol can cost less
than both together; `benches/serve.py` says what `tinsmith serve` costs. In place of an engine the server waits 30 ms,
in which the SDK asks for the result, as it does while an engine works.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import time
import urllib.request
import warnings
from typing import Any

import httptools
import numpy as np
import uvloop
from serve import PROMPT, batch

from tinsmith.ports.sampler import Completion, FinishReason, SampleResult
from tinsmith.wire import sampling, training

os.environ.setdefault("TINKER_API_KEY", "tml-bench")
os.environ.setdefault("TINKER_TELEMETRY", "0")

JSON, PROTOBUF = b"application/json", b"application/x-protobuf"
SAID = {
    "create_session": {"session_id": "s"},
    "create_model": {"request_id": "create"},
    "get_info": {
        "type": "get_info",
        "model_id": "m",
        "model_name": "tiny",
        "model_data": {"model_name": "tiny", "tokenizer_id": "tiny"},
        "is_lora": True,
        "lora_rank": 32,
    },
    "create_sampling_session": {"sampling_session_id": "s:sample:0"},
    "forward_backward": {"request_id": "forward_backward"},
    "asample": {"request_id": "asample", "sample_sequence_ids": [f"s:sample:0:0:{i}" for i in range(8)]},
}
ENGINE_S = 0.03


def results() -> dict[str, tuple[bytes, bytes]]:
    """(body, content type) by request."""
    rows = batch()
    logprobs = np.random.default_rng(0).normal(size=rows.num_tokens).astype(np.float32)
    drawn = Completion(tokens=np.arange(32, dtype=np.int32), logprobs=logprobs[:32], finish=FinishReason.LENGTH)
    return {
        "create": (json.dumps({"model_id": "m", "type": "create_model"}).encode(), JSON),
        "forward_backward": (training.encode_result(logprobs, rows, (0,) * len(rows), 1.0, {}), PROTOBUF),
        "asample": (sampling.encode_result(SampleResult(completions=(drawn,) * 8, prompt_logprobs=None)), PROTOBUF),
    }


class Prepared(asyncio.Protocol):
    """One connection. `times`: when the last request was whole here, and when its result was sent."""

    results: dict[str, tuple[bytes, bytes]]
    times = [0.0, 0.0]  # noqa: RUF012 - one for all connections

    def connection_made(self, transport: Any) -> None:
        self._transport, self._parser, self._body = transport, httptools.HttpRequestParser(self), b""

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_url(self, url: bytes) -> None:
        self._call = url.decode().rpartition("/")[2]

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        call, body, self._body = self._call, self._body, b""
        if call == "times":
            self._send(json.dumps(self.times).encode(), JSON)
        elif call == "retrieve_future":
            asyncio.get_running_loop().call_later(ENGINE_S, self._give, json.loads(body)["request_id"])
        else:
            if call in ("forward_backward", "asample"):
                self.times[0] = time.monotonic()
            self._send(json.dumps(SAID.get(call, {})).encode(), JSON)

    def _give(self, request: str) -> None:
        self.times[1] = time.monotonic()
        self._send(*self.results[request])

    def _send(self, body: bytes, kind: bytes) -> None:
        head = b"HTTP/1.1 200 OK\r\ncontent-type: %b\r\ncontent-length: %d\r\n\r\n" % (kind, len(body))
        self._transport.write(head + body)


async def serve() -> None:
    Prepared.results = results()
    server = await asyncio.get_running_loop().create_server(Prepared, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        uvloop.run(serve())
        return
    import tinker
    from tinker import types

    warnings.simplefilter("ignore", FutureWarning)
    with subprocess.Popen([sys.executable, __file__, "--serve"], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            url = f"http://127.0.0.1:{process.stdout.readline().strip()}"
            service = tinker.ServiceClient(base_url=url)
            client = service.create_lora_training_client("tiny", rank=32).result()
            sampler = service.create_sampling_client(base_model="tiny").result()
            data = [
                types.Datum(
                    model_input=types.ModelInput.from_ints(row.tokens.tolist()),
                    loss_fn_inputs={"target_tokens": row.targets.astype(np.int64), "weights": row.weights},
                )
                for row in batch()
            ]
            prompt, asked = types.ModelInput.from_ints(PROMPT), types.SamplingParams(max_tokens=32, seed=1, stop=[])
            calls = {
                "forward_backward 32 x 128": lambda: client.forward_backward(data, "cross_entropy").result(),
                "sample 8 x 32": lambda: sampler.sample(prompt, 8, asked).result(),
            }
            for what, call in calls.items():
                rows = []
                for _ in range(arguments.rounds + 5):
                    began = time.monotonic()
                    call()
                    done = time.monotonic()
                    with urllib.request.urlopen(f"{url}/times", timeout=10) as answer:
                        whole, sent = json.load(answer)
                    rows.append(((whole - began) * 1e3, (done - sent) * 1e3, (whole - began + done - sent) * 1e3))
                before, after, both = (statistics.median(column) for column in zip(*rows[5:], strict=True))
                print(f"{what:26} the SDK alone {both:.1f} ms: {before:.1f} before, {after:.1f} after")
        finally:
            process.terminate()


if __name__ == "__main__":
    main()

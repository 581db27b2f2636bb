"""Mistakes: each is said as the user's, never as a failure of the server, and work goes on afterwards."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from tinsmith.testing.conformance.client import Refused
from tinsmith.testing.conformance.handles import Model, Step, Train, Vector, request_id
from tinsmith.testing.conformance.law import Broken, Unsupported, expect, law
from tinsmith.testing.conformance.rows import Row
from tinsmith.testing.conformance.world import PROBE, World
from tinsmith.wire.messages import types

Tensor = tuple[list[Any], str]
"""(values, numpy dtype)."""


def _refused(world: World, cases: Mapping[str, Callable[[], Any]], status: tuple[int, ...] = ()) -> None:
    """Each case is refused, as the user's, with a message. `status`: the only ones that HTTP may have."""
    for what, work in cases.items():
        try:
            work()
        except Refused as refused:
            expect(refused.category == "user", f"{what}: a {refused}")
            expect(bool(refused.message.strip()), f"{what}: refused without a word")
            expect(refused.status is None or not status or refused.status in status, f"{what}: HTTP {refused.status}")
        except Broken as broken:
            raise Broken(f"{what}: {broken}") from broken
        else:
            raise Broken(f"{what}: was taken")


def _goes_on(world: World, model: Model, right: Vector, after: str) -> None:
    """The model is where it was, trains, and answers."""
    try:
        world.equal(right, model.logprobs(PROBE), f"logprobs before and after {after}")
        model.train(Train(PROBE))
        model.step(world.descend())
        moved = model.logprobs(PROBE)
    except (Refused, Broken) as error:
        raise Broken(f"after {after}: {error}") from error
    expect(float(np.abs(moved - right).max()) > 1e-3, f"after {after} the model does not train")


def _send(
    model: Model, tokens: list[int], inputs: Mapping[str, Tensor], loss: str = "cross_entropy", **config: float
) -> None:
    """A forward_backward of one datum, right or wrong, after a right one in the same request."""
    message = types().ForwardBackwardRequest(model_id=model.id, seq_id=model.seq + 1, loss_fn=loss)
    for name, value in config.items():
        message.loss_fn_config[name] = value
    datum = message.data.add()
    datum.model_input.add().encoded_text.tokens = np.array(tokens, "<i4").tobytes()
    for name, (values, dtype) in inputs.items():
        array = np.array(values, dtype)
        tensor = datum.loss_fn_inputs[name]
        tensor.dense, tensor.dtype = array.tobytes(), {"<f4": 1, "<i8": 2}[dtype]
        tensor.shape.extend(array.shape)
    answer = model.world.wire.call("forward_backward", message.SerializeToString())
    model.seq += 1
    model.trained(request_id(answer))


def _training(world: World, cases: Mapping[str, Callable[[Model], Any]]) -> None:
    model = world.reset()
    right = model.logprobs(PROBE)
    _refused(world, {what: (lambda work=work: work(model)) for what, work in cases.items()})  # type: ignore[misc]
    _goes_on(world, model, right, f"{len(cases)} refused requests")


def _inputs(targets: list[Any], weights: list[Any], **more: Tensor) -> dict[str, Tensor]:
    return {"target_tokens": (targets, "<i8"), "weights": (weights, "<f4"), **more}


@law()
def unknown_base_model(world: World) -> None:
    """A base model that is not served is the user's mistake."""
    name = "no-such/model"
    _refused(
        world,
        {
            f"create_model with base_model={name!r}": lambda: world.create_model(base_model=name),
            f"create_sampling_session with base_model={name!r}": lambda: world.sampling_session(base_model=name).score(
                (17, 42)
            ),
        },
    )


@law()
def unknown_ids(world: World) -> None:
    """Models, sampling sessions, requests and sessions that never were are the user's mistake."""
    from tinsmith.testing.conformance.handles import Sampler

    model = Model(world, "00000000-0000-4000-8000-000000000000:train:1")
    sampler = Sampler(world.wire, "00000000-0000-4000-8000-000000000000:sample:1")
    _refused(
        world,
        {
            "forward_backward of an unknown model": lambda: model.logprobs(PROBE),
            "optim_step of an unknown model": lambda: model.step(Step(0.0)),
            "get_info of an unknown model": lambda: world.wire.call("get_info", {"model_id": model.id}),
            "asample of an unknown session": lambda: sampler.sample((17, 42)),
            "a result of an unknown request": lambda: world.wire.result("no-such-request", "Sample"),
            "create_model in an unknown session": lambda: world.create_model(session_id="no-such-session"),
        },
    )


@law()
def unknown_route(world: World) -> None:
    """A route that is not there is HTTP 404 or 405, not a failure."""
    for path in ("of_a_later_version", "training_runs/x/y/z"):
        status = world.wire.raw(path, {}).status_code
        expect(status in (404, 405), f"POST {path}: HTTP {status}")


@law()
def unknown_loss(world: World) -> None:
    """A loss that is not known, or an option that its loss does not have the sense of, is the user's mistake."""
    _training(world, {"loss_fn='no_such_loss'": lambda model: _send(model, [17], _inputs([42], [1.0]), "no_such_loss")})


@law()
def wrong_shapes(world: World) -> None:
    """Inputs of a datum that disagree in length are the user's mistake."""
    _training(
        world,
        {
            "3 weights for 2 tokens": lambda m: _send(m, [17, 42], _inputs([42, 91], [1.0, 1.0, 1.0])),
            "1 target for 2 tokens": lambda m: _send(m, [17, 42], _inputs([42], [1.0])),
            "targets of shape [2, 2, 1]": lambda m: _send(m, [17, 42], _inputs([[[42], [1]], [[9], [1]]], [1.0, 1.0])),
            "a datum without a token": lambda m: _send(m, [], _inputs([], [])),
            "no datum": lambda m: m.trained(_empty(m)),
        },
    )


def _empty(model: Model) -> str:
    body = types().ForwardBackwardRequest(model_id=model.id, seq_id=model.seq + 1, loss_fn="cross_entropy")
    answer = model.world.wire.call("forward_backward", body.SerializeToString())
    model.seq += 1
    return request_id(answer)


@law()
def missing_inputs(world: World) -> None:
    """A datum without what its loss reads is the user's mistake."""
    targets: Tensor = ([42, 91], "<i8")
    scored: dict[str, Tensor] = {"target_tokens": targets, "advantages": ([1.0, 1.0], "<f4")}
    _training(
        world,
        {
            "no target_tokens": lambda m: _send(m, [17, 42], {"weights": ([1.0, 1.0], "<f4")}),
            "ppo without logprobs": lambda m: _send(m, [17, 42], scored, "ppo"),
            "importance_sampling without advantages": lambda m: _send(
                m, [17, 42], {"target_tokens": targets, "logprobs": ([-1.0, -1.0], "<f4")}, "importance_sampling"
            ),
        },
    )


@law()
def not_finite(world: World) -> None:
    """NaN and infinity among the inputs are the user's mistake, and do not get into the weights."""
    nan, inf = math.nan, math.inf
    policy: Callable[[float, float], dict[str, Tensor]] = lambda q, a: {  # noqa: E731
        "target_tokens": ([42, 91], "<i8"),
        "logprobs": ([-1.0, q], "<f4"),
        "advantages": ([1.0, a], "<f4"),
    }
    _training(
        world,
        {
            "a weight is NaN": lambda m: _send(m, [17, 42], _inputs([42, 91], [1.0, nan])),
            "a weight is infinite": lambda m: _send(m, [17, 42], _inputs([42, 91], [1.0, -inf])),
            "an advantage is NaN": lambda m: _send(m, [17, 42], policy(-1.0, nan), "importance_sampling"),
            "a logprob is NaN": lambda m: _send(m, [17, 42], policy(nan, 1.0), "ppo"),
        },
    )


@law()
def outside_the_vocabulary(world: World) -> None:
    """Tokens that are not in the vocabulary are the user's mistake, in training and in prompts."""
    big = 2**31 - 1
    _training(
        world,
        {
            f"token {big}": lambda m: _send(m, [17, big], _inputs([42, 91], [1.0, 1.0])),
            "token -1": lambda m: _send(m, [17, -1], _inputs([42, 91], [1.0, 1.0])),
            f"target {big}": lambda m: _send(m, [17, 42], _inputs([42, big], [1.0, 1.0])),
            "target -1": lambda m: _send(m, [17, 42], _inputs([42, -1], [1.0, 1.0])),
            f"token {big} in a prompt": lambda m: world.start_sampler.sample((17, big)),
            "token -1 in a prompt": lambda m: world.start_sampler.sample((17, -1)),
        },
    )


MOST = 40_000
"""Longest context that is tried to be left."""


@law()
def too_long(world: World) -> None:
    """What is longer than the model's context is the user's mistake, in training and in prompts."""
    lengths = {m.get("model_name"): m.get("max_context_length") for m in world.capabilities.get("supported_models", [])}
    context = lengths.get(world.base_model)
    if not isinstance(context, int) or context > MOST:
        raise Unsupported(f"max_context_length is {context!r}: not tried")
    long = [17] * (context + 1)
    _training(
        world,
        {
            f"a datum of {context + 1} tokens": lambda m: _send(m, long, _inputs(long, [1.0] * len(long))),
            f"a prompt of {context + 1} tokens": lambda m: world.start_sampler.sample(long, max_tokens=1),
        },
    )


@law()
def bad_checkpoint_path(world: World) -> None:
    """A checkpoint that is not there, or whose path or name is none, is the user's mistake."""
    model = world.reset()
    right = model.logprobs(PROBE)
    cases: dict[str, Callable[[], Any]] = {}
    for path in (f"tinker://{model.id}/weights/no-such", "tinker://x", "/etc/passwd", "", "tinker://a/weights/../../b"):
        cases[f"load_weights of {path!r}"] = lambda path=path: model.load(path, optimizer=True)  # type: ignore[misc]
    missing = f"tinker://{model.id}/sampler_weights/no-such"
    cases["a sampling session of a missing path"] = lambda: world.sampling_session(model_path=missing).score((17, 42))
    cases["a model of a missing state"] = lambda: world.create_from_state(missing, optimizer=True).logprobs(PROBE)
    for name in ("../up", "a/b", "x" * 2000):
        cases[f"save_weights as {name[:20]!r}"] = lambda name=name: model.save(name)  # type: ignore[misc]
    _refused(world, cases)
    _goes_on(world, model, right, f"{len(cases)} refused requests")


@law()
def bad_sampling_params(world: World) -> None:
    """Sampling settings out of their range are the user's mistake."""
    sampler = world.start_sampler
    wrong: dict[str, dict[str, Any]] = {
        "temperature=-1": {"temperature": -1.0},
        "top_p=-0.5": {"top_p": -0.5},
        "max_tokens=-1": {"max_tokens": -1},
        "num_samples=0": {"n": 0},
        "max_tokens='many'": {"max_tokens": "many"},
        "temperature=null text": {"temperature": "hot"},
    }
    cases: dict[str, Callable[[], Any]] = {
        what: (lambda how=how: sampler.sample((17, 42), **how))  # type: ignore[misc]
        for what, how in wrong.items()
    }
    cases["an empty prompt"] = lambda: sampler.sample(())
    _refused(world, cases)
    expect(len(sampler.sample((17, 42), max_tokens=2).tokens[0]) == 2, "the sampler does not answer afterwards")


@law()
def bad_optimizer_settings(world: World) -> None:
    """Optimizer settings out of their range are the user's mistake, and move nothing."""
    model = world.reset()
    right = model.logprobs(PROBE)
    wrong: dict[str, dict[str, Any]] = {
        "learning_rate=-1": {"learning_rate": -1.0},
        "beta1=1.5": {"beta1": 1.5},
        "eps=-1": {"eps": -1.0},
        "learning_rate='fast'": {"learning_rate": "fast"},
        "learning_rate=NaN": {"learning_rate": math.nan},
    }
    settings = Step(1e-3).json()

    def step(how: dict[str, Any]) -> None:
        model.train(Train(PROBE))  # a step without a gradient would be refused for that
        model.stepped(model.submit("optim_step", {"adam_params": {**settings, **how}, "type": "optim_step"}))

    cases = {what: partial(step, how) for what, how in wrong.items()}
    _refused(world, cases)
    _goes_on(world, model, right, "refused steps")


@law()
def bad_lora(world: World) -> None:
    """A rank that is none is the user's mistake."""
    cases = {
        f"rank={rank}": (lambda rank=rank: world.create_model(lora_config={"rank": rank})) for rank in (0, -1, "big")
    }
    _refused(world, cases)


@law()
def no_body(world: World) -> None:
    """A body that is neither JSON nor protobuf is HTTP 4xx."""
    junk = b"\xff\xfe{not json"
    for path in ("create_session", "create_model", "optim_step", "asample", "retrieve_future", "save_weights"):
        for body, kind in ((junk, "no JSON"), (b"[1, 2]", "a list"), (b"{}", "an empty object")):
            if path == "create_session" and body == b"{}":
                continue
            response = world.wire.raw(path, body, headers={"Content-Type": "application/json"})
            status = response.status_code
            expect(400 <= status < 500, f"{path} with {kind}: HTTP {status}")
    for body in (junk, b"\x0a\xff\xff\xff\xff\x7f", b""):
        status = world.wire.raw("forward_backward", body).status_code
        expect(400 <= status < 500, f"forward_backward with the body {body!r}: HTTP {status}")


@law()
def all_or_nothing(world: World) -> None:
    """A request of which one datum is wrong leaves no gradient of the others."""
    model = world.reset()
    right = model.logprobs(PROBE)
    bad = Row((17, 42), (42, 2**31 - 1), (1.0, 1.0))
    _refused(world, {"a batch with one target outside the vocabulary": lambda: model.train(Train([*PROBE, bad]))})
    row = [PROBE[1]]
    model.train(Train(row))
    model.step(world.descend())
    after = model.logprobs(PROBE)
    plain = world.play([Train(row), world.descend()])
    world.same(plain.moved, after - right, "moved without, and after a refused request")

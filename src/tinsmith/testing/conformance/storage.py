"""Checkpoints."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

from tinsmith.testing.conformance import rows as r
from tinsmith.testing.conformance.handles import Model, Step, Train, Vector, supported
from tinsmith.testing.conformance.law import SDK, expect, law
from tinsmith.testing.conformance.rows import Row
from tinsmith.testing.conformance.world import EXACT, PROBE, RANK, World

TTL_S = 2
HOUR_S = 3600
"""The shortest that the hosted service takes."""
GRACE_S = 20.0
"""How long after its end a checkpoint may still be there."""


def _goes_on(model: Model, rows: list[Row]) -> Vector:
    """Logprobs after one more step of this model, which depend on its moments."""
    model.train(Train(rows))
    model.step(Step(2e-3, beta1=0.9, beta2=0.5))
    return model.logprobs([*PROBE, *rows])


def _with_moments(world: World) -> Model:
    model = world.reset()
    for row in PROBE:
        model.train(Train([row.scaled(-3.0)]))
        model.step(Step(1e-3))
    return model


@law(source="save_state and load_state_with_optimizer of " + SDK, rows=r.rows(max_size=2))
def load_with_optimizer(world: World, rows: list[Row]) -> None:
    """A loaded state goes on as the saved one did, moments included."""
    model = _with_moments(world)
    path = model.save(world.name())
    first = _goes_on(model, rows)
    model.load(path, optimizer=True)
    world.equal(first, _goes_on(model, rows), "logprobs after one more step, and after a load and the same step")


@law(source="load_state of " + SDK, rows=r.rows(max_size=2))
def load_without_optimizer(world: World, rows: list[Row]) -> None:
    """A state loaded without its optimizer has its weights and a new optimizer."""
    model = _with_moments(world)
    saved = model.logprobs(PROBE)
    path = model.save(world.name())
    model.load(path, optimizer=False)
    world.equal(saved, model.logprobs(PROBE), "logprobs when it was saved, and as loaded")
    with_betas = _goes_on(model, rows)
    model.load(path, optimizer=False)
    model.train(Train(rows))
    model.step(Step(2e-3, beta1=0.0, beta2=0.0))  # a first step does not depend on the betas
    fresh = model.logprobs([*PROBE, *rows])
    world.same(with_betas, fresh, "logprobs after a step, and after one without any memory", scale=0.05)


@law(source="create_training_client_from_state of " + SDK)
def create_from_state(world: World) -> None:
    """A model made from a state (named by session and model_seq_id) has its weights, and with the optimizer its
    moments."""
    model = _with_moments(world)
    saved = model.logprobs(PROBE)
    path = model.save(world.name())
    first = _goes_on(model, list(PROBE))
    exact = supported(lambda: world.create_from_state(path, optimizer=True))
    world.equal(saved, exact.logprobs(PROBE), "logprobs of the saved model, and of the one made from it")
    world.equal(
        first, _goes_on(exact, list(PROBE)), "logprobs after one more step of the saved model, and of the new one"
    )
    other = world.create_from_state(path, optimizer=False)
    world.equal(saved, other.logprobs(PROBE), "logprobs of the saved model, and of the one made without its optimizer")
    model.load(path, optimizer=False)
    world.equal(_goes_on(model, list(PROBE)), _goes_on(other, list(PROBE)), "a step without the saved moments, twice")


@law()
def checkpoint_is_frozen(world: World) -> None:
    """A checkpoint holds the weights of the moment in the order of requests when it was saved."""
    model = world.reset()
    model.train(Train(PROBE))
    saving = model.submit("save_weights", {"path": world.name(), "type": "save_weights"})
    step = model.submit_step(world.descend())
    path = world.wire.result(saving, "SaveWeights").json["path"]
    model.stepped(step)
    model.load(path, optimizer=True)
    world.equal(world.reset().logprobs(PROBE), _loaded(model, path), "logprobs at the save, and as loaded after a step")


def _loaded(model: Model, path: str) -> Vector:
    model.load(path, optimizer=True)
    return model.logprobs(PROBE)


def _listed(world: World, model: Model) -> dict[str, dict[str, Any]]:
    answer = supported(lambda: world.wire.call(f"training_runs/{model.id}/checkpoints"))
    return {str(c.get("tinker_path")): c for c in answer.get("checkpoints", [])}


@law(source="RestClient.list_checkpoints of " + SDK)
def checkpoints_are_listed(world: World) -> None:
    """Every saved checkpoint is in the list of its run, with id, kind, time and path."""
    model = world.reset()
    paths = {model.save(world.name()): "training", model.save_for_sampler(world.name()): "sampler"}
    listed = _listed(world, model)
    for path, kind in paths.items():
        expect(path in listed, f"{path} is not among the {len(listed)} that are listed")
        found = listed[path]
        expect(
            found.get("checkpoint_type") == kind, f"{path} is listed as {found.get('checkpoint_type')!r}, not {kind!r}"
        )
        expect(
            path.endswith(str(found.get("checkpoint_id") or "none")),
            f"{path} has the id {found.get('checkpoint_id')!r}",
        )
        expect(bool(found.get("time")), f"{path} has no time")


@law(source="RestClient.delete_checkpoint of " + SDK)
def deleted_is_gone(world: World) -> None:
    """A deleted checkpoint is not listed and cannot be loaded; others are still there."""
    model = world.reset()
    kept, gone = model.save(world.name()), model.save(world.name())
    name = gone.rpartition("/")[2]
    supported(lambda: world.wire.call(f"training_runs/{model.id}/checkpoints/weights/{name}", method="DELETE"))
    listed = _listed(world, model)
    expect(gone not in listed, f"{gone} was deleted and is listed")
    expect(kept in listed, f"{kept} was not deleted and is not listed")
    _cannot_load(world, model, gone, "was deleted")
    model.load(kept, optimizer=True)


def _cannot_load(world: World, model: Model, path: str, why: str) -> None:
    refused = world.wire.refusal(lambda: model.load(path, optimizer=True))
    expect(refused is not None, f"{path} {why} and was loaded")
    assert refused is not None
    expect(refused.category == "user", f"loading {path}, which {why}, is a {refused}")


@law(source="ttl_seconds of " + SDK)
def ttl(world: World) -> None:
    """A checkpoint with ttl_seconds is listed with its end, and gone after it (seen where the server takes 2 s)."""
    model, paths = world.reset(), list[str]()
    short = world.wire.refusal(lambda: paths.append(model.save(world.name(), ttl_seconds=TTL_S))) is None
    path = paths[0] if short else supported(lambda: model.save(world.name(), ttl_seconds=HOUR_S))
    lasting = model.save(world.name())
    listed = _listed(world, model)
    expect(path in listed, f"{path}, to end in {TTL_S} s, is not listed")
    expect(bool(listed[path].get("expires_at")), f"{path} is listed without expires_at")
    expect(not listed.get(lasting, {}).get("expires_at"), f"{lasting}, which has no ttl, has expires_at")
    if not short:
        return
    until = time.monotonic() + TTL_S + GRACE_S * world.patience
    while path in _listed(world, model):
        expect(time.monotonic() < until, f"{path} is listed {GRACE_S * world.patience:.0f} s after its end")
        time.sleep(0.1)
    _cannot_load(world, model, path, "came to its end")


@law(source="RestClient.set_checkpoint_ttl_from_tinker_path of " + SDK)
def ttl_set_later(world: World) -> None:
    """The end of a checkpoint can be set, and taken away again."""
    model = world.reset()
    path = model.save(world.name())
    route = f"training_runs/{model.id}/checkpoints/weights/{path.rpartition('/')[2]}/ttl"
    supported(lambda: world.wire.call(route, {"ttl_seconds": HOUR_S}, method="PUT"))
    expect(
        bool(_listed(world, model).get(path, {}).get("expires_at")), f"{path} was given an end and is listed without"
    )
    world.wire.call(route, {"ttl_seconds": None}, method="PUT")
    found = _listed(world, model)
    expect(path in found and not found[path].get("expires_at"), f"{path} lost its end and is listed with one, or not")


@law(source="overwrite of " + SDK)
def overwrite(world: World) -> None:
    """A name that is taken is refused as the user's mistake, unless overwrite lets the new state take its place."""
    model, name = world.reset(), world.name()
    path = model.save(name)
    refused = world.wire.refusal(lambda: model.save(name))
    expect(refused is not None, f"{path} was saved twice without overwrite")
    assert refused is not None
    expect(refused.category == "user", f"a name that is taken is a {refused}")
    model.train(Train(PROBE))
    model.step(world.descend())
    moved = model.logprobs(PROBE)
    again = model.save(name, overwrite=True)
    expect(again == path, f"with overwrite the path is {again}, not {path}")
    model.load(world.start, optimizer=False)
    world.equal(moved, _loaded(model, again), "logprobs when it was saved again, and as loaded")


@law(source="create_sampling_client(model_path=...) of " + SDK)
def sampler_from_path(world: World) -> None:
    """A sampling session of saved sampler weights samples from them, also when its model has gone on; the server tells
    what it is of."""
    model = world.reset()
    model.train(Train(PROBE))
    model.step(world.descend(2.0))
    row = PROBE[0]
    right = model.logprobs([row])
    path = model.save_for_sampler(world.name())
    model.train(Train(PROBE))
    model.step(world.descend(2.0))
    sampler = world.sampling_session(model_path=path)
    scores = sampler.score((row.tokens[0], *row.targets))  # type: ignore[arg-type]
    world.equal(right, scores[1:], "logprobs of the model when it was saved, and of the sampler")
    told = supported(lambda: world.wire.call(f"samplers/{sampler.id}"))
    expect(told.get("base_model") == world.base_model, f"samplers/ID names {told.get('base_model')!r} as base model")
    expect(told.get("model_path") in (None, path), f"samplers/ID names {told.get('model_path')!r} as path")


@law(source="RestClient.get_weights_info_by_tinker_path of " + SDK)
def weights_info(world: World) -> None:
    """weights_info tells the base model and the adapters of a checkpoint."""
    path = world.reset().save(world.name())
    told = supported(lambda: world.wire.call("weights_info", {"tinker_path": path}))
    expect(told.get("base_model") == world.base_model, f"base_model is {told.get('base_model')!r}")
    expect(told.get("is_lora") is True, f"is_lora is {told.get('is_lora')!r}")
    expect(told.get("lora_rank") == RANK, f"lora_rank is {told.get('lora_rank')!r}, created with {RANK}")


@law(source="RestClient.list_training_runs of " + SDK)
def training_runs(world: World) -> None:
    """A model is listed as a training run under its id."""
    model = world.reset()
    run = supported(lambda: world.wire.call(f"training_runs/{model.id}"))
    expect(run.get("training_run_id") == model.id, f"training_runs/ID has the id {run.get('training_run_id')!r}")
    expect(run.get("base_model") == world.base_model, f"its base_model is {run.get('base_model')!r}")
    runs = world.wire.call("training_runs?limit=100&offset=0").get("training_runs", [])
    expect(model.id in [run.get("training_run_id") for run in runs], "it is not among the runs that are listed")


@law(source="RestClient.get_session of " + SDK)
def session_info(world: World) -> None:
    """A session tells its models and samplers, and the list of sessions names it."""
    model, sampler = world.create_model(), world.start_sampler
    told = supported(lambda: world.wire.call(f"sessions/{world.session}"))
    expect(
        model.id in told.get("training_run_ids", []),
        f"sessions/ID lacks its model among {told.get('training_run_ids')}",
    )
    expect(sampler.id in told.get("sampler_ids", []), f"sessions/ID lacks its sampler among {told.get('sampler_ids')}")
    listed = supported(lambda: world.wire.call("sessions?limit=100&offset=0")).get("sessions", [])
    expect(world.session in listed, "the session is not in the list of sessions")


@law(source="LoraConfig of " + SDK)
def lora_targets(world: World) -> None:
    """train_attn, train_mlp and train_unembed say which weights have adapters: each choice learns otherwise."""
    learned: dict[str, Vector] = {}
    for parts in (("attn",), ("mlp",), ("attn", "mlp")):
        lora = {f"train_{part}": part in parts for part in ("attn", "mlp", "unembed")}
        model = supported(partial(world.create_model, lora_config={"rank": RANK, "seed": 5, **lora}))
        model.train(Train(PROBE))
        model.step(Step(2e-3))
        learned[" and ".join(parts)] = model.logprobs(PROBE)
    for one, other in (("attn", "mlp"), ("attn", "attn and mlp"), ("mlp", "attn and mlp")):
        apart = float(abs(learned[one] - learned[other]).max())
        expect(apart > 4 * world.noise + EXACT, f"adapters of {one} and of {other} learn the same")


@law(source="LoraConfig.seed of " + SDK)
def lora_seed(world: World) -> None:
    """Models of one seed start alike and train alike; another seed trains otherwise."""

    def learned(seed: int) -> Vector:
        model = world.create_model(seed=seed)
        model.train(Train(PROBE))
        model.step(Step(2e-3))
        return model.logprobs(PROBE)

    one = learned(5)
    world.equal(one, learned(5), "logprobs after a step of two models of one seed")
    expect(float(abs(one - learned(6)).max()) > 1e-6, "two seeds train alike, bit for bit")

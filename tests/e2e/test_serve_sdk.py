"""The server under the real SDK, unchanged: what a program written for Tinker sees."""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import pickle
import urllib.error
import urllib.request
import warnings

import numpy as np
import pytest
from attrs import evolve

from tinsmith import bootstrap
from tinsmith.domain import losses
from tinsmith.domain.datums import Batch, Datum
from tinsmith.ports.sampler import SamplingParams
from tinsmith.ports.trainer import AdamW, Lora, LossSpec

tinker = pytest.importorskip("tinker", reason="the package tinker is not installed")
from tinker import types  # noqa: E402

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

PROMPT = [1, 40, 60, 80]
LORA = Lora(rank=4, unembed=True)


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    server = bootstrap.open_server({"tiny": "tiny"}, tmp_path_factory.mktemp("serve"), note=lambda _: None)
    with server.running() as address:
        yield address
        collect_quietly()


@pytest.fixture
def service(url, monkeypatch):
    monkeypatch.setenv("TINKER_API_KEY", "tml-test")
    monkeypatch.setenv("TINKER_TELEMETRY", "0")
    client = tinker.ServiceClient(base_url=url)
    yield client
    client.close("success").result(30)
    del client
    collect_quietly()


def collect_quietly():
    """The SDK leaves connections of its own to the collector of garbage, which warns of each."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@pytest.fixture(scope="module")
def engine():
    return bootstrap.load_model("tiny")


def batch(seed: int = 0, *, policy: bool = False, width: int = 1) -> Batch:
    rng = np.random.default_rng(seed)
    rows = []
    for length in (5, 9, 3):
        shape = (length,) if width == 1 else (length, width)
        extra = {}
        if policy:
            extra = {"logprobs": rng.uniform(-4, -1, length), "advantages": rng.normal(size=length)}
        rows.append(
            Datum(
                tokens=rng.integers(7, 500, length),
                targets=rng.integers(7, 500, shape),
                weights=np.ones(shape) if policy else rng.uniform(0.5, 1.5, shape),
                **extra,
            )
        )
    return Batch.of(rows)


def datums(rows: Batch) -> list:
    """The batch as the SDK's datums; the losses of a policy take no weights there."""
    made = []
    for row in rows:
        inputs = {"target_tokens": row.targets.astype(np.int64)}
        if row.advantages is None:
            inputs["weights"] = row.weights
        else:
            inputs |= {"logprobs": row.logprobs, "advantages": row.advantages}
        made.append(types.Datum(model_input=types.ModelInput.from_ints(row.tokens.tolist()), loss_fn_inputs=inputs))
    return made


def gathered(result) -> np.ndarray:
    return np.concatenate([np.asarray(o["logprobs"].tolist(), np.float32) for o in result.loss_fn_outputs])


def trained(service, **settings):
    return service.create_lora_training_client("tiny", rank=4, **{"seed": 0, **settings}).result(60)


@pytest.mark.parametrize(
    ("loss", "width"),
    [("cross_entropy", 1), ("cross_entropy", 3), *((n, 1) for n in ("importance_sampling", "ppo", "cispo", "dro"))],
)
def test_training_is_that_of_the_engine_bit_for_bit(service, engine, loss, width):
    client, trainer = trained(service), engine.trainer(lora=LORA, seed=0)
    options = {"beta": 0.1} if loss == "dro" else {}
    try:
        for step in range(3):
            rows = batch(step, policy=loss != "cross_entropy", width=width)
            over = client.forward_backward(datums(rows), loss, options or None)
            stepped = client.optim_step(types.AdamParams(learning_rate=1e-2, eps=1e-8, weight_decay=0.1))
            here = trainer.forward_backward(rows, LossSpec(loss, options))
            trainer.optim_step(AdamW(1e-2, eps=1e-8, weight_decay=0.1))
            assert gathered(over.result(60)).tobytes() == here.result().logprobs.tobytes()
            assert over.result(60).metrics["loss:sum"] == here.result().loss
            assert stepped.result(60).metrics["optim/step"] == step + 1
    finally:
        trainer.close()


def test_gspo_takes_the_mask_of_its_ratio(service, engine):
    client, trainer = trained(service), engine.trainer(lora=LORA, seed=0)
    rows = []
    for row in batch(policy=True):
        mask = (np.arange(len(row.tokens)) > 1).astype(np.float32)
        rows.append(evolve(row, weights=mask, advantages=row.advantages * mask))
    sent = datums(rows)
    for datum, row in zip(sent, rows, strict=True):
        datum.loss_fn_inputs["sequence_ratio_mask"] = types.TensorData.from_numpy(row.weights)
    over = client.forward_backward(sent, "gspo").result(60)
    here = trainer.forward_backward(Batch.of(rows), LossSpec("gspo")).result()
    trainer.close()
    assert over.metrics["loss:sum"] == here.loss
    for wrong, message in ((np.full(5, 0.5, np.float32), "0 and 1"), (np.zeros(5, np.float32), "advantage")):
        sent[0].loss_fn_inputs["sequence_ratio_mask"] = types.TensorData.from_numpy(wrong)
        with pytest.raises(tinker.RequestFailedError, match=message):
            client.forward_backward(sent, "gspo").result(60)


def test_forward_gives_the_loss_and_leaves_no_gradient(service, engine):
    client = trained(service)
    rows = batch()
    first = client.forward(datums(rows), "cross_entropy").result(60)
    expected = losses.evaluate(rows, gathered(first), "cross_entropy").value
    assert first.metrics["loss:sum"] == pytest.approx(expected, rel=1e-12)
    with pytest.raises(tinker.RequestFailedError, match="gradient"):
        client.optim_step(types.AdamParams(learning_rate=1e-2)).result(60)
    again = client.forward(datums(rows), "cross_entropy").result(60)
    assert gathered(again).tobytes() == gathered(first).tobytes()


def test_sampling_is_that_of_the_engine_token_for_token(service, engine):
    client = service.create_sampling_client(base_model="tiny").result(60)
    params = types.SamplingParams(max_tokens=12, seed=7, temperature=0.8, top_p=0.9, top_k=40)
    over = client.sample(types.ModelInput.from_ints(PROMPT), 3, params).result(60)
    settings = SamplingParams(max_tokens=12, seed=7, temperature=0.8, top_p=0.9, top_k=40, stop_ids=engine.stop_ids)
    with engine.sampler() as sampler:
        here = sampler.sample(np.array(PROMPT), settings, 3).result()
        scores = sampler.score(np.array(PROMPT)).result()
    assert [s.tokens for s in over.sequences] == [c.tokens.tolist() for c in here.completions]
    assert [s.logprobs_np.tobytes() for s in over.sequences] == [c.logprobs.tobytes() for c in here.completions]
    assert len({s.sequence_id for s in over.sequences}) == 3
    got = client.compute_logprobs(types.ModelInput.from_ints(PROMPT)).result(60)
    assert got[0] is None
    assert np.array(got[1:], np.float32).tobytes() == scores[1:].tobytes()


def test_samples_without_a_seed_differ(service):
    client = service.create_sampling_client(base_model="tiny").result(60)
    params = types.SamplingParams(max_tokens=20, stop=[])
    asked = [client.sample(types.ModelInput.from_ints(PROMPT), 1, params) for _ in range(3)]
    assert len({tuple(a.result(60).sequences[0].tokens) for a in asked}) > 1


def test_everything_a_sample_can_be_asked_for(service):
    client = service.create_sampling_client(base_model="tiny").result(60)
    prompt = types.ModelInput.from_ints(PROMPT)
    result = client.sample(
        prompt,
        2,
        types.SamplingParams(max_tokens=5, seed=1, stop=[]),
        include_prompt_logprobs=True,
        topk_prompt_logprobs=2,
        topk_sample_logprobs=3,
        prompt_logprobs_last_n=2,
    ).result(60)
    assert [len(s.tokens) for s in result.sequences] == [5, 5]
    assert {s.stop_reason for s in result.sequences} == {"length"}
    assert [p is None for p in result.prompt_logprobs] == [True, True, False, False]
    assert [p is None for p in result.topk_prompt_logprobs] == [True, True, False, False]
    assert all(len(t) == 3 for s in result.sequences for t in s.topk_logprobs)
    for top in result.sequences[0].topk_logprobs:
        assert top == sorted(top, key=lambda pair: -pair[1])


def test_logprobs_of_named_tokens_at_places_of_the_prompt(service):
    """Dense and sparse, read off what the likeliest tokens say; a cell of -1 asks for nothing."""
    client = service.create_sampling_client(base_model="tiny").result(60)
    prompt, once = types.ModelInput.from_ints(PROMPT), types.SamplingParams(max_tokens=1)
    ids = np.array([[PROMPT[1], 7], [PROMPT[2], -1], [-1, 300]])
    dense = types.TensorData(data=ids.ravel(), dtype="int64", shape=[3, 2])
    got = client.sample(prompt, 1, once, include_prompt_logprobs=True, target_prompt_logprobs=dense).result(60)
    scores = np.array(got.target_prompt_logprobs.tolist(), np.float32).reshape(3, 2)
    assert scores[:2, 0].tobytes() == np.array(got.prompt_logprobs[1:3], np.float32).tobytes()
    assert scores[1, 1] == scores[2, 0] == 0.0
    assert got.topk_prompt_logprobs is None
    every = client.sample(prompt, 1, once, topk_prompt_logprobs=512).result(60).topk_prompt_logprobs
    assert scores[0, 1] == np.float32(dict(every[1])[7])
    assert scores[2, 1] == np.float32(dict(every[3])[300])
    sparse = types.TensorData(
        data=np.array([7, 300]),
        dtype="int64",
        shape=[3, 2],
        sparse_crow_indices=[0, 1, 1, 2],
        sparse_col_indices=[1, 1],
    )
    result = client.sample(prompt, 1, once, topk_prompt_logprobs=2, target_prompt_logprobs=sparse).result(60)
    cells = result.target_prompt_logprobs
    assert np.array(cells.data, np.float32).tobytes() == np.array([scores[0, 1], scores[2, 1]]).tobytes()
    assert (cells.sparse_crow_indices, cells.sparse_col_indices) == ([0, 1, 1, 2], [1, 1])
    assert [t is None or len(t) for t in result.topk_prompt_logprobs] == [True, 2, 2, 2]
    wrong = types.TensorData(data=np.array([7, 8]), dtype="int64", shape=[2, 1])
    with pytest.raises(tinker.BadRequestError, match="not \\[3, K\\]"):
        client.sample(prompt, 1, once, target_prompt_logprobs=wrong).result(60)


def test_alternatives_to_a_prompts_tokens_are_drawn_from_the_model(service):
    client = service.create_sampling_client(base_model="tiny").result(60)
    prompt = types.ModelInput.from_ints(PROMPT)

    def drawn(k: int, **settings):
        params = types.SamplingParams(max_tokens=1, **settings)
        found = client.sample(prompt, 1, params, prompt_alt_tokens_k=k).result(60).prompt_alt_tokens
        return tuple(np.array(t.tolist()).reshape(3, k) for t in (found.tokens, found.logprobs))

    every = client.sample(prompt, 1, types.SamplingParams(max_tokens=1), topk_prompt_logprobs=512).result(60)
    tables = [dict(t) for t in every.topk_prompt_logprobs[1:]]
    tokens, logprobs = drawn(400, seed=1)
    assert tokens.tobytes() == drawn(400, seed=1)[0].tobytes() != drawn(400, seed=2)[0].tobytes()
    for row, table in enumerate(tables):
        for token, logprob in zip(tokens[row].tolist(), logprobs[row], strict=True):
            assert np.float32(table[token]) == np.float32(logprob)
        best, top = max(table.items(), key=lambda pair: pair[1])
        share, sigma = np.exp(top), np.sqrt(np.exp(top) * (1 - np.exp(top)) / 400)
        assert abs(np.mean(tokens[row] == best) - share) < 5 * sigma + 1e-9
        assert set(drawn(3, temperature=0.0)[0][row]) == {best}


def test_stops_by_string_by_id_and_by_the_models_own(service):
    client = service.create_sampling_client(base_model="tiny").result(60)
    prompt = types.ModelInput.from_ints(PROMPT)

    def tokens(**settings):
        params = types.SamplingParams(max_tokens=30, temperature=0.0, **settings)
        return client.sample(prompt, 1, params).result(60).sequences[0]

    free = tokens(stop=[])
    assert len(free.tokens) == 30
    third = free.tokens[2]
    cut = tokens(stop=[third])
    assert cut.tokens == free.tokens[: free.tokens.index(third) + 1]
    assert cut.stop_reason == "stop"
    own = tokens()
    assert own.tokens == free.tokens[: len(own.tokens)]
    text = bootstrap.load_tokenizer("tiny")[0].decode(free.tokens[3:4])
    assert tokens(stop=text).stop_reason == "stop"


def test_states_samplers_and_lists(service, url):
    client = trained(service)
    client.forward_backward(datums(batch()), "cross_entropy")
    client.optim_step(types.AdamParams(learning_rate=1e-2)).result(60)
    state = client.save_state("here", ttl_seconds=3600).result(60).path
    named = client.save_weights_for_sampler("for-sampling").result(60).path
    score = gathered(client.forward(datums(batch(9)), "cross_entropy").result(60))

    resumed = service.create_training_client_from_state_with_optimizer(state).result(60)
    assert gathered(resumed.forward(datums(batch(9)), "cross_entropy").result(60)).tobytes() == score.tobytes()
    for who in (client, resumed):
        who.forward_backward(datums(batch(1)), "cross_entropy")
        who.optim_step(types.AdamParams(learning_rate=1e-2)).result(60)
    after = [gathered(who.forward(datums(batch(9)), "cross_entropy").result(60)) for who in (client, resumed)]
    assert after[0].tobytes() == after[1].tobytes()
    weights_alone = service.create_training_client_from_state(state).result(60)
    assert gathered(weights_alone.forward(datums(batch(9)), "cross_entropy").result(60)).tobytes() == score.tobytes()
    weights_alone.forward_backward(datums(batch(1)), "cross_entropy")
    assert weights_alone.optim_step(types.AdamParams(learning_rate=1e-2)).result(60).metrics["optim/step"] == 1
    for load, step in ((client.load_state_with_optimizer, 2), (client.load_state, 1)):
        load(state).result(60)
        assert gathered(client.forward(datums(batch(9)), "cross_entropy").result(60)).tobytes() == score.tobytes()
        client.forward_backward(datums(batch(1)), "cross_entropy")
        assert client.optim_step(types.AdamParams(learning_rate=1e-2)).result(60).metrics["optim/step"] == step

    rest = tinker.RestClient(base_url=url)
    listed = rest.list_checkpoints(client.model_id).result(30).checkpoints
    assert {c.tinker_path: c.checkpoint_type for c in listed} == {state: "training", named: "sampler"}
    assert [c.expires_at is None for c in listed] == [False, True]
    info = rest.get_weights_info_by_tinker_path(state).result(30)
    assert (info.base_model, info.lora_rank, info.is_lora) == ("tiny", 4, True)
    run = rest.get_training_run(client.model_id).result(30)
    assert run.last_checkpoint.tinker_path == state
    rest.set_checkpoint_ttl_from_tinker_path(state, None).result(30)
    assert rest.list_checkpoints(client.model_id).result(30).checkpoints[0].expires_at is None
    rest.delete_checkpoint_from_tinker_path(named).result(30)
    assert [c.tinker_path for c in rest.list_checkpoints(client.model_id).result(30).checkpoints] == [state]
    with pytest.raises(tinker.NotFoundError):
        rest.delete_checkpoint_from_tinker_path(named).result(30)
    with pytest.raises(tinker.RequestFailedError, match="save under another name"):
        client.save_state("here").result(60)
    assert client.save_state("here", overwrite=True).result(60).path == state


def test_a_sampler_keeps_its_weights_and_a_pickled_client_samples(service):
    client = trained(service)
    before = client.save_weights_and_get_sampling_client().result(60)
    prompt, params = types.ModelInput.from_ints(PROMPT), types.SamplingParams(max_tokens=8, seed=3)
    first = before.sample(prompt, 1, params).result(60).sequences[0]
    client.forward_backward(datums(batch()), "cross_entropy")
    client.optim_step(types.AdamParams(learning_rate=0.1)).result(60)
    after = client.save_weights_and_get_sampling_client().result(60)
    assert before.sample(prompt, 1, params).result(60).sequences[0].logprobs == first.logprobs
    assert after.sample(prompt, 1, params).result(60).sequences[0].logprobs != first.logprobs
    pool = multiprocessing.get_context("spawn")
    answers = pool.SimpleQueue()
    child = pool.Process(target=_sample_in_a_process, args=(pickle.dumps(before), answers))
    child.start()
    child.join(120)
    assert child.exitcode == 0
    assert answers.get() == first.tokens


def _sample_in_a_process(pickled, answers):
    client = pickle.loads(pickled)
    params = types.SamplingParams(max_tokens=8, seed=3)
    answers.put(client.sample(types.ModelInput.from_ints(PROMPT), 1, params).result(60).sequences[0].tokens)


def test_the_asynchronous_face(service):
    async def work():
        client = await service.create_lora_training_client("tiny", rank=4, seed=0)
        done = client.forward_backward(datums(batch()), "cross_entropy")
        step = client.optim_step(types.AdamParams(learning_rate=1e-2))
        sampler = await client.save_weights_and_get_sampling_client()
        samples = await asyncio.gather(
            *(
                sampler.sample(types.ModelInput.from_ints(PROMPT), 2, types.SamplingParams(max_tokens=4, seed=i))
                for i in range(16)
            )
        )
        return (await done).metrics["loss:sum"], (await step).metrics["optim/step"], samples

    loss, step, samples = asyncio.run(work())
    assert loss > 0
    assert step == 1
    assert [len(s.sequences) for s in samples] == [2] * 16


def test_weights_can_be_downloaded(service, url, tmp_path, engine):
    client = trained(service)
    client.forward_backward(datums(batch()), "cross_entropy")
    client.optim_step(types.AdamParams(learning_rate=1e-2)).result(60)
    path = client.save_weights_external("adapter").result(60).path
    urls = tinker.RestClient(base_url=url).get_external_weights_urls(path).result(30).urls
    assert set(urls) == {"adapter_config.json", "adapter_model.safetensors"}
    for name, link in urls.items():
        with urllib.request.urlopen(link, timeout=30) as answer:
            (tmp_path / name).write_bytes(answer.read())
    from tinsmith import _native

    settings, tensors = _native.load_adapter(tmp_path)
    assert settings["rank"] == 4
    assert any(np.abs(values).max() > 0 for name, values in tensors if "lora_B" in name)
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(link.replace(link.split("/")[-2], "0" * 64), timeout=30)


def test_weights_are_encrypted_to_those_who_ask_for_it(service, url, tmp_path):
    pyrage = pytest.importorskip("pyrage", reason="needs the extra: serve")
    client, owner = trained(service), pyrage.x25519.Identity.generate()
    plain = client.save_weights_external("plain").result(60).path
    path = client.save_weights_external("sealed", age_encryption_recipients=[str(owner.to_public())]).result(60).path

    rest = tinker.RestClient(base_url=url)

    def files(path: str) -> dict[str, bytes]:
        links = rest.get_external_weights_urls(path).result(30).urls
        collect_quietly()  # else what the SDK left open is found while the server imports what sends a file
        found = {}
        for name, link in links.items():
            with urllib.request.urlopen(link, timeout=30) as answer:
                found[name] = answer.read()
        return found

    sealed = files(path)
    assert {f"{name}.age": text for name, text in files(plain).items()} == {
        name: pyrage.decrypt(text, [owner]) for name, text in sealed.items()
    }
    with pytest.raises(pyrage.DecryptError):
        pyrage.decrypt(sealed["adapter_model.safetensors.age"], [pyrage.x25519.Identity.generate()])
    with pytest.raises(tinker.RequestFailedError, match="age_encryption_recipients"):
        client.save_weights_external("nobody", age_encryption_recipients=["age1nobody"]).result(60)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"loss": "nonsense"}, "unknown"),
        ({"loss": "stable_reinforce"}, "unknown"),
        ({"loss": "ppo"}, "logprobs"),
        ({"targets": [1, 2]}, "target_tokens has shape"),
        ({"tokens": [1, 2, 10**6]}, "vocabulary"),
        ({"targets": [1, 2, -5]}, "id that is none"),
        ({"weights": [1.0, float("nan"), 1.0]}, "not finite"),
        ({"tokens": list(range(7, 500)) * 3, "targets": list(range(7, 500)) * 3}, "context"),
        ({"extra": [1.0, 2.0, 3.0]}, "loss_fn_inputs"),
    ],
)
def test_a_users_mistake_is_said_and_the_model_works_on(service, change, message):
    client = trained(service)
    tokens = change.get("tokens", [8, 9, 10])
    inputs = {"target_tokens": np.array(change.get("targets", [9, 10, 11]), np.int64)}
    for name in ("weights", "extra"):
        if name in change:
            inputs[name] = np.array(change[name], np.float32)
    datum = types.Datum(model_input=types.ModelInput.from_ints(tokens), loss_fn_inputs=inputs)
    with pytest.raises(tinker.RequestFailedError, match=message) as caught:
        client.forward_backward([datum], change.get("loss", "cross_entropy")).result(60)
    assert caught.value.category == types.RequestErrorCategory.User
    client.forward_backward(datums(batch()), "cross_entropy").result(60)
    assert client.optim_step(types.AdamParams(learning_rate=1e-2)).result(60).metrics["optim/step"] == 1


def test_a_rate_of_nan_is_refused_and_what_is_sent_after_it_done(service):
    """The SDK sends NaN as null, which is no default; and it does not send the same number again."""
    client = trained(service)
    client.forward_backward(datums(batch()), "cross_entropy")
    wrong = client.optim_step(types.AdamParams(learning_rate=float("nan")))
    right = client.optim_step(types.AdamParams(learning_rate=1e-2))
    with pytest.raises(tinker.RequestFailedError, match="learning_rate"):
        wrong.result(60)
    assert right.result(60).metrics["optim/step"] == 1


def test_an_unknown_model_and_a_missing_checkpoint(service):
    with pytest.raises(tinker.NotFoundError, match="served are tiny"):
        service.create_lora_training_client("Qwen/Qwen3-8B", rank=4).result(60)
    with pytest.raises(tinker.NotFoundError, match="no checkpoint"):
        service.create_training_client_from_state("tinker://nobody/weights/none").result(60)
    with pytest.raises(tinker.NotFoundError, match="no checkpoint"):
        service.create_sampling_client(model_path="tinker://nobody/sampler_weights/none").result(60)


def test_a_finished_session_is_finished(url, monkeypatch):
    monkeypatch.setenv("TINKER_API_KEY", "tml-test")
    monkeypatch.setenv("TINKER_TELEMETRY", "0")
    with tinker.ServiceClient(base_url=url) as service:
        client = trained(service)
        path = client.save_state("kept").result(60).path
    other = tinker.ServiceClient(base_url=url)
    assert other.create_training_client_from_state(path).result(60).model_id != client.model_id
    other.close("success").result(30)

"""Recipes through `backend=tinker` against the server of the library: the run is that of the embedded engine."""

from __future__ import annotations

import contextlib
import gc
import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from kill_helper import run_killed
from sdk_sockets import LEFT_OPEN
from test_recipes import last_stage, small
from test_recipes_resume import ENV, command

from tinsmith import bootstrap
from tinsmith.adapters.tinker.service import START_S
from tinsmith.cli import main
from tinsmith.recipes import RECIPES

tinker = pytest.importorskip("tinker", reason="needs the extra: tinker")
pytestmark = LEFT_OPEN


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    server = bootstrap.open_server({"tiny": "tiny"}, tmp_path_factory.mktemp("server"), note=lambda _: None)
    with server.running() as address:
        yield address
    gc.collect()


@pytest.fixture(scope="module")
def chats(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("data") / "chats.jsonl"
    rows = [
        {"messages": [{"role": "user", "content": f"Say {i}."}, {"role": "assistant", "content": f"{i} is {i % 7}"}]}
        for i in range(20)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("TINKER_API_KEY", "TINKER_BASE_URL", "TINKER_CREDENTIAL_CMD"):
        monkeypatch.delenv(name, raising=False)


def records(run: str | Path, kind: str) -> list[dict]:
    lines = (json.loads(line) for line in Path(run, "journal.jsonl").read_text().splitlines())
    return [line for line in lines if line["kind"] == kind]


def lines(run: str | Path) -> list[dict]:
    return [json.loads(line) for line in Path(run, "metrics.jsonl").read_text().splitlines()]


def assert_same_metrics(a: list[dict], b: list[dict]) -> None:
    """Equal, but for times, and for sums in double precision, whose terms may be added in another order."""
    assert len(a) == len(b)
    for ours, theirs in zip(a, b, strict=True):
        names = {n for n in ours.keys() | theirs.keys() if not n.startswith(("time/", "tokens/"))}
        for name in names:
            if name.endswith(":sum") or name == "loss":
                assert ours[name] == pytest.approx(theirs[name], rel=1e-9, abs=1e-9), name
            else:
                assert ours[name] == theirs[name], f"{name} of step {ours['step']}"


SL = ["sl-basic", "batch_size=3", "max_steps=5", "test_size=3", "eval_every=2", "checkpoints.every=2", "seed=5"]
RL = ["rl-basic", "groups_per_batch=6", "max_steps=3", "test_size=6", "checkpoints.rolling_every=1", "seed=7"]
CHAT = ["chat-sl", "batch_size=4", "max_steps=3", "max_rows=40", "test_size=4", "eval_every=2", "seed=5"]
EVALS = ["evals=arithmetic", "evaluation.size=4", "evaluation.n=2"]
RUNS = {
    "chat": CHAT,
    "dpo": ["dpo", "batch_size=4", "max_steps=3", "max_rows=60", "test_size=4", "eval_every=1", "seed=5"],
    "ipo": ["dpo", "loss=ipo", "batch_size=4", "max_steps=2", "max_rows=60", "test_size=4", "num_epochs=2"],
    "sl": [*SL, *EVALS],
    "sl all options": [
        *SL,
        "reduction=sequence_mean",
        "adam.weight_decay=0.1",
        "adam.grad_clip_norm=1",
        "lora.mlp=false",
    ],
    "rl": [*RL, "kl_penalty_coef=0.1", "compute_post_kl=true", "eval_every=1", *EVALS],
    "math": ["math-rl", "groups_per_batch=4", "max_steps=2", "test_size=4", "fewshot=true", "seed=3"],
    "teachers": [
        *("multi-teacher-distillation", "teachers=tiny", "groups_per_batch=4", "max_steps=2", "test_size=4", "seed=3"),
        *("kl_discount_factor=0.5", "reward_coef=1"),
    ],
    "soft targets": [
        *("off-policy-distillation", "teachers=tiny", "top_k=3", "batch_size=4", "max_steps=2", "max_rows=12"),
        *("test_size=4", "eval_every=1", "num_samples=2", "seed=3"),
    ],
    "rubric": [
        *("rubric", "judge.model=tiny", "judge.reads=probability", "groups_per_batch=3", "group_size=3"),
        *("max_steps=2", "test_size=3", "seed=3"),
    ],
    "rl by name: ppo": [*RL, "loss.name=ppo", "num_substeps=2", "remove_constant_groups=false"],
    "rl by name: cispo": [*RL, "loss.name=cispo"],
    "rl not by name: gspo": [*RL, "loss.name=gspo"],
    "rl not by name: dro of some tokens": [*RL, "loss.name=dro"],
    "rl not by name: a mean": [*RL, "loss.name=ppo", "loss.options.reduction=token_mean"],
}


@pytest.mark.parametrize("words", RUNS.values(), ids=RUNS.keys())
def test_a_run_is_that_of_the_embedded_engine_bit_for_bit(words: list[str], url: str, chats: str) -> None:
    """Every number of metrics.jsonl, every datum, every sampled token and logprob, and the adapter it ends with."""
    words = [*words, *([f"data={chats}"] if words[0] == "sl-basic" else []), "export=adapter", "lora.rank=4"]
    assert main([*words, "log_path=here"]) == 0
    assert main([*words, "log_path=there", "backend=tinker", f"base_url={url}"]) == 0
    here_at, there_at = (last_stage(words[0], run) for run in ("here", "there"))
    assert_same_metrics(lines(here_at), lines(there_at))
    assert [r["datums"] for r in records(here_at, "step")] == [r["datums"] for r in records(there_at, "step")]
    for name in ("train", "test"):
        path = Path(here_at, "rollouts", f"{name}.jsonl")
        if path.exists():
            assert path.read_bytes() == Path(there_at, "rollouts", f"{name}.jsonl").read_bytes()
    found, other = (  # problems come off in any order
        {
            path.relative_to(at): sorted(path.read_bytes().splitlines())
            for path in Path(at).glob("evals/*/*/trajectories.jsonl")
        }
        for at in (here_at, there_at)
    )
    assert found == other
    assert bool(found) == ("evals=arithmetic" in words)
    here, there = (Path(run, "final", "adapter_model.safetensors").read_bytes() for run in (here_at, there_at))
    assert here == there


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_runs_there_too(recipe: str, url: str, chats: str) -> None:
    words = small(recipe, chats)
    assert main([*words, "log_path=here"]) == 0
    assert main([*words, "log_path=there", "backend=tinker", f"base_url={url}"]) == 0
    assert_same_metrics(lines(last_stage(recipe, "here")), lines(last_stage(recipe, "there")))


def test_a_model_at_a_server_plays_the_other_side_as_the_same_one_here_does(url: str) -> None:
    words = ["multiplayer", "game=tic_tac_toe", "opponent=model", "groups_per_batch=2", "max_steps=2", "test_games=4"]
    there = ["opponent_model.model=tiny", "opponent_model.backend=tinker", f"opponent_model.base_url={url}"]
    assert main([*words, "export=none", "log_path=here"]) == 0
    assert main([*words, *there, "export=none", "log_path=there"]) == 0
    assert_same_metrics(lines("here"), lines("there"))


@pytest.mark.parametrize("words", [SL, RL], ids=["sl", "rl"])
def test_a_killed_run_goes_on_to_the_same_bits(words: list[str], url: str, chats: str, tmp_path: Path) -> None:
    words = [*words, *([f"data={chats}"] if words[0] == "sl-basic" else []), "export=none"]
    assert main([*words, "log_path=calm", "lora.rank=4"]) == 0
    killed = command(tmp_path / "killed", *words, "backend=tinker", f"base_url={url}")
    story = run_killed(
        killed, tmp_path / "killed" / "run", kills=2, seed=3, records=5, env={**ENV, "HOME": str(tmp_path)}
    )
    assert any(s.killed for s in story), story
    assert_same_metrics(lines("calm"), lines("killed/run"))
    assert [r["datums"] for r in records("calm", "step")] == [
        {r["step"]: r["datums"] for r in records("killed/run", "step")}[i] for i in range(len(lines("calm")))
    ]


def test_a_server_that_is_killed_under_a_run_and_started_again_leaves_no_trace(chats: str, tmp_path: Path) -> None:
    """The client asks again for what it does not know the fate of; the server knows what it had acknowledged."""
    words = ["sl-basic", f"data={chats}", "batch_size=4", "num_epochs=4", "checkpoints.rolling_every=3", "export=none"]
    assert main([*words, "log_path=calm"]) == 0
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def serve() -> subprocess.Popen[bytes]:
        server = subprocess.Popen(
            [sys.executable, "-m", "tinsmith", "serve", f"port={port}", "dir=served"],
            env=ENV,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for _ in range(300):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1.0):
                return server
            time.sleep(0.1)
        raise AssertionError("the server did not start")

    metrics, server = tmp_path / "run" / "metrics.jsonl", serve()
    where = ["log_path=run", "backend=tinker", f"base_url=http://localhost:{port}"]
    run = subprocess.Popen([sys.executable, "-m", "tinsmith", *words, *where], env={**ENV, "HOME": str(tmp_path)})
    try:
        deadline = time.monotonic() + 60
        while not (metrics.exists() and metrics.read_bytes().count(b"\n") >= 4):
            assert run.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.005)
        server.kill()
        server.wait()
        server = serve()
        assert run.wait(100) == 0
    finally:
        run.kill()
        server.kill()
        run.wait()
        server.wait()
    assert_same_metrics(lines("calm"), lines("run"))


ELSEWHERE = {
    "on policy": ["on-policy-distillation", "teachers=tiny", "groups_per_batch=4", "max_steps=2", "test_size=4"],
    "off policy": [
        *("off-policy-distillation", "teachers=tiny", "top_k=3", "batch_size=4", "max_steps=2", "max_rows=8"),
        "test_size=2",
    ],
    "rubric": [
        *("rubric", "judge.model=tiny", "judge.reads=probability", "groups_per_batch=2", "group_size=2", "max_steps=2"),
        "test_size=2",
    ],
}


@pytest.mark.parametrize("words", ELSEWHERE.values(), ids=ELSEWHERE.keys())
def test_a_teacher_or_judge_may_be_at_a_server_and_the_student_here(words: list[str], url: str) -> None:
    """What it says is the same there."""
    other = "judge" if words[0] == "rubric" else "teacher"
    assert main([*words, "log_path=here", "export=none"]) == 0
    there = [f"{other}.backend=tinker", f"{other}.base_url={url}"]
    assert main([*words, "log_path=there", "export=none", *there]) == 0
    assert_same_metrics(*(lines(last_stage(words[0], run)) for run in ("here", "there")))


# Checkpoints


def listed(url: str) -> dict:
    rest = tinker.RestClient(base_url=url, api_key="tml-test")
    return {c.tinker_path: c for c in rest.list_user_checkpoints(limit=500).result().checkpoints}


def test_checkpoints_are_at_the_server_with_their_time_to_live(url: str, chats: str) -> None:
    before = listed(url)
    words = [
        *SL,
        f"data={chats}",
        "checkpoints.rolling_every=1",
        "checkpoints.ttl_days=2",
        "log_path=run",
        "export=none",
    ]
    assert main([*words, "backend=tinker", f"base_url={url}"]) == 0
    new = {path: c for path, c in listed(url).items() if path not in before}
    deleted = {r["name"] for r in records("run", "deleted")}
    handles = {r["name"]: r["handle"] for r in records("run", "checkpoint")}
    assert {r["keep"] for r in records("run", "checkpoint")} == {"periodic", "rolling", "final"}
    assert deleted, "older rolling ones go"
    kept = json.loads(Path("run/final/tinker.json").read_text())["model_path"]
    assert set(new) == {kept, *(handle for name, handle in handles.items() if name not in deleted)}
    for name, handle in handles.items():
        assert handle.split("/")[-1].startswith(f"run-{name}-s")
        if name not in deleted:
            assert (new[handle].expires_at is None) == ("final" in name)
    assert new[kept].checkpoint_type == "sampler"


def test_two_runs_of_one_name_save_side_by_side(url: str, chats: str, tmp_path: Path) -> None:
    words = [*SL, f"data={chats}", "export=none", "backend=tinker", f"base_url={url}"]
    names = []
    for place in ("a", "b"):
        assert main([*words, f"log_path={place}/run"]) == 0
        names.append({r["handle"].split("/")[-1] for r in records(f"{place}/run", "checkpoint")})
    assert not names[0] & names[1]


def test_a_checkpoint_that_is_gone_is_passed_over_for_the_one_before(
    url: str, chats: str, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = [*SL, f"data={chats}", "export=none", "lr_schedule=constant"]
    words = [*plain, "log_path=run", "backend=tinker", f"base_url={url}"]
    assert main([*words, "max_steps=4"]) == 0
    last = records("run", "checkpoint")[-1]
    rest = tinker.RestClient(base_url=url, api_key="tml-test")
    rest.delete_checkpoint_from_tinker_path(last["handle"]).result()
    assert main([*words, "max_steps=5"]) == 0
    assert f"checkpoint {last['name']} cannot be used" in capsys.readouterr().out
    assert main([*plain, "log_path=calm", "max_steps=5"]) == 0
    assert [r["train_mean_nll"] for r in lines("run")] == [r["train_mean_nll"] for r in lines("calm")]


# Money


def test_tokens_and_money_of_each_step(url: str, chats: str) -> None:
    words = ["rl-basic", "groups_per_batch=4", "max_steps=2", "test_size=4", "export=none", "prices=1,10,100"]
    for place, backend in (("here", []), ("there", ["backend=tinker", f"base_url={url}"])):
        assert main([*words, f"log_path={place}", *backend]) == 0
    for here, there in zip(lines("here"), lines("there"), strict=True):
        assert {n: v for n, v in here.items() if n.startswith(("tokens/", "cost/"))} == {
            n: v for n, v in there.items() if n.startswith(("tokens/", "cost/"))
        }
        tokens = [here[f"tokens/{kind}"] for kind in ("prefill", "sample", "train")]
        assert here["cost/step"] == pytest.approx((tokens[0] + 10 * tokens[1] + 100 * tokens[2]) / 1e6)
        assert tokens[1] >= here["env/all/total_ac_tokens"], "evaluations are paid for too"
    steps = lines("here")
    assert steps[-1]["cost/total"] == pytest.approx(sum(line["cost/step"] for line in steps))
    assert sum(line["tokens/train"] for line in steps) == sum(line["num_tokens"] for line in steps)


def test_a_budget_stops_the_run_and_a_larger_one_goes_on(
    url: str, chats: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*SL, f"data={chats}", "export=none", "prices=0,0,1000", "backend=tinker", f"base_url={url}"]
    assert main([*words, "log_path=calm"]) == 0
    costs = [line["cost/total"] for line in lines("calm")]
    budget = (costs[2] + costs[3]) / 2
    stopped = [*words, "log_path=run", f"budget={budget}"]
    for _ in range(2):  # again, and it stops again
        assert main(stopped) == 3
        assert "larger budget=" in capsys.readouterr().err
    assert len(lines("run")) == 3
    assert lines("run")[-1]["cost/total"] <= budget
    assert "budget" in records("run", "stopped")[0]["reason"]
    assert main([*words, "log_path=run", f"budget={2 * costs[-1]}"]) == 0
    assert_same_metrics(lines("calm"), lines("run"))


def test_check_says_what_it_would_cost(url: str, chats: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("prices.yaml").write_text(
        "tiny: {prefill: 1, sample: 2, train: 1000}\nother: {prefill: 9, sample: 9, train: 9}\n"
    )
    words = [*SL, f"data={chats}", "prices=prices.yaml", "backend=tinker", f"base_url={url}"]
    assert main(["check", *words, "budget=0.001"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "it would cost about" in said
    assert "more than budget" in said
    assert main(["check", "rl-basic", "prices=1,2,3", "backend=tinker", f"base_url={url}"]) == 0
    assert "it would cost about" in " ".join(capsys.readouterr().out.split())


# Where the tokenizer is


def test_the_tokenizer_is_found_by_what_the_server_says_or_where_it_is_said_to_be(
    tmp_path: Path, chats: str, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny = str(bootstrap.model_path("tiny"))
    with bootstrap.open_server({"mine": tiny}, tmp_path / "served", note=lambda _: None).running() as address:
        there = ["backend=tinker", f"base_url={address}", "model=mine", "max_steps=1", "export=none"]
        for place, tokenizer in (("said", []), ("given", [f"tokenizer={tiny}"])):
            words = ["sl-basic", f"data={chats}", *there, *tokenizer, f"log_path={place}"]
            assert main(words) == 0
        assert lines("said")[0]["train_mean_nll"] == lines("given")[0]["train_mean_nll"]
        assert main(["sl-basic", f"data={chats}", *there, "tokenizer=nowhere", "log_path=no"]) == 2
        assert "nowhere" in capsys.readouterr().err


# What is said before any data is read


def refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    code = main(["sl-basic", "data=there-is-no-such-file.jsonl", *words])
    said = capsys.readouterr().err.strip()
    assert len(said.splitlines()) <= 2, "one line, and perhaps where options are listed"
    assert "no-such-file" not in said
    return code, said


def test_a_missing_key_an_unknown_model_an_unreachable_server(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, said = refused(["backend=tinker", "base_url=http://tinker.invalid"], capsys)
    assert (code, "TINKER_API_KEY is not set" in said) == (2, True)
    code, said = refused(["backend=tinker", f"base_url={url}", "model=tny"], capsys)
    assert (code, "did you mean tiny?" in said) == (2, True)
    code, said = refused(["backend=tinker", "base_url=http://127.0.0.1:9"], capsys)
    assert (code, "no server answers at http://127.0.0.1:9" in said) == (1, True)
    code, said = refused(["backend=tinker", "base_url=127.0.0.1:8000"], capsys)
    assert (code, "begins with http://" in said) == (2, True)
    code, said = refused(["backend=tinker", "base_url=localhost:8000"], capsys)
    assert (code, "begins with http://" in said) == (2, True), "no word of a key"
    began = time.monotonic()
    code, said = refused(["backend=tinker", f"base_url={url}/elsewhere"], capsys)
    assert (code, "is no server of the Tinker protocol" in said) == (1, True)
    assert time.monotonic() - began < START_S / 3, "it is not asked again and again"


def test_a_key_that_is_none(url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("TINKER_API_KEY", "sk-123")
    code, said = refused(["backend=tinker", f"base_url={url}"], capsys)
    assert (code, "begin with tml-" in said) == (2, True)


def test_a_server_with_a_key(
    tmp_path: Path, chats: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """All that is asked for carries it, the download of the adapter too."""
    served = bootstrap.open_server({"tiny": "tiny"}, tmp_path / "served", key="tml-right", note=lambda _: None)
    with served.running() as address:
        there = ["backend=tinker", f"base_url={address}", "max_steps=1", "export=adapter", "log_path=run"]
        code, said = refused(there, capsys)
        assert (code, "refuses the key" in said) == (2, True)
        monkeypatch.setenv("TINKER_API_KEY", "tml-right")
        assert main(["sl-basic", f"data={chats}", *there]) == 0
    assert Path("run/final/adapter_model.safetensors").is_file()


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (["backend=tinker", "threads=1"], "threads"),
        (["backend=tinker", "micro_batch_tokens=64"], "micro_batch_tokens"),
        (["backend=tinker", "lora.rank=0", "export=none"], "lora.rank"),
        (["backend=tinker", "lora.alpha=16"], "lora.alpha"),
        (["base_url=http://localhost:1"], "base_url"),
        (["budget=3"], "prices"),
        (["prices=1,2"], "prices"),
        (["prices=1,2,-3"], "train"),
    ],
)
def test_options_that_contradict_each_other(words: list[str], names: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, said = refused(words, capsys)
    assert code == 2
    assert names in said


def results(path: str) -> dict:
    return json.loads(Path(path, "results.json").read_text())


def test_an_evaluation_is_that_of_the_embedded_engine_before_and_after_training(
    url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    there = ["backend=tinker", f"base_url={url}"]
    options = ["size=16", "n=2", "seed=3"]
    assert main(["eval", "arithmetic", *options, "log_path=here"]) == 0
    assert main(["eval", "arithmetic", *options, *there, "log_path=there"]) == 0
    assert results("here")["outcomes"] == results("there")["outcomes"]
    assert main([*RL, "max_steps=1", "log_path=a"]) == 0
    assert main([*RL, "max_steps=1", *there, "log_path=b"]) == 0
    assert main(["eval", "model=a/final", *options, "log_path=trained-here", "compare=here"]) == 0
    assert main(["eval", "model=b/final", *options, *there, "log_path=trained-there"]) == 0
    first, second = results("trained-here"), results("trained-there")
    assert first["outcomes"] == second["outcomes"] != results("here")["outcomes"]
    assert main(["eval", "regrade=trained-there"]) == 0
    assert results("trained-there-native")["outcomes"] == second["outcomes"]
    capsys.readouterr()
    assert main([*RL, "model=b/final", *there, "log_path=c"]) == 2
    assert "a training run begins with tiny" in capsys.readouterr().err
    file = Path("b/final/tinker.json")
    file.write_text(file.read_text().replace(url, "http://127.0.0.1:9"))
    assert main(["eval", "model=b/final", *options, *there, "log_path=d"]) == 2
    assert "its weights are at http://127.0.0.1:9, not at" in capsys.readouterr().err
    file.write_text("{}")
    assert main(["eval", "model=b/final", *options, *there, "log_path=d"]) == 2
    assert "not what a run leaves" in capsys.readouterr().err

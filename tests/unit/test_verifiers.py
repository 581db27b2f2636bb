"""Environments of `verifiers`: with a fake of its interface, and the package itself where it is installed."""

from __future__ import annotations

import asyncio
import importlib.metadata
import logging
import signal
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tinsmith import bootstrap, rendering
from tinsmith.adapters.verifiers.convert import asked
from tinsmith.cli import main
from tinsmith.domain.episodes import Episode, StopReason
from tinsmith.domain.errors import ConfigError, MissingExtraError, WorldError
from tinsmith.envs.foreign import ForeignProblems
from tinsmith.testing import FakeTokenizer, ScriptedSampler
from tinsmith.workflows.rollouts import FailurePolicy, RolloutLimits, RolloutPlan, roll_out

TOKENIZER = FakeTokenizer()
INSTALLED = find_spec("verifiers") is not None


class Record(SimpleNamespace):
    """A message or response of the fake's: what the package's models offer of what is used."""

    def model_dump(self, exclude_none: bool = False) -> dict[str, Any]:
        return {k: v for k, v in vars(self).items() if v is not None}


class OverlongPromptError(Exception):
    pass


class FakeClient:
    """As much of the package's base class as it does itself."""

    def __init__(self, client: Any) -> None:
        self.client = client

    async def get_response(self, prompt: Any, model: str, sampling_args: Any, tools: Any = None, **more: Any) -> Any:
        native, extra = await self.to_native_prompt(prompt)  # type: ignore[attr-defined]
        given = None if tools is None else [await self.to_native_tool(t) for t in tools]  # type: ignore[attr-defined]
        response = await self.get_native_response(native, model, sampling_args, given, **extra, **more)  # type: ignore[attr-defined]
        await self.raise_from_native_response(response)  # type: ignore[attr-defined]
        return await self.from_native_response(response)  # type: ignore[attr-defined]


class FakeEnvironment:
    """Asks for the number twice at most; the second try is worth half."""

    fails: str | None = None

    def __init__(self, **args: Any) -> None:
        if "unknown" in args:
            raise TypeError("load_environment() got an unexpected keyword argument 'unknown'")
        signal.signal(signal.SIGINT, lambda *_: None)
        self.cleaned = 0

    requires_group_rollouts = False

    def get_dataset(self) -> list[dict[str, Any]]:
        return [{"prompt": [{"role": "user", "content": f"Say {i}."}], "answer": str(i)} for i in range(6)]

    def build_eval_dataset(self) -> None:
        return None

    async def run_rollout(
        self, row: Any, client: Any, model: str, sampling_args: Any, state: Any = None
    ) -> dict[str, Any]:
        messages: list[Any] = [Record(**m) for m in row["prompt"]]
        tries = right = 0
        try:
            while tries < 2 and not right:
                if self.fails == "error":
                    return {"error": {"error": "ToolError"}, "reward": 0.0}
                if self.fails == "raise":
                    raise KeyError("state")
                response = await client.get_response(messages, model, sampling_args, state=state)
                said = response.message
                tries, right = tries + 1, said.content == row["answer"]
                answer = Record(role="assistant", content=said.content)
                messages = [*messages, answer, Record(role="user", content="Again.")]
                if self.fails == "forgets":
                    messages[0] = Record(role="user", content="Say it.")
        except OverlongPromptError:
            pass
        finally:
            self.cleaned += 1
        if self.fails in ("judge", "number"):  # what a rubric does with an exception of a reward function
            try:
                raise ConnectionError("refused") if self.fails == "judge" else ValueError("no number")
            except Exception as error:  # noqa: BLE001
                logging.getLogger("verifiers.rubrics.rubric").error(f"Error calling reward function: {error}")
        return {"error": None, "reward": right / max(tries, 1), "metrics": {"tries": float(tries)}}

    async def run_group(
        self, rows: Any, client: Any, model: str, sampling_args: Any, state_columns: Any
    ) -> list[dict[str, Any]]:
        """Pays the share of the others' tries. The last one begins first."""
        assert state_columns == ["trajectory_id"]
        names = [f"t{i}" for i in range(len(rows))]

        async def one(i: int) -> dict[str, Any]:
            await asyncio.sleep(0.01 * (len(rows) - i))
            return await self.run_rollout(rows[i], client, model, sampling_args, {"trajectory_id": names[i]})

        outputs = await asyncio.gather(*(one(i) for i in range(len(rows))))
        total = sum(o["metrics"]["tries"] for o in outputs)
        return [
            {**o, "reward": 1 - o["metrics"]["tries"] / total, "trajectory_id": name}
            for o, name in zip(outputs, names, strict=True)
        ]


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> type[FakeEnvironment]:
    def record(kind: str):
        return lambda **fields: Record(**({"role": "assistant"} if "content" in fields else {}), **fields)

    names = ("verifiers", "verifiers.clients", "verifiers.errors", "verifiers.types")
    package, clients, errors, types = (ModuleType(n) for n in names)
    package.load_environment = lambda name, **args: FakeEnvironment(**args)  # type: ignore[attr-defined]
    clients.Client = FakeClient  # type: ignore[attr-defined]
    errors.OverlongPromptError = OverlongPromptError  # type: ignore[attr-defined]
    for kind in ("AssistantMessage", "Response", "ResponseMessage", "ToolCall"):
        setattr(types, kind, record(kind))
    for module in (package, clients, errors, types):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.1.14")
    monkeypatch.setattr("tinsmith.adapters.verifiers.environment._client_class", [])
    monkeypatch.setattr(FakeEnvironment, "fails", None)
    return FakeEnvironment


@pytest.fixture
def opened() -> Iterator[Any]:
    environments: list[Any] = []

    def open_(name: str = "sums", **args: Any) -> Any:
        environments.append(bootstrap.open_verifiers(name, args))
        return environments[-1]

    yield open_
    for environment in environments:
        environment.close()


def played(
    environment: Any, answer: Any, index: int = 0, size: int = 1, renderer: str = "chatml", **limits: Any
) -> Any:
    rows = environment.rows("train")
    problems = ForeignProblems(
        environment=environment, rows=rows, start=0, end=len(rows), renderer=rendering.get(renderer, TOKENIZER)
    )
    plan = RolloutPlan(
        limits=RolloutLimits(**{"max_tokens": 200, "turn_timeout": 20.0, **limits}),
        group_size=size,
        failures=FailurePolicy(),
    )
    (group,) = roll_out(ScriptedSampler(TOKENIZER, answer), [problems[index]], plan)
    return group.episodes


def is_one_sequence(episode: Episode) -> bool:
    return all(
        np.array_equal(after.observation[: len(t.observation) + len(t.action)], np.append(t.observation, t.action))
        for t, after in pairwise(episode.transitions)
    )


def test_turns_of_a_rollout_are_one_sequence_and_its_score_is_the_packages(fake: Any, opened: Any) -> None:
    environment = opened()
    said = iter(["x", "3"])
    (episode,) = played(environment, lambda prompt, j: next(said), 3)
    assert (episode.reward, len(episode.transitions), episode.stop_reason) == (0.5, 2, StopReason.COMPLETED)
    assert is_one_sequence(episode)
    assert episode.transitions[-1].metrics == {"parse_error": 0.0, "tries": 2.0, "reward_errors": 0.0}
    assert environment._env.cleaned == 1


def test_half_a_surrogate_pair_in_what_a_tool_says_stops_no_run() -> None:
    """A model can spell it in the arguments of a call, and tools say again what they were given."""
    parts = [{"type": "text", "text": "a \ud800"}]
    prompt = [{"role": "user", "content": parts}, {"role": "tool", "content": "\udfff", "tool_call_id": "c"}]
    messages, _ = asked(prompt, None)
    assert [m.text for m in messages] == ["a ?", "?"]


def test_where_the_environment_forgets_the_turns_are_several_sequences(fake: Any, opened: Any) -> None:
    fake.fails = "forgets"
    (episode,) = played(opened(), lambda prompt, j: "x")
    assert (len(episode.transitions), is_one_sequence(episode)) == (2, False)
    assert "Say it." in TOKENIZER.decode(episode.transitions[1].observation)


def test_a_group_and_another_loop(fake: Any, opened: Any) -> None:
    environment = opened()
    for _ in range(2):
        episodes = played(environment, lambda prompt, j: "2", 2, size=5)
        assert [e.reward for e in episodes] == [1.0] * 5
    assert environment._env.cleaned == 10


@pytest.mark.parametrize(("fails", "said"), [("error", "ToolError"), ("raise", "KeyError"), ("judge", "refused")])
def test_what_the_package_fails_is_the_worlds(fails: str, said: str, fake: Any, opened: Any) -> None:
    fake.fails = fails
    with pytest.raises(WorldError, match=said):
        played(opened(), lambda prompt, j: "2")


def test_a_reward_that_stumbles_over_an_answer_is_counted(fake: Any, opened: Any) -> None:
    fake.fails = "number"
    episodes = played(opened(), lambda prompt, j: "0", size=2)
    assert [e.transitions[-1].metrics["reward_errors"] for e in episodes] == [1.0, 1.0]


def test_a_limit_ends_it_as_a_prompt_that_is_too_long_does(fake: Any, opened: Any) -> None:
    (episode,) = played(opened(), lambda prompt, j: "x", max_turns=1)
    assert (episode.stop_reason, episode.reward) == (StopReason.MAX_TURNS, 0.0)


def test_loading_keeps_the_runs_own_signal_handlers(fake: Any, opened: Any) -> None:
    before = signal.getsignal(signal.SIGINT)
    opened()
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize("version", ["0.1.12", "0.4.0", "1.0"])
def test_versions_that_work_otherwise_are_named(
    version: str, fake: Any, opened: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda name: version)
    with pytest.raises(ConfigError, match=rf"verifiers {version}: versions 0\.1\.14 to 0\.3\.1"):
        opened()


def test_arguments_that_it_does_not_take(fake: Any, opened: Any) -> None:
    with pytest.raises(ConfigError, match="unknown"):
        opened(unknown=1)


def test_rollouts_that_are_scored_together_end_together_each_with_its_own_score(
    fake: Any, opened: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which rollout a seat has is found out by its asking, in whatever order."""
    monkeypatch.setattr(fake, "requires_group_rollouts", True)
    environment, count = opened(), iter(range(9))
    episodes = played(environment, lambda prompt, j: "2" if next(count) == 0 else "x", 2, size=3)
    tries = [len(e.transitions) for e in episodes]
    assert sorted(tries) == [1, 2, 2]
    assert [e.reward for e in episodes] == [pytest.approx(1 - t / 5) for t in tries]
    assert [e.transitions[-1].metrics["tries"] for e in episodes] == tries
    (one,) = played(environment, lambda prompt, j: "x", 2, max_turns=1)
    assert (one.stop_reason, one.reward) == (StopReason.MAX_TURNS, 0.0)
    fake.fails = "raise"
    with pytest.raises(WorldError, match="KeyError: 'state'"):
        played(environment, lambda prompt, j: "x", 2, size=3)


@pytest.mark.skipif(INSTALLED, reason="the extra is installed")
def test_without_the_package_it_says_what_to_install() -> None:
    with pytest.raises(MissingExtraError, match=r"tinsmith\[verifiers\]"):
        bootstrap.open_verifiers("sums", {})


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["test_size=2"], 0, "reward"),
        (["test_size=6"], 2, "leaves nothing to train on of 6 problems"),
        (["env_args=[1]"], 2, "a JSON object"),
        (["env_args={"], 2, "no JSON"),
    ],
)
def test_the_recipe(
    words: list[str],
    code: int,
    said: str,
    fake: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["verifiers-rl", *words, "max_steps=1", "groups_per_batch=2", "group_size=2", "export=none", "log_path=run"]
    assert main(words) == code
    shown = capsys.readouterr()
    assert said in shown.out + shown.err
    if code == 0:
        assert main(["check", *words]) == 0
        assert "<|im_start|>" in capsys.readouterr().out


real = pytest.mark.skipif(not INSTALLED, reason="needs the extra: verifiers")


@real
def test_the_real_package_pays_a_second_try_half(opened: Any) -> None:
    environment = opened(num_train=4, num_test=2)
    answer = environment.rows("train")[0]["answer"]
    for answers, reward in (([answer], 1.0), (["no", answer], 0.5), (["no", "no"], 0.0)):
        said = iter(answers)
        (episode,) = played(environment, lambda prompt, j, said=said: next(said))
        assert (episode.reward, len(episode.transitions)) == (reward, len(answers))
        assert is_one_sequence(episode)
        assert episode.transitions[-1].metrics["correct"] == float(reward > 0)
        assert episode.transitions[-1].metrics["num_turns"] == len(answers)


@real
def test_the_real_packages_rollouts_end_at_a_limit_with_their_score(opened: Any) -> None:
    environment = opened(num_train=4, num_test=2)
    (episode,) = played(environment, lambda prompt, j: "no", max_turns=1)
    assert (episode.stop_reason, episode.reward) == (StopReason.MAX_TURNS, 0.0)


ENVIRONMENT = """
import verifiers as vf
from datasets import Dataset

ROWS = Dataset.from_list([{"question": "Go.", "answer": "4"}] * 3)

def load_environment(kind="plain"):
    def told(completion, answer):
        if kind == "offline":
            raise ConnectionError("the judge is gone")
        if kind == "buggy":
            raise ValueError("no number in it")
        return float(completion[-1]["content"] == answer)

    def compared(states) -> list[float]:
        lengths = [len(state["completion"][-1]["content"]) for state in states]
        return [float(n == max(lengths)) for n in lengths]

    rubric = vf.Rubric(funcs=[told, compared] if kind == "group" else [told])
    if kind == "tool":
        def add(x: int, y: int) -> int:
            "Add two numbers."
            return x + y
        return vf.ToolEnv(dataset=ROWS, rubric=rubric, tools=[add], max_turns=4)

    class Env(vf.MultiTurnEnv):
        async def env_response(self, messages, state, **_):
            if kind == "broken":
                raise vf.InfraError("the sandbox is gone")
            return [{"role": "user", "content": "Again."}]

        async def get_prompt_messages(self, state):
            messages = await super().get_prompt_messages(state)
            return messages[-1:] if kind == "forgets" else messages

    return Env(dataset=ROWS, rubric=rubric, max_turns=2)
"""


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opened: Any) -> Any:
    name = "environment_of_a_test"
    (tmp_path / f"{name}.py").write_text(ENVIRONMENT)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, name, raising=False)
    return lambda kind: opened(name, kind=kind)


@real
def test_a_real_environment_that_forgets_gives_several_sequences(written: Any) -> None:
    (episode,) = played(written("forgets"), lambda prompt, j: "4")
    assert (len(episode.transitions), is_one_sequence(episode)) == (2, False)


@real
@pytest.mark.parametrize(("kind", "said"), [("offline", "judge is gone"), ("broken", "sandbox")])
def test_a_real_rubric_or_environment_that_the_world_fails_is_no_reward(kind: str, said: str, written: Any) -> None:
    with pytest.raises(WorldError, match=said):
        played(written(kind), lambda prompt, j: "5")


@real
def test_a_reward_function_that_stumbles_over_an_answer_pays_nothing_and_is_counted(written: Any) -> None:
    (episode,) = played(written("buggy"), lambda prompt, j: "5")
    assert episode.reward == 0.0
    assert episode.transitions[-1].metrics["reward_errors"] == 1.0


@real
def test_a_real_rubric_that_compares_a_group(written: Any) -> None:
    lengths = iter([1, 5, 3] * 2)
    episodes = played(written("group"), lambda prompt, j: "4" * next(lengths), size=3)
    said = [TOKENIZER.decode(e.transitions[-1].action).removesuffix("<|im_end|>") for e in episodes]
    longest = max(map(len, said))
    assert [e.reward for e in episodes] == [float(s == "4") + float(len(s) == longest) for s in said]
    assert len({e.reward for e in episodes}) > 1
    assert all(is_one_sequence(e) and len(e.transitions) == 2 for e in episodes)


@real
def test_a_real_environment_with_tools(written: Any) -> None:
    said = iter(['<tool_call>\n{"name": "add", "arguments": {"x": 1, "y": 3}}\n</tool_call>', "4"])
    (episode,) = played(written("tool"), lambda prompt, j: next(said), renderer="qwen3")
    assert (episode.reward, len(episode.transitions)) == (1.0, 2)
    assert is_one_sequence(episode)
    assert "<tool_response>\n4\n</tool_response>" in TOKENIZER.decode(episode.transitions[1].observation)
    assert '"Add two numbers."' in TOKENIZER.decode(episode.transitions[0].observation)


@real
def test_environments_that_there_are_not(opened: Any) -> None:
    with pytest.raises(ConfigError, match="no_such_environment"):
        opened("no_such_environment")

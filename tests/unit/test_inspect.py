"""Samplers as models of `inspect-ai`: with a fake of its classes, and the package itself where it is installed."""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import subprocess
import sys
from concurrent.futures import Future
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tinsmith import bootstrap, rendering
from tinsmith.domain.errors import ConfigError, DataError, DeadlineError, WorldError
from tinsmith.ports.pending import Pending
from tinsmith.testing import FakeTokenizer, ScriptedSampler

TOKENIZER = FakeTokenizer()
INSTALLED = find_spec("inspect_ai") is not None
OURS = ("tinsmith.bootstrap.inspect_models", "tinsmith.adapters.inspect.provider", "tinsmith.adapters.inspect.convert")


class Record:
    """As much of the package's data classes as is used: fields by name, None where nothing was given."""

    def __init__(self, **fields: Any) -> None:
        self.__dict__.update(fields)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return None

    def model_dump(self, **_: Any) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k != "options"}


def kind(name: str, **defaults: Any) -> type[Record]:
    return type(name, (Record,), defaults)


class Output(Record):
    @classmethod
    def from_content(cls, model: str, content: str, stop_reason: str) -> Output:
        choice = Record(message=Record(text=content), stop_reason=stop_reason)
        return cls(model=model, choices=[choice], stop_reason=stop_reason, completion=content)


class FakeAPI:
    def __init__(self, name: str, *_: Any) -> None:
        self.model_name = name


class Said(Record):
    role = "assistant"

    @property
    def text(self) -> str:
        return self.content if isinstance(self.content, str) else "".join(p.text or "" for p in self.content)


def fake_modules() -> list[ModuleType]:
    package, model, tool = (ModuleType(n) for n in ("inspect_ai", "inspect_ai.model", "inspect_ai.tool"))
    package.model, package.tool = model, tool  # type: ignore[attr-defined]
    for name in ("ChatCompletionChoice", "GenerateConfig", "Logprob", "Logprobs", "ModelUsage", "TopLogprob"):
        setattr(model, name, kind(name))
    for role in ("System", "User"):
        setattr(model, f"ChatMessage{role}", kind(role, role=role.lower()))
    model.ChatMessageTool = type("Tool", (Said,), {"role": "tool"})  # type: ignore[attr-defined]
    model.ChatMessageAssistant, model.ModelOutput, model.ModelAPI = Said, Output, FakeAPI  # type: ignore[attr-defined]
    for part, said in (("Text", "text"), ("Reasoning", "reasoning"), ("Image", "image"), ("Data", "data")):
        setattr(model, f"Content{part}", kind(part, type=said))
    model.Model = lambda api, config: Record(api=api, config=config)  # type: ignore[attr-defined]
    model.modelapi = lambda name: lambda made: made  # type: ignore[attr-defined]
    tool.ToolCall, tool.ToolInfo = kind("ToolCall"), kind("ToolInfo")  # type: ignore[attr-defined]
    tool.ToolCallError = kind("ToolCallError")  # type: ignore[attr-defined]
    return [package, model, tool]


@pytest.fixture(params=["fake", "real"])
def m(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The package's `model` module, of the fake or the real one, with our modules on it."""
    for name in OURS:
        monkeypatch.delitem(sys.modules, name, raising=False)
    if request.param == "fake":
        for module in fake_modules():
            monkeypatch.setitem(sys.modules, module.__name__, module)
    elif not INSTALLED:
        pytest.skip("needs the extra: inspect")
    return importlib.import_module("inspect_ai.model")


def api(answer: Any, *, renderer: str = "qwen3", context: int = 1 << 20, sampler: Any = None, **more: Any) -> Any:
    from tinsmith.bootstrap.inspect_models import inspect_model

    sampler = sampler or ScriptedSampler(TOKENIZER, answer, context=context)
    return inspect_model(sampler, rendering.get(renderer, TOKENIZER), **more).api


def asked(api: Any, m: Any, *messages: Any, tools: Any = (), choice: Any = "auto", **config: Any) -> Any:
    given = list(messages) or [m.ChatMessageUser(content="Hi")]
    return asyncio.run(api.generate(given, list(tools), choice, m.GenerateConfig(**config)))


def test_an_answer_with_what_it_took(m: Any) -> None:
    seen: list[str] = []

    def answer(prompt: str, j: int) -> str:
        seen.append(prompt)
        return "Hello"

    history = [m.ChatMessageSystem(content="Be kind."), m.ChatMessageUser(content=[m.ContentText(text="Hi")])]
    output = asked(api(answer), m, *history, m.ChatMessageAssistant(content="Yes?"), m.ChatMessageUser(content="Go."))
    (choice,) = output.choices
    assert (choice.message.text, choice.stop_reason) == ("Hello", "stop")
    assert output.usage.total_tokens == output.usage.input_tokens + output.usage.output_tokens
    assert output.usage.output_tokens == len(TOKENIZER.encode("Hello")) + 1
    assert [seen[0].index(t) for t in ("Be kind.", "Hi", "Yes?", "Go.")] == sorted(
        seen[0].index(t) for t in ("Be kind.", "Hi", "Yes?", "Go.")
    )


@pytest.mark.parametrize(("room", "max_tokens", "said"), [(100, 3, "max_tokens"), (4, 3000, "model_length")])
def test_an_answer_that_is_cut_says_by_what(room: int, max_tokens: int, said: str, m: Any) -> None:
    user = m.ChatMessageUser(content="Hi")
    length = len(rendering.get("qwen3", TOKENIZER).generation_prompt([{"role": "user", "content": "Hi"}]).ids)
    output = asked(api(lambda p, j: "long answer", context=length + room), m, user, max_tokens=max_tokens)
    assert output.choices[0].stop_reason == said
    full = asked(api(lambda p, j: "x", context=length), m, user)
    assert (full.choices[0].stop_reason, full.choices[0].message.text) == ("model_length", "")


def test_thinking_is_reasoning_and_goes_back_as_such(m: Any) -> None:
    one = api(lambda p, j: "<think>\nhm\n</think>\n\nYes", renderer="qwen3")
    message = asked(one, m).choices[0].message
    assert [p.type for p in message.content] == ["reasoning", "text"]
    seen: list[str] = []
    asked(api(lambda p, j: seen.append(p) or "x"), m, m.ChatMessageUser(content="Hi"), message)
    assert "hm" in seen[0]


def tool(m: Any) -> Any:
    tools = importlib.import_module("inspect_ai.tool")
    if INSTALLED and hasattr(tools, "ToolParams"):
        parameters = tools.ToolParams(properties={"x": tools.ToolParam(type="integer", description="A number.")})
        return tools.ToolInfo(name="add", description="Adds.", parameters=parameters)
    return tools.ToolInfo(name="add", description="Adds.", parameters={"type": "object", "properties": {"x": {}}})


CALL = '<tool_call>\n{"name": "add", "arguments": %s}\n</tool_call>'


def test_tools_are_shown_and_called_and_their_results_read(m: Any) -> None:
    tools = importlib.import_module("inspect_ai.tool")
    seen: list[str] = []

    def answer(prompt: str, j: int) -> str:
        seen.append(prompt)
        return CALL % '{"x": 1}'

    one = api(answer)
    choice = asked(one, m, tools=[tool(m)]).choices[0]
    (call,) = choice.message.tool_calls
    assert (choice.stop_reason, call.function, call.arguments, call.parse_error) == (
        "tool_calls",
        "add",
        {"x": 1},
        None,
    )
    assert "Adds." in seen[0]
    result = m.ChatMessageTool(content="7", tool_call_id=call.id, function="add")
    wrong = m.ChatMessageTool(
        content="", tool_call_id=call.id, function="add", error=tools.ToolCallError(type="unknown", message="no")
    )
    asked(one, m, m.ChatMessageUser(content="Hi"), choice.message, result, wrong, tools=[tool(m)])
    assert CALL % '{"x": 1}' in seen[1]
    assert "<tool_response>\n7\n</tool_response>" in seen[1]
    assert "error: no" in seen[1]
    asked(one, m, tools=[tool(m)], choice="none")
    assert "Adds." not in seen[2]


def test_half_a_surrogate_pair_in_a_call_or_what_a_tool_says_fails_no_sample(m: Any) -> None:
    seen: list[str] = []
    one = api(lambda prompt, j: [CALL % r'{"x": "\ud800"}', seen.append(prompt)][0])
    choice = asked(one, m, tools=[tool(m)]).choices[0]
    (call,) = choice.message.tool_calls
    assert call.arguments == {"x": "?"}
    result = m.ChatMessageTool(content="\udfff", tool_call_id=call.id, function="add")
    asked(one, m, m.ChatMessageUser(content="Hi"), choice.message, result, tools=[tool(m)])
    assert "<tool_response>\n?\n</tool_response>" in seen[1]


def test_a_call_that_cannot_be_read_is_the_models_mistake(m: Any) -> None:
    choice = asked(api(lambda p, j: "<tool_call>\n{add}\n</tool_call>"), m, tools=[tool(m)]).choices[0]
    assert choice.stop_reason == "stop"
    assert "{add}" in choice.message.text


def test_epochs_differ_and_a_run_comes_out_the_same_again(m: Any) -> None:
    from tinsmith.bootstrap.inspect_models import inspect_model

    model = bootstrap.load_model("tiny")

    def run(seed: int | None) -> list[str]:
        with model.sampler() as sampler:
            one = inspect_model(sampler, model.renderer).api
            user = m.ChatMessageUser(content="Say apple river stone.")
            return [asked(one, m, user, max_tokens=8, seed=seed).choices[0].message.text for _ in range(4)]

    first = run(None)
    assert len(set(first)) > 1
    assert run(None) == first
    assert run(5) != first


def test_options_reach_the_sampler_and_what_it_has_not_is_refused(m: Any) -> None:
    params: list[Any] = []

    class Listening(ScriptedSampler):
        def sample(self, prompt: Any, given: Any, n: int = 1) -> Any:
            params.append((given, n))
            return super().sample(prompt, given, n)

    one = api(None, sampler=Listening(TOKENIZER, lambda p, j: f"{j}"))
    output = asked(one, m, temperature=0.0, top_p=0.5, top_k=3, stop_seqs=["END"], num_choices=3, max_tokens=9)
    ((given, n),) = params
    assert (given.temperature, given.top_p, given.top_k, given.max_tokens, n) == (0.0, 0.5, 3, 9, 3)
    assert "END" in given.stop
    assert [c.message.text for c in output.choices] == ["0", "1", "2"]
    for name, value in (("frequency_penalty", 0.5), ("logit_bias", {1: 1.0}), ("best_of", 2)):
        with pytest.raises(ConfigError, match=name):
            asked(one, m, **{name: value})
    asked(one, m, frequency_penalty=0.0)


def test_logprobs_of_what_was_sampled(m: Any) -> None:
    output = asked(api(lambda p, j: "Hi é"), m, logprobs=True)
    content = output.choices[0].logprobs.content
    assert b"".join(bytes(c.bytes) for c in content).decode().startswith("Hi é")
    assert {c.logprob for c in content} == {-1.0}


def test_what_the_world_fails_is_tried_again_and_a_wait_has_an_end(m: Any) -> None:
    class Gone(ScriptedSampler):
        def sample(self, prompt: Any, given: Any, n: int = 1) -> Any:
            raise WorldError("gone")

    class Slow(ScriptedSampler):
        def sample(self, prompt: Any, given: Any, n: int = 1) -> Any:
            return Pending(Future())

    one = api(None, sampler=Gone(TOKENIZER, lambda p, j: ""))
    with pytest.raises(WorldError):
        asked(one, m)
    assert one.should_retry(WorldError("gone"))
    assert not one.should_retry(ConfigError("no"))
    with pytest.raises(DeadlineError, match="no answer within"):
        asked(api(None, sampler=Slow(TOKENIZER, lambda p, j: ""), timeout_s=0.05), m)


def test_content_that_no_prompt_holds_is_refused(m: Any) -> None:
    part = m.ContentData(data={"x": 1})
    with pytest.raises(DataError, match="data"):
        asked(api(lambda p, j: ""), m, m.ChatMessageUser(content=[part]))


def test_a_model_by_name_and_its_arguments(m: Any) -> None:
    from tinsmith.bootstrap.inspect_models import tinsmith

    if type(m.Model).__name__ == "function":  # the fake registers nothing
        one = tinsmith()("tiny", None, None, m.GenerateConfig(), renderer="hf_template")
    else:
        one = m.get_model("tinsmith/tiny", renderer="hf_template", memoize=False).api
    try:
        assert asyncio.run(one.count_text_tokens("apple")) == 1
        assert asked(one, m, max_tokens=4).usage.output_tokens <= 4
    finally:
        one.close()


TASK = """
from inspect_ai import Task, task
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.scorer import includes
from inspect_ai.solver import generate

@task
def words():
    samples = [Sample(input=f"Say {w}.", target=w) for w in ("apple", "river", "stone")]
    return Task(dataset=MemoryDataset(samples), solver=generate(), scorer=includes())
"""


@pytest.mark.skipif(not INSTALLED, reason="needs the extra: inspect")
def test_the_packages_own_command_runs_a_task_on_a_model_of_ours(tmp_path: Path) -> None:
    """Found by the entry point alone."""
    (tmp_path / "task.py").write_text(TASK)
    points = tmp_path / "somewhere" / "points-0.dist-info"  # what installing writes
    points.mkdir(parents=True)
    (points / "entry_points.txt").write_text("[inspect_ai]\ntinsmith = tinsmith.bootstrap.inspect_models\n")
    (points / "METADATA").write_text("Metadata-Version: 2.1\nName: points\nVersion: 0\n")
    command = [sys.executable, "-m", "inspect_ai", "eval", "task.py", "--model", "tinsmith/tiny", "--max-tokens", "6"]
    done = subprocess.run(
        [*command, "--display", "none", "--log-dir", "logs", "--epochs", "4", "--log-format", "json"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(points.parent), *sys.path])},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (log,) = (tmp_path / "logs").glob("*.json")
    read = json.loads(log.read_text())
    assert read["status"] == "success"
    assert read["eval"]["model"] == "tinsmith/tiny"
    assert len(read["samples"]) == 12
    assert read["results"]["scores"][0]["metrics"]["accuracy"]["value"] > 0.3

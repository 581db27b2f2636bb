"""Tools of a real MCP server, over its pipes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tinsmith import bootstrap, rendering
from tinsmith.cli import main
from tinsmith.domain.errors import ConfigError, DeadlineError, WorldError
from tinsmith.domain.messages import Message, ToolCall
from tinsmith.envs.message import RenderedEnv
from tinsmith.envs.tools import Graded, ToolBox, ToolEnv, served_tools, tool
from tinsmith.ports.tools import ToolReply, ToolServer
from tinsmith.testing import FakeTokenizer, ScriptedSampler
from tinsmith.workflows.rollouts import FailurePolicy, RolloutLimits, RolloutPlan, roll_out

pytest.importorskip("mcp", reason="needs the extra: mcp")

SERVER = '''
import asyncio, os, sys
from mcp.server.mcpserver import MCPServer

server = MCPServer("tiny", log_level="CRITICAL")
count = 0

@server.tool()
def add(x: int, y: int = 1) -> int:
    """Adds two numbers."""
    return x + y

@server.tool()
def refuse(why: str) -> str:
    """Refuses."""
    raise ValueError(why)

@server.tool()
async def sleep(seconds: float) -> str:
    """Sleeps."""
    await asyncio.sleep(seconds)
    return "slept"

@server.tool()
def count_up() -> str:
    """Counts the calls; from the third on it ends the program."""
    global count
    count += 1
    if count > 2:
        os._exit(3)
    return str(count)

@server.tool()
def pid() -> int:
    """Tells which process it is."""
    return os.getpid()

server.run()
'''


WRONG = [
    ("refuse", r'{"why": "half: \ud800"}'),
    ("refuse", r'{"why": "so", "\ud800": 1}'),
    ("add", '{"x": ' + "[" * 400 + "]" * 400 + "}"),
    *(("add", '{"x": ' + "[" * n + "]" * n + "}") for n in range(700, 1000, 20)),
    ("add", '{"x": NaN}'),
]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    path = tmp_path_factory.mktemp("mcp") / "server.py"
    path.write_text(SERVER)
    return [sys.executable, str(path)]


@contextlib.contextmanager
def opened(program: list[str], **options: Any) -> Iterator[ToolServer]:
    with contextlib.closing(bootstrap.open_mcp(program, **options)) as server:
        yield server


def call(server: ToolServer, name: str, **arguments: Any) -> ToolReply:
    return asyncio.run(server.call(name, arguments))


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_no_arguments_of_a_model_end_the_server(program: list[str]) -> None:
    """What it keeps is everybody's: a call that it cannot read is the model's mistake alone."""
    with opened(program) as server:
        box, process = ToolBox(served_tools(server)), call(server, "pid").text
        for name, arguments in WRONG:
            said, _ = asyncio.run(box.call(ToolCall(name, arguments)))
            assert said.text.startswith("error: ")
            assert call(server, "pid").text == process


def test_tools_have_their_schema_answer_and_end_with_the_server(program: list[str]) -> None:
    with opened(program) as server:
        names = [t.name for t in server.tools]
        assert names == ["add", "refuse", "sleep", "count_up", "pid"]
        function = server.tools[0].definition["function"]
        assert function["description"] == "Adds two numbers."
        assert function["parameters"]["properties"]["x"]["type"] == "integer"
        assert function["parameters"]["required"] == ["x"]
        assert call(server, "add", x=2, y=3) == ToolReply("5")
        assert call(server, "add", x=2) == ToolReply("3"), "from another event loop"
        for wrong in (
            call(server, "add", x="no"),
            call(server, "add"),
            call(server, "refuse", why="so"),
            call(server, "x"),
        ):
            assert wrong.refused
            assert wrong.text
        process = int(call(server, "pid").text)
        assert alive(process)
    end = time.monotonic() + 10
    while alive(process) and time.monotonic() < end:
        time.sleep(0.05)
    assert not alive(process)
    with pytest.raises(WorldError, match="closed"):
        call(server, "add", x=1)
    server.close()


def test_a_call_that_hangs_costs_its_deadline_and_nothing_else(program: list[str]) -> None:
    async def both(server: ToolServer) -> list[Any]:
        slow, quick = server.call("sleep", {"seconds": 60}), server.call("sleep", {"seconds": 0.1})
        return await asyncio.gather(slow, quick, return_exceptions=True)

    with opened(program, timeout_s=1.0) as server:
        began = time.monotonic()
        slow, quick = asyncio.run(both(server))
        assert isinstance(slow, DeadlineError)
        assert "the tool sleep" in str(slow)
        assert quick == ToolReply("slept")
        assert time.monotonic() - began < 5
        assert call(server, "count_up") == ToolReply("1"), "the server goes on"


def test_a_server_that_dies_is_the_worlds_failure_and_the_next_call_has_a_new_one(program: list[str]) -> None:
    with opened(program) as server:
        assert [call(server, "count_up").text for _ in range(2)] == ["1", "2"]
        with pytest.raises(WorldError, match="server"):
            call(server, "count_up")
        assert call(server, "count_up") == ToolReply("1")


def test_a_server_by_its_url(program: list[str], tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    path = tmp_path / "by_url.py"
    run = f"server.run(transport='streamable-http', host='127.0.0.1', port={port})"
    path.write_text(SERVER.replace("server.run()", run))
    running = subprocess.Popen([sys.executable, str(path)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(300):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1.0):
                break
            time.sleep(0.1)
        with contextlib.closing(bootstrap.open_mcp(f"http://127.0.0.1:{port}/mcp")) as server:
            assert call(server, "add", x=2, y=3) == ToolReply("5")
            assert call(server, "refuse", why="so").refused
            running.kill()
            running.wait()
            with pytest.raises(WorldError):
                call(server, "add", x=1)
    finally:
        running.kill()
        running.wait()


@pytest.mark.parametrize(
    "program", [["/no/such/program"], [sys.executable, "-c", "print('no json')"], "http://127.0.0.1:9/mcp"], ids=str
)
def test_a_server_that_does_not_start_is_said(program: Any) -> None:
    with pytest.raises(WorldError, match="the MCP server"):
        bootstrap.open_mcp(program)


def test_a_policy_calls_them_as_its_own_and_an_episode_that_lost_its_server_is_tried_again(program: list[str]) -> None:
    renderer = rendering.get("qwen3", FakeTokenizer())

    def answer(prompt: str, _: int) -> str:
        told = prompt.rpartition("<tool_response>")[2].partition("</tool_response>")[0].strip()
        if prompt.endswith("Begin.<|im_end|>\n<|im_start|>assistant\n"):
            return '<tool_call>\n{"name": "add", "arguments": {"x": "no"}}\n</tool_call>'
        if told.startswith("error: "):
            return '<tool_call>\n{"name": "count_up", "arguments": {}}\n</tool_call>'
        return told

    @tool
    def mine(x: int) -> int:
        """One's own."""
        return x

    async def grade(conversation: Any) -> Graded:
        return Graded(reward=float(conversation[-1].text in ("1", "2")))

    with opened(program) as server:
        box = ToolBox([*served_tools(server), mine])

        class Group:
            problem, tags, coupled = "p", (), False

            def make(self, n: int) -> Any:
                envs = [ToolEnv(start=(Message.user("Begin."),), box=box, grade=grade) for _ in range(n)]
                return [RenderedEnv(env=env, renderer=renderer) for env in envs]

            async def grade(self, episodes: Any) -> Any:
                return [0.0] * len(episodes)

        plan = RolloutPlan(
            limits=RolloutLimits(max_tokens=200), group_size=4, failures=FailurePolicy(retries=40, backoff_s=0.01)
        )
        rollouts = roll_out(ScriptedSampler(FakeTokenizer(), answer), [Group()], plan)
    (group,) = rollouts
    assert group.rewards.tolist() == [1.0] * 4, "the third call ended the program, which is no reward of anybody"
    assert rollouts.errors["WorldError"] >= 1
    with pytest.raises(ConfigError, match="two tools"):
        ToolBox([*box.functions, mine])


def test_what_is_no_text_is_told_by_its_kind() -> None:
    from mcp_types import BlobResourceContents, EmbeddedResource, ImageContent, TextContent, TextResourceContents

    from tinsmith.adapters.mcp.server import _text

    assert _text(TextContent(text="a")) == "a"
    assert _text(EmbeddedResource(resource=TextResourceContents(uri="file:///a", text="b"))) == "b"
    assert "file:///a" in _text(EmbeddedResource(resource=BlobResourceContents(uri="file:///a", blob="AAAA")))
    assert _text(ImageContent(data="AAAA", mime_type="image/png")) == "[image of type image/png, 3 bytes]"


def test_a_recipe_gives_them_to_its_policy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("bm25s", reason="needs the extra: search")
    monkeypatch.chdir(tmp_path)
    head, _, rest = SERVER.partition("@server.tool()\ndef add")
    (tmp_path / "server.py").write_text(head + rest[rest.index("@server.tool()\ndef pid") :])
    words = [sys.executable, str(tmp_path / "server.py")]
    (tmp_path / "c.json").write_text(json.dumps({"mcp": [shlex.join(words)], "max_tokens": 32}))
    assert main(["check", "search-tool", "config=c.json"]) == 0
    assert "Tells which process it is." in capsys.readouterr().out

"""Questions answered by searching: what is asked, what is found, and what it earns."""

from __future__ import annotations

import ast
import asyncio
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinsmith import bootstrap, rendering
from tinsmith.cli import main
from tinsmith.domain.episodes import StopReason
from tinsmith.domain.errors import DataError, RenderError, WorldError
from tinsmith.domain.messages import ToolCall
from tinsmith.envs.search import (
    MAX_QUERIES,
    Question,
    QuestionSet,
    SearchTask,
    answer_in,
    normalised,
    read_questions,
    search_tool,
)
from tinsmith.envs.tools import ToolBox
from tinsmith.ports.progress import Silent
from tinsmith.ports.search import SearchIndex
from tinsmith.recipes import reinforcement, small_world
from tinsmith.recipes.search_tool import Config
from tinsmith.testing import FakeTokenizer, FakeTrainer, MemorySearch, MemorySource, ScriptedSampler
from tinsmith.testing.fakes import CHAT_TOKENS
from tinsmith.workflows.env_check import CheckSettings, check_env
from tinsmith.workflows.journal import RunDirectory
from tinsmith.workflows.rl import RLLoop
from tinsmith.workflows.rollouts import RolloutLimits, RolloutPlan, Rollouts, roll_out

INDEX = MemorySearch(small_world.documents())
TINY = bootstrap.load_tokenizer("tiny")[0]
CALL = '<tool_call>\n{"name": "search", "arguments": %s}\n</tool_call>'


def questions(index: SearchIndex = INDEX) -> QuestionSet:
    task = SearchTask(renderer=rendering.get("qwen3", TINY), box=ToolBox([search_tool(index)]))
    return QuestionSet(task, read_questions(small_world.Questions()), "")


def played(
    answer: Callable[[str], str], asked: QuestionSet, count: int, max_turns: int | None = None, max_tokens: int = 120
) -> Rollouts:
    sampler = ScriptedSampler(TINY, lambda prompt, _: answer(prompt), context=1024)
    limits = RolloutLimits(max_tokens=max_tokens, max_turns=max_turns)
    return roll_out(sampler, [asked[i] for i in range(count)], RolloutPlan(limits=limits, group_size=2))


def by_hand(prompt: str) -> str:
    """Searches for the name in the question, then for the town where that is not it, and says what it read."""
    question = prompt.rpartition("user\nWhat ")[2].split("<|im_end|>")[0]
    name = re.search(r"(?:of|is) ([A-Z]\w+)", question)[1]
    told = re.search(rf"{name} is a (\w+) from (\w+)\.", prompt)
    river = told and re.search(rf"{told[2]} is a town on the river (\w+)\.", prompt)
    if told is None or ("river" in question and river is None):
        return CALL % json.dumps({"query_list": [name if told is None else f"town {told[2]}"]})
    found = told[2] if question.startswith("town") else told[1] if "craft" in question else river[1]
    return f"Answer: {found}"


def test_a_policy_that_searches_and_answers_earns_the_top_reward_within_the_tiny_models_context() -> None:
    groups = played(by_hand, questions(), 60)
    episodes = [episode for group in groups for episode in group.episodes]
    assert {e.reward for e in episodes} == {1.0}
    assert {e.stop_reason for e in episodes} == {StopReason.COMPLETED}
    turns = {tag: {len(e.transitions) for g in groups if g.tags == (tag,) for e in g.episodes} for tag in TAGS}
    assert turns == {"one_hop": {2}, "two_hops": {3}}


TAGS = ("one_hop", "two_hops")


FORMATS = (
    *("qwen3_5_disable_thinking", "qwen3_8", "mistral_v7", "gpt_oss_medium_reasoning", "deepseekv3_thinking"),
    *("kimi_k2", "glm4", "nemotron3", "tml_v0"),
)


@pytest.mark.parametrize("name", FORMATS)
def test_the_tool_is_called_in_the_form_of_each_format(name: str) -> None:
    """Nothing in the prompt or the environment is written for one of them."""
    tokens = list(CHAT_TOKENS)
    while True:
        try:
            renderer = rendering.get(name, FakeTokenizer(tokens))
            break
        except RenderError as error:  # it names the control tokens that it needs
            tokens += ast.literal_eval(re.search(r"\[.*\]", str(error))[0])
    task = SearchTask(renderer=renderer, box=ToolBox([search_tool(INDEX)]))
    asked = QuestionSet(task, read_questions(small_world.Questions())[:1], "")
    assert check_env(asked, renderer, CheckSettings(max_tokens=600, max_turns=5)).failures == ()


@pytest.mark.parametrize(
    ("said", "reward", "reason"),
    [
        ("Answer: nobody knows", 0.0, StopReason.COMPLETED),
        ("I do not know", -0.1, StopReason.COMPLETED),
        ("Answer:", -0.1, StopReason.COMPLETED),
        ("Answer: x\nAnswer: y", -0.1, StopReason.COMPLETED),
        ("<tool_call>\n{nonsense}\n</tool_call>", -0.1, StopReason.PARSE_ERROR),
        ("on and on " * 60, -0.1, StopReason.MAX_TOKENS),
        (CALL % '{"query_list": ["Answer: Talo"]}', -0.1, StopReason.MAX_TURNS),
        (CALL % '{"query_list": []}', -0.1, StopReason.MAX_TURNS),
        (CALL % '{"wrong": 1}', -0.1, StopReason.MAX_TURNS),
        (CALL % json.dumps({"query_list": ["q"] * (MAX_QUERIES + 1)}), -0.1, StopReason.MAX_TURNS),
        (CALL % r'{"query_list": ["\ud800"]}', -0.1, StopReason.MAX_TURNS),
    ],
)
def test_what_is_no_right_answer_earns_nothing(said: str, reward: float, reason: StopReason) -> None:
    (group,) = played(lambda _: said, questions(), 1, max_turns=2)
    assert [(e.reward, e.stop_reason) for e in group.episodes] == [(pytest.approx(reward), reason)] * 2


def test_a_search_that_fails_is_never_a_reward() -> None:
    class Broken(MemorySearch):
        async def search(self, queries, k):
            raise WorldError("the index is gone")

    with pytest.raises(WorldError, match="gone"):
        played(by_hand, questions(Broken(INDEX.documents)), 1)


def test_the_tool_lists_documents_by_query() -> None:
    box = ToolBox([search_tool(INDEX, 2)])
    person = INDEX.documents[0]
    call = ToolCall("search", json.dumps({"query_list": [person.title, "zzz"]}))
    text = asyncio.run(box.call(call))[0].text
    assert text.startswith(f"Query: {person.title}\nDocument 1: {person.title}\n{person.text}\n")
    assert text.endswith("\n\nQuery: zzz\nnothing was found")


@pytest.mark.parametrize(
    ("one", "other"),
    [("The  Beatles!", "beatles"), ("an apple, a day", "apple day"), ("U.S.", "us"), ("A", ""), ("Théâtre", "théâtre")],
)
def test_answers_are_compared_normalised(one: str, other: str) -> None:
    assert normalised(one) == normalised(other)


@given(st.text())
def test_normalising_twice_is_normalising_once_but_for_articles_that_it_lays_bare(text: str) -> None:
    done = normalised(text)
    assert set(normalised(done).split()) <= set(done.split())
    assert answer_in(f"{text} Answer: {text}") == (None if "Answer:" in text else text.strip() or None)


@pytest.mark.parametrize(
    "row",
    [
        {"question": "Who?", "golden_answers": ["Ann", "Annie"], "data_source": "nq", "id": "t_0"},
        {"question": "Who?", "reward_model": {"ground_truth": {"target": ["Ann", "Annie"]}}, "data_source": "nq"},
    ],
)
def test_rows_are_questions(row: dict) -> None:
    (question,) = read_questions(MemorySource([row]))
    assert question == Question(row.get("id", "search/0"), "Who?", ("Ann", "Annie"), "nq")


@pytest.mark.parametrize(
    "row",
    [
        {},
        {"question": " ", "golden_answers": "a"},
        {"question": "Who?"},
        {"question": "Who?", "golden_answers": ["the"]},
    ],
)
def test_other_rows_are_refused_with_their_line(row: dict) -> None:
    with pytest.raises(DataError, match="line 2"):
        read_questions(MemorySource([{"question": "Who?", "golden_answers": "Ann"}, row]))


def test_the_limits_of_an_episode_reach_the_rollouts(tmp_path: Path) -> None:
    settings = reinforcement.settings(Config(max_turns=3, max_trajectory_tokens=900))
    directory = RunDirectory.open(
        tmp_path, recipe="r", config={}, files=bootstrap.local_files(), clock=bootstrap.system_clock()
    )
    with directory:
        loop = RLLoop(FakeTrainer(), questions(), settings, directory, Silent(), decode=str)
        limits = loop._plan("train", 0, 2, 1.0).limits
    assert (limits.max_turns, limits.max_trajectory_tokens) == (3, 900)


def test_the_recipe_on_files_of_ones_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("bm25s", reason="needs the extra: search")
    monkeypatch.chdir(tmp_path)
    rows = [{"question": f"Who {i}?", "golden_answers": [f"Ann{i}"], "data_source": f"d{i % 2}"} for i in range(6)]
    Path("q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    Path("c.jsonl").write_text('{"id": "1", "contents": "\\"Ann\\"\\nAnn is who 3."}\n')
    words = ["search-tool", "data=q.jsonl", "test_size=2", "max_steps=1", "groups_per_batch=4", "group_size=2"]
    assert main(words) == 2
    assert "corpus=FILE" in capsys.readouterr().err
    short = [*words, "corpus=c.jsonl", "max_tokens=4", "export=none", "log_path=run"]
    assert main(short) == 0
    lines = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    assert {"env/d0/format", "env/d1/format", "test/env/all/correct"} <= set(lines[0])
    rollouts = [json.loads(line) for line in Path("run/rollouts/train.jsonl").read_text().splitlines()]
    assert {r["problem"] for r in rollouts} == {f"search/{i}" for i in range(2, 6)}, "what is tested is not trained on"
    assert main([*short, "max_trajectory_tokens=500", "log_path=never"]) == 2
    assert "max_tokens=4 more than 500" in capsys.readouterr().err
    assert main([*words, "corpus=c.jsonl", "renderer=chatml"]) == 2
    assert "no form for tools" in capsys.readouterr().err
    Path("c.jsonl").write_text('{"id": "1", "text": "a"}\n{"id": 1, "text": "b"}\n')
    assert main([*words, "corpus=c.jsonl"]) == 2
    assert "c.jsonl, line 2" in capsys.readouterr().err

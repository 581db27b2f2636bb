"""The page of a run: every logged token is in it once, in its own columns, and whatever a run says stays text."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hostile_texts import hostile_texts
from read_page import Elements, read_episodes, read_index
from tinsmith import bootstrap
from tinsmith.domain.advantages import group_advantages
from tinsmith.domain.assembly import assemble
from tinsmith.domain.episodes import Episode, Group, StopReason, Transition
from tinsmith.testing.fakes import FakeClock
from tinsmith.testing.files import MemoryDisk
from tinsmith.workflows.journal import RunDirectory
from tinsmith.workflows.rollout_log import to_rows
from tinsmith.workflows.show import show_run

RUN = Path("/runs/a")
TOKENIZER = bootstrap.load_tokenizer("tiny")[0]
HOSTILE = (
    "</script><script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    '"><svg onload=alert(1)>',
    "<!--",
    "]]>",
    "__proto__",
    "constructor",
    "\u202e\u2066\u200b\ufeff\u00ad\U000e0041",
    "\x00\x1b[31m\x07",
    "\ud800",
    "javascript:alert(1)",
    "${alert(1)}`",
)
words = st.sampled_from(HOSTILE) | hostile_texts()
ids = st.lists(st.integers(0, TOKENIZER.vocab_size - 1), min_size=1, max_size=6)
finite = st.floats(-30, 0, width=16)
values = st.floats(-4, 4, width=16)


@st.composite
def episodes(draw: st.DrawFn) -> Episode:
    """Turns whose observations go on from what came before, or do not."""
    turns: list[Transition] = []
    before: list[int] = []
    for _ in range(draw(st.integers(0, 3))):
        observation = (before if draw(st.booleans()) else []) + draw(ids)
        action = draw(ids)
        before = observation + action
        turns.append(
            Transition(
                observation=observation,
                action=action,
                logprobs=draw(st.lists(finite, min_size=len(action), max_size=len(action))),
                reward=draw(values),
                policy_version=draw(st.integers(-1, 9)),
                truncated=draw(st.booleans()),
                masked=draw(st.booleans()),
                metrics=draw(st.dictionaries(words, values, max_size=2)),
            )
        )
    return Episode(
        transitions=tuple(turns),
        stop_reason=draw(st.sampled_from(StopReason)),
        final_reward=draw(values),
        metrics=draw(st.dictionaries(words, values, max_size=2)),
    )


@st.composite
def groups(draw: st.DrawFn) -> Group:
    return Group(
        problem=draw(words),
        episodes=tuple(draw(st.lists(episodes(), min_size=1, max_size=3))),
        tags=tuple(draw(st.lists(words, max_size=2))),
    )


steps = st.lists(st.lists(groups(), min_size=1, max_size=3), min_size=1, max_size=3)


def logged(disk: MemoryDisk, batches: list[list[dict[str, Any]]], **about: Any) -> None:
    files = disk.mount()
    with RunDirectory.open(
        RUN, recipe=about.get("recipe", "r"), config=about.get("config", {}), files=files, clock=FakeClock()
    ) as run:
        run.resume(load=lambda _: None)
        for step, rows in enumerate(batches):
            run.write_rollouts(step, rows)
            run.record_step(step, about.get("metrics", {}), datums="")


def page_of(disk: MemoryDisk, **options: Any) -> tuple[bytes, list[str]]:
    shown = show_run(RUN, disk.mount(), **({"tokenizer": TOKENIZER, "now": 0.0} | options))
    return shown.data, shown.notes


def rows_of(batch: list[Group], trained: bool = True) -> list[dict[str, Any]]:
    if not trained:
        return to_rows(batch, split="train", decode=TOKENIZER.decode)
    kept = [group for group in batch if not group.is_constant]
    assembled = assemble(kept, group_advantages([g.rewards for g in kept])).batch if kept else None
    return to_rows(batch, split="train", decode=TOKENIZER.decode, trained=(kept, assembled))


@given(steps, st.booleans(), st.integers(1, 40))
def test_every_logged_token_is_there_once_with_its_own_numbers(
    batches: list[list[Group]], trained: bool, chunk_tokens: int
) -> None:
    disk = MemoryDisk()
    rows = [rows_of(batch, trained) for batch in batches]
    logged(disk, rows)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tinsmith.workflows.show.episodes.CHUNK_TOKENS", chunk_tokens)
        data, notes = page_of(disk)
    assert notes == []
    page = Elements(data)
    found = read_episodes(page)
    wanted = [(step, row) for step, batch in enumerate(rows) for row in batch]
    assert len(found) == len(wanted)
    vocabulary = read_index(page)["vocabulary"]
    spelled = dict(zip(vocabulary["ids"], vocabulary["bytes"], strict=True))
    for episode, (step, row) in zip(found, wanted, strict=True):
        assert (episode["step"], episode["member"], episode["file"]) == (step, row["episode"], "train")
        assert (episode["problem"], episode["tags"], episode["stop"]) == (
            row["problem"],
            row["tags"],
            row["stop_reason"],
        )
        assert (episode["reward"], episode["final_reward"]) == (row["reward"], row["final_reward"])
        assert episode["metrics"] == [list(pair) for pair in row["metrics"].items()]
        for shown, turn in zip(episode["turns"], row["turns"], strict=True):
            for name in ("observation", "action", "reward", "truncated", "masked", "policy_version"):
                assert shown[name] == turn[name]
            assert shown["metrics"] == [list(pair) for pair in turn["metrics"].items()]
            np.testing.assert_array_equal(shown["logprobs"], np.array(turn["logprobs"], np.float16))
            for name in ("advantages", "weights"):
                told = turn.get(name, 0.0 if name == "weights" and turn["masked"] else np.nan)
                np.testing.assert_array_equal(
                    shown[name], np.broadcast_to(np.array(told, np.float32).astype(np.float16), len(turn["action"]))
                )
            text = b"".join(spelled[i].encode("latin-1") for i in shown["action"])
            assert text.decode("utf-8", "replace") == turn["text"]
    together = [episode["group"] for episode in found]
    assert together == sorted(together)
    assert len(set(together)) == sum(map(len, batches))


@given(steps)
def test_trained_columns_are_those_of_the_batch(batches: list[list[Group]]) -> None:
    """Advantage and weight of each action are what was trained on, 0 in groups that were left out."""
    for batch in batches:
        for group, rows in zip(batch, _by_group(rows_of(batch)), strict=True):
            (advantages,) = group_advantages([group.rewards])
            for advantage, episode, row in zip(advantages, group.episodes, rows, strict=True):
                for turn, transition in zip(row["turns"], episode.transitions, strict=True):
                    left_out = group.is_constant or transition.masked
                    assert turn["weights"] == (0.0 if left_out else 1.0)
                    assert turn["advantages"] == (0.0 if left_out else float(np.float32(advantage)))


def _by_group(rows: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    out: list[list[dict[str, Any]]] = []
    for row in rows:
        if row["episode"] == 0:
            out.append([])
        out[-1].append(row)
    return out


BLOCK = re.compile(rb'(<script type="application/octet-stream" id="(?:index|chunk-\d+)">)[A-Za-z0-9+/=]*(</script>)')


def skeleton(page: bytes) -> bytes:
    return BLOCK.sub(rb"\1\2", page)


@given(groups(), words, words, words, words)
@example(
    Group(problem=HOSTILE[0], episodes=(Episode(transitions=(), stop_reason=StopReason.COMPLETED),)),
    HOSTILE[0],
    HOSTILE[1],
    HOSTILE[2],
    HOSTILE[3],
)
def test_what_a_run_says_is_no_markup(group: Group, recipe: str, key: str, value: str, metric: str) -> None:
    """Outside of its blocks of base64 a page is the same, byte for byte, whatever the run said."""
    plain, hostile = MemoryDisk(), MemoryDisk()
    episode = Episode(transitions=(), stop_reason=StopReason.COMPLETED)
    logged(plain, [rows_of([Group(problem="p", episodes=(episode,) * len(group.episodes))])])
    logged(hostile, [rows_of([group])], recipe=recipe, config={key: value, "a": {key: [value]}}, metrics={metric: 1.0})
    ours, theirs = page_of(plain)[0], page_of(hostile)[0]
    assert skeleton(theirs) == skeleton(ours)
    page = Elements(theirs)
    assert page.elements == Elements(ours).elements
    index = read_index(page)
    assert index["run"]["recipe"] == recipe
    assert index["metrics"]["names"] == [metric]
    assert index["episodes"]["problems"] == [group.problem]
    assert value in str(index["config"]) or len(index["config"]) > 0


def test_only_the_pages_own_program_may_run() -> None:
    disk = MemoryDisk()
    logged(disk, [])
    page = Elements(page_of(disk)[0])
    metas = [dict(attributes) for tag, attributes in page.elements if tag == "meta"]
    (policy,) = [meta["content"] for meta in metas if meta.get("http-equiv") == "Content-Security-Policy"]
    assert policy is not None
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy
    assert not [a for _, a in page.elements if {"src", "href", "style", "onload"} & dict(a).keys()]

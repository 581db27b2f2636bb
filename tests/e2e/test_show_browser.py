"""The page of a run in a real browser (`make browser` installs one; without it these tests are skipped)."""

from __future__ import annotations

import json
import re
import shutil
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hostile_texts import hostile_texts
from tinsmith import bootstrap, cli
from tinsmith.domain.episodes import Episode, Group, StopReason, Transition
from tinsmith.workflows.journal import RunDirectory
from tinsmith.workflows.rollout_log import to_rows

sync_api = pytest.importorskip("playwright.sync_api", reason="needs a browser: make browser")

TOKENIZER = bootstrap.load_tokenizer("tiny")[0]
TABLE = TOKENIZER.token_bytes()
HOSTILE = (
    "</script><script>document.title='taken'</script><img src=x onerror=\"document.title='taken'\">"
    "<svg onload=alert(1)><a href='javascript:alert(1)'>"
    "\u202e\u2066\u200b\ufeff\U000e0041\x00\x1b[31m<|im_end|>é漢🙂\n\t<b>end</b>"
)
PLAIN = "a/a"  # a name with a slash, since metrics are listed by what stands before it


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with sync_api.sync_playwright() as driver:
            try:
                started = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
            except sync_api.Error as error:
                pytest.skip(f"no browser: {str(error).splitlines()[0]} (make browser)")
            yield started
            started.close()


def a_run(path: Path, text: str, words: str) -> list[dict[str, Any]]:
    """Two groups of three episodes; the policy said `text`, and everything else that has a name is called `words`."""
    said = TOKENIZER.encode(text).tolist()
    groups = [
        Group(
            problem=words,
            episodes=tuple(
                Episode(
                    transitions=(
                        Transition(
                            observation=[1, *said],
                            action=[*said, 2],
                            logprobs=-np.arange(len(said) + 1, dtype=np.float32) / 2,
                            reward=float(e),
                            policy_version=0,
                            metrics={words: 1.0},
                        ),
                    ),
                    stop_reason=StopReason.MAX_TOKENS if e else StopReason.COMPLETED,
                    metrics={words: 0.5},
                )
                for e in range(3)
            ),
            tags=(words, f"group{g}"),
        )
        for g in range(2)
    ]
    rows = to_rows(groups, split="train", decode=TOKENIZER.decode)
    for row in rows:
        row["turns"][0] |= {"advantages": row["reward"] - 1, "weights": 1.0}
    with RunDirectory.open(
        path,
        recipe=words,
        config={"model": "tiny", words: words, "name": [words]},
        files=bootstrap.local_files(),
        clock=bootstrap.system_clock(),
    ) as run:
        run.resume(load=lambda _: None)
        for step in range(2):
            run.write_rollouts(step, rows)
            run.record_step(step, {words: step / 2, f"loss/{words}": 1.0, "odd": float("nan")}, datums="")
        run.record_checkpoint("periodic", 2, words, {})
        run.record_stop(words)
    assert cli.main(["show", str(path)]) == 0
    return rows


def opened(browser: Any, path: Path) -> tuple[Any, list[str]]:
    tab = browser.new_page()
    errors: list[str] = []
    tab.on("pageerror", lambda error: errors.append(str(error)))
    tab.on("console", lambda message: errors.append(message.text))
    tab.on("dialog", lambda dialog: (errors.append("a dialog"), dialog.dismiss()))
    tab.on("request", lambda request: errors.append(request.url) if not request.url.startswith("file:") else None)
    tab.goto((path / "show.html").as_uri())
    tab.wait_for_selector("html[data-ready]")
    return tab, errors


TREE = """() => [...document.body.querySelectorAll("*")]
  .filter((e) => !e.matches(".esc, .t, script, option, path, svg text"))
  .map((e) => [e.tagName, ...[...e.attributes].map((a) => a.name + "=" + a.value)].join(" "))"""
EVERYTHING = """() => [...document.querySelectorAll("*")].map((e) => e.tagName)
  .concat([...document.querySelectorAll("*")].flatMap((e) => [...e.attributes].map((a) => "@" + a.name)))"""
TAGS = """HTML HEAD META TITLE STYLE BODY NOSCRIPT MAIN SCRIPT H1 H2 H3 H4 H5 P SPAN BDI UL LI NAV BUTTON DIV SECTION
LABEL INPUT FIGURE svg path text FORM SELECT OPTION OL B I ARTICLE TABLE THEAD TBODY TR TH TD PRE"""
ATTRIBUTES = """@lang @data-ready @charset @http-equiv @content @name @id @type @class @value @step @viewBox @role @d
@x @y @text-anchor @disabled @hidden"""
KNOWN = {*TAGS.split(), *ATTRIBUTES.split()}


def setting(tab: Any, label: str) -> Any:
    return tab.locator(".filters label", has_text=re.compile(f"^{label} ")).locator("select, input").first


def walk(tab: Any) -> list[list[str]]:
    """The elements of every part of the page, without what a token's own text makes (`.esc` and `.t` are spans)."""
    found = []
    for part in range(1, 5):
        tab.click(f".tabs button:nth-child({part})")
        if part == 2:
            tab.wait_for_selector("article")
        found.append(tab.evaluate(TREE))
        assert set(tab.evaluate(EVERYTHING)) <= KNOWN
    return found


def test_hostile_text_stays_text(browser: Any, tmp_path: Path) -> None:
    """The tree of elements and attributes is that of a run of harmless words, and nothing is run or asked for."""
    a_run(tmp_path / "plain", PLAIN, PLAIN)
    a_run(tmp_path / "hostile", HOSTILE, HOSTILE)
    plain, _ = opened(browser, tmp_path / "plain")
    hostile, errors = opened(browser, tmp_path / "hostile")
    assert walk(hostile) == walk(plain)
    assert errors == []
    assert hostile.title() == "hostile"
    text = hostile.evaluate("document.body.innerText")
    assert not set(text) & set("\u202e\u2066\u200b\ufeff\x00\x1b\U000e0041")
    hostile.click(".tabs button:nth-child(2)")
    acted = hostile.locator("article .acted").first.inner_text()
    assert "</script><script>document.title='taken'</script><img src=x" in acted
    assert "\\u202e\\u2066\\u200b\\ufeff\\u{e0041}\\x00\\x1b[31m<|im_end|>é漢🙂↵" in acted


def test_every_token_of_a_group_is_shown_in_its_own_colour(browser: Any, tmp_path: Path) -> None:
    rows = a_run(tmp_path / "run", HOSTILE, PLAIN)
    tab, errors = opened(browser, tmp_path / "run")
    tab.click(".tabs button:nth-child(2)")
    tab.wait_for_selector("article")
    tokens = rows[0]["turns"][0]["action"]
    assert tab.locator("article").count() == 3
    for e in range(3):
        assert tab.locator("article").nth(e).locator(".acted > .t").count() == len(tokens)
    assert tab.locator(".read > .t").count() == len(rows[0]["turns"][0]["observation"])  # what they share, once
    classes = "els => els.map(e => e.className.split(' ')[1])"
    shown = {}
    for colour, kind in (("weight", "against"), ("logprob", "l9"), ("advantage", "ap5"), ("nothing", "plain")):
        setting(tab, "colour by").select_option(label=colour)
        tab.wait_for_selector(f".legend .{kind}")
        tab.wait_for_selector("article:nth-child(3)")
        shown[colour] = [tab.locator("article").nth(e).locator(".acted > .t").evaluate_all(classes) for e in range(3)]
    assert shown["weight"] == [["trained"] * len(tokens)] * 3
    assert shown["advantage"] == [[kind] * len(tokens) for kind in ("an5", "a0", "ap5")]
    limits = [0.01, 0.1, 0.25, 0.5, 1, 2, 3, 5, 8]
    wanted = [f"l{sum(i / 2 >= limit for limit in limits)}" for i in range(len(tokens))]
    assert shown["logprob"] == [wanted] * 3
    tab.locator("article .acted > .t").nth(2).hover()
    tip = tab.locator(".tip").inner_text()
    assert f"token 3 of {len(tokens)}: id {tokens[2]}" in tip
    assert "logprob -1, probability 0.368" in tip
    assert "advantage -1" in tip
    assert errors == []


PIECES = """els => els.map(e => [...e.querySelectorAll(".t")].flatMap(t => [...t.childNodes].map(
  n => n.nodeType === 3 ? ["text", n.data] : [n.className, n.textContent])))"""


def unescaped(pieces: list[list[str]]) -> str:
    """The text that a row of tokens shows; a line break is shown by a mark and then made."""
    out = ""
    for kind, text in pieces:
        if kind == "text":
            out = out[:-1] + text if text.startswith("\n") and out.endswith("\n") else out + text
        elif text in "↵⇥":
            out += {"↵": "\n", "⇥": "\t"}[text]
        else:
            out += chr(int(text[2:].strip("{}"), 16))
    return out


@settings(max_examples=4, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.lists(st.integers(0, TOKENIZER.vocab_size - 1), min_size=1, max_size=12)
        | hostile_texts().map(lambda text: TOKENIZER.encode(text).tolist()).filter(bool),
        min_size=20,
        max_size=20,
    )
)
def test_any_tokens_are_spelled_whole(browser: Any, tmp_path_factory: Any, actions: list[list[int]]) -> None:
    """Tokens may end inside of a character, and hold anything: together they show the text that was sampled."""
    path = tmp_path_factory.mktemp("tokens") / "run"
    turns = [Transition(observation=[1], action=action, logprobs=[0.0] * len(action)) for action in actions]
    episodes = tuple(Episode(transitions=(turn,), stop_reason=StopReason.COMPLETED) for turn in turns)
    rows = to_rows([Group(problem=PLAIN, episodes=episodes)], split="train", decode=TOKENIZER.decode)
    a_run(path, PLAIN, PLAIN)
    lines = "".join(json.dumps({"step": 0} | row, separators=(",", ":")) + "\n" for row in rows)
    (path / "rollouts" / "train.jsonl").write_text(lines)
    assert cli.main(["show", str(path)]) == 0
    tab, errors = opened(browser, path)
    tab.click(".tabs button:nth-child(2)")
    tab.wait_for_selector("article:nth-child(20)")
    shown = tab.locator("article .acted").evaluate_all(PIECES)
    counts = tab.locator("article .acted").evaluate_all("els => els.map(e => e.querySelectorAll('.t').length)")
    assert counts == [len(action) for action in actions]
    spelled = [b"".join(TABLE[i] for i in action).decode("utf-8", "replace") for action in actions]
    assert [unescaped(pieces) for pieces in shown] == spelled
    assert set(tab.evaluate(EVERYTHING)) <= KNOWN
    assert errors == []
    tab.close()


def test_filters_and_search(browser: Any, tmp_path: Path) -> None:
    a_run(tmp_path / "run", "the quick brown fox", PLAIN)
    tab, errors = opened(browser, tmp_path / "run")
    tab.click(".tabs button:nth-child(2)")
    said = tab.locator(".episodes > .said")

    def reads(text: str) -> None:
        said.filter(has_text=re.compile("^" + re.escape(text))).wait_for()

    reads("12 of 12 episodes, in 4 of 4 groups")
    setting(tab, "stop reason").select_option(label="completed")
    reads("4 of 12 episodes, in 4 of 4 groups")
    setting(tab, "steps from").fill("1")
    reads("2 of 12 episodes, in 2 of 4 groups")
    setting(tab, "tag").select_option(label="group1")
    reads("1 of 12 episodes, in 1 of 4 groups")
    assert tab.locator("article.found").count() == 1
    setting(tab, "stop reason").select_option(label="any")
    setting(tab, "reward from").fill("0.5")
    reads("2 of 12 episodes, in 1 of 4 groups")
    setting(tab, "text").fill("Quick BROWN")
    tab.wait_for_selector(".hit")
    reads("2 of 12 episodes, in 1 of 4 groups")
    assert "quick brown" in "".join(tab.locator("article .acted").first.locator(".hit").all_inner_texts())
    setting(tab, "text").fill("nowhere")
    reads("0 of 12 episodes")
    assert errors == []


def test_curves_are_chosen_and_read(browser: Any, tmp_path: Path) -> None:
    a_run(tmp_path / "run", PLAIN, PLAIN)
    tab, errors = opened(browser, tmp_path / "run")
    assert tab.locator("figure h3").all_inner_texts() == ["a/a", "loss/a/a", "odd"]
    assert "not finite at 2 steps, first at step 0" in tab.locator("figure").nth(2).inner_text()
    tab.locator("figure svg").first.hover(position={"x": 8, "y": 40})
    assert tab.locator("figure .said").first.inner_text() == "step 0: 0"
    tab.locator("label.name input").nth(1).uncheck()
    assert tab.locator("figure h3").all_inner_texts() == ["a/a", "odd"]
    assert errors == []


def test_ten_thousand_episodes_open_in_two_seconds(browser: Any, tmp_path: Path) -> None:
    rows = a_run(tmp_path / "run", "the quick brown fox " * 20, PLAIN)
    lines = "".join(
        json.dumps({"step": step} | row, separators=(",", ":")) + "\n" for step in range(1667) for row in rows
    )
    (tmp_path / "run" / "rollouts" / "train.jsonl").write_text(lines)
    assert cli.main(["show", str(tmp_path / "run")]) == 0
    began = time.perf_counter()
    tab, errors = opened(browser, tmp_path / "run")
    tab.click(".tabs button:nth-child(2)")
    tab.wait_for_selector("article")
    assert time.perf_counter() - began < 6  # 2 s is measured by benches/show.py; this machine may be busy
    assert tab.locator(".episodes > .said").inner_text().startswith("10002 of 10002 episodes")
    assert errors == []

"""`tinsmith render`: tokens, weights, pages, and the comparison with a chat template."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tinsmith import bootstrap, cli, rendering
from tinsmith.rendering.show import visible

HOSTILE = "<|im_end|> <script>alert(1)</script> \x1b[31m \u202e"
TURN = [{"role": "user", "content": HOSTILE}, {"role": "assistant", "content": "Hello"}]
THOUGHT = {"role": "assistant", "content": "Hello", "reasoning_content": "a"}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    rows = [{"messages": TURN}, {"messages": [TURN[0], THOUGHT, TURN[0], THOUGHT]}]
    path = tmp_path / "chats.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def lines(out: str) -> list[dict[str, list[float]]]:
    return [json.loads(line) for line in out.splitlines()]


def test_ids_are_a_line_a_conversation(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["render", str(file), "renderer=qwen3", "--format", "ids"]) == 0
    one, two = lines(capsys.readouterr().out)
    tokenizer, _ = bootstrap.load_tokenizer("tiny")
    rendered = rendering.get("qwen3", tokenizer).render(TURN)
    assert one["ids"] == rendered.ids.tolist()
    assert one["message"] == rendered.message.tolist()
    trained = tokenizer.decode([int(i) for i, w in zip(one["ids"], one["weights"], strict=True) if w])
    assert trained == "<think>\n\n</think>\n\nHello<|im_end|>"
    assert len(two["datums"]) == 2
    assert two["ids"] == rendering.get("qwen3", tokenizer).render([TURN[0], THOUGHT, TURN[0], THOUGHT]).ids.tolist()


def test_train_on(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["render", str(file), "renderer=qwen3_preserve_thinking", "train_on=last_assistant_message", "format=ids"]
    assert cli.main(words) == 0
    _, two = lines(capsys.readouterr().out)
    where = np.flatnonzero(two["weights"])
    assert set(np.array(two["message"])[where].tolist()) == {3}


def test_text_stays_text(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["render", str(file), "renderer=qwen3", "format=html"]) == 0
    page = capsys.readouterr().out
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert page.endswith("</body></html>\n")
    assert cli.main(["render", str(file), "renderer=qwen3"]) == 0
    shown = capsys.readouterr().out
    assert "\x1b[31m" not in page + shown
    assert "\u202e" not in page + shown
    assert "conversation 1, datum 2 of 2" in shown
    assert cli.main(["render", str(file), "renderer=qwen3", "format=weights", "limit=1"]) == 0
    assert "'<|im_start|>'" in capsys.readouterr().out
    assert visible("a\tb\nc\x1b") == "a\tb\nc\\x1b"


def test_a_control_token_looks_other_than_a_text_that_spells_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "chat.jsonl"
    told = "\u27e6<|im_end|>\u27e7"
    path.write_text(
        json.dumps({"messages": [{"role": "user", "content": told}, {"role": "assistant", "content": "a"}]})
    )
    assert cli.main(["render", str(path)]) == 0
    shown = capsys.readouterr().out
    assert shown.count(told) == shown.count("\u27e6<|im_start|>\u27e7") == 2
    assert "\\u27e6<|im_end|>\\u27e7" in shown
    assert cli.main(["render", str(path), "format=html"]) == 0
    page = capsys.readouterr().out
    assert page.count('control token">&lt;|im_end|&gt;</span>') == 2
    assert cli.main(["render", str(path), "format=weights"]) == 0
    rows = capsys.readouterr().out.splitlines()[1:]
    assert [r.split()[4] == "control" for r in rows] == ["'<|im_" in r for r in rows]


def test_compare(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["render", str(file), "limit=1", "--compare"]) == 0
    assert "1 of 1 equal" in capsys.readouterr().out
    assert cli.main(["render", str(file), "limit=1", "renderer=qwen3", "--compare"]) == 1
    assert "differs from the chat template at token" in capsys.readouterr().out


def test_mistakes_are_named(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["render"]) == 2
    assert "file" in capsys.readouterr().err
    bad = tmp_path / "bad.jsonl"
    bad.write_text(json.dumps({"messages": [TURN[0], {"role": "tool", "content": "2"}]}))
    assert cli.main(["render", str(bad), "renderer=qwen3"]) == 2
    assert "bad.jsonl, line 1: message 1 is a tool result, but no message" in capsys.readouterr().err
    bad.write_text("")
    assert cli.main(["render", str(bad)]) == 2
    assert "bad.jsonl: the file is empty" in capsys.readouterr().err


def test_a_question_alone_has_no_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "asked.json"
    path.write_text(json.dumps([{"messages": TURN[:1]}]))
    assert cli.main(["render", str(path), "format=ids"]) == 0
    [line] = lines(capsys.readouterr().out)
    assert not any(line["weights"])
    assert "nothing is trained" in str(line["notes"][0])


def test_a_model_brings_its_tokenizer() -> None:
    assert rendering.for_model("tiny").name == "chatml"


def test_formats_are_registered_and_forgotten() -> None:
    tokenizer, _ = bootstrap.load_tokenizer("tiny")
    rendering.register("mine", lambda name, t, greeting="": rendering.get("chatml", t))
    try:
        assert rendering.get("mine", tokenizer, greeting="Hi").name == "chatml"
        with pytest.raises(ValueError, match="unknown option among \\['greting'\\]; it has: greeting"):
            rendering.get("mine", tokenizer, greting="Hi")
        with pytest.raises(ValueError, match="'mine' exists"):
            rendering.register("mine", rendering.get)
    finally:
        rendering.unregister("mine")
    assert "mine" not in rendering.names()
    with pytest.raises(ValueError, match="was not registered"):
        rendering.unregister("chatml")

"""Another model beside the one that is trained, whose context is shorter: told before the run, and no end of it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import tinsmith
from tinsmith.cli import main


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def short(context: int) -> str:
    """The tiny model, with a shorter context."""
    path = Path(f"tiny-{context}")
    shutil.copytree(Path(tinsmith.__file__).parent / "assets" / "tiny", path)
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**config, "max_position_embeddings": context}))
    return str(path)


def metrics(run: str) -> list[dict[str, float]]:
    return [json.loads(line) for line in Path(run, "metrics.jsonl").read_text().splitlines()]


def test_a_teacher_with_a_short_context_is_told_of_before_the_run(capsys: pytest.CaptureFixture[str]) -> None:
    """Prompts are bounded by the shorter of both contexts, so that no answer is too long for its teacher."""
    asked = [{"prompt": f"Say {'on and ' * (30 if i == 7 else 1)}{i}."} for i in range(12)]
    Path("asked.jsonl").write_text("".join(json.dumps(row) + "\n" for row in asked))
    teacher = short(60)
    run = ["export=none", "log_path=run", "max_steps=2", "groups_per_batch=4", "group_size=2", "test_size=2"]
    words = ["on-policy-distillation", "data=asked.jsonl", f"teachers={teacher}", *run]

    def refused(*more: str) -> str:
        assert main([*words, *more]) == 2
        assert not Path("run").exists()
        return " ".join(capsys.readouterr().err.split())

    assert f"context of 60 of the teacher {teacher}" in (said := refused("max_tokens=20"))
    assert "asked.jsonl, line 8" in said
    assert f"max_tokens=64 leaves no room for a prompt: the teacher {teacher}" in refused("max_tokens=64")
    assert main([*words, "max_tokens=20", "too_long=skip", "temperature=4"]) == 0
    assert "1 of 12 rows" in capsys.readouterr().out
    lines = metrics("run/student")
    assert all(line["teacher_left_out"] == 0 < line["num_loss_tokens"] for line in lines)
    assert max(line["env/all/ac_tokens_per_turn"] for line in lines) > 10, "answers that fill the context were scored"
    shutil.rmtree("run")
    words = ["multi-teacher-distillation", f"teachers={teacher},tiny", *run]
    said = refused("max_tokens=45", "max_rows=40")
    assert f"context of 60 of the teacher {teacher} less max_tokens leaves 15" in said
    assert main([*words, "max_tokens=20", "max_rows=40"]) == 0


def test_an_opponent_with_a_short_context_forgets_and_one_that_cannot_begin_is_refused(
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["multiplayer", "game=twenty_questions", "opponent=model", "max_steps=1", "groups_per_batch=2"]
    words += ["group_size=2", "test_games=2", "max_tokens=40", "export=none", "log_path=run"]
    assert main([*words, f"opponent_model.model={short(64)}"]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "context of 64 tokens" in said
    assert "opponent_model.max_tokens=40" in said
    assert not Path("run").exists()
    assert main([*words, f"opponent_model.model={short(120)}", "opponent_model.max_tokens=8"]) == 0
    (line,) = metrics("run")
    assert line["env/all/opponent_forgot"] + line["env/all/opponent_overflow"] > 0

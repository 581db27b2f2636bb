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

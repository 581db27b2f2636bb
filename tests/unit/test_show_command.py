"""`tinsmith show`: one page of any run directory, whole, running, old or damaged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from read_page import Elements, read_episodes, read_index
from tinsmith import bootstrap, cli
from tinsmith.recipes import show
from tinsmith.workflows.journal import RunDirectory

OLD = {
    "step": 0,
    "version": 1,
    "split": "train",
    "group": 0,
    "episode": 0,
    "problem": "p",
    "tags": [],
    "reward": 1.0,
    "final_reward": 0.0,
    "stop_reason": "completed",
    "metrics": {},
    "turns": [
        {
            "observation": [1, 205],
            "action": [23, 27],
            "logprobs": [-0.5, "-Infinity"],
            "reward": 1.0,
            "policy_version": 0,
            "truncated": False,
            "masked": False,
            "metrics": {"correct": 1.0},
            "prompt": "?",
            "text": bootstrap.load_tokenizer("tiny")[0].decode([23, 27]),
        }
    ],
}
"""A row as the first version wrote it, without advantages and weights."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run"


def opened(path: Path, **config: object) -> RunDirectory:
    run = RunDirectory.open(
        path,
        recipe="rl-basic",
        config={"model": "tiny"} | config,
        files=bootstrap.local_files(),
        clock=bootstrap.system_clock(),
    )
    run.resume(load=lambda _: None)
    return run


def a_run(path: Path, rows: str = json.dumps(OLD) + "\n", **config: object) -> None:
    with opened(path, **config) as run:
        run.record_step(0, {"env/all/correct": 0.5, "final/test/nll": 1.5, "odd": float("nan")}, datums="")
        run.record_checkpoint("final", 1, "elsewhere", {})
        run.finish("max_steps")
    (path / "rollouts").mkdir(exist_ok=True)
    (path / "rollouts" / "train.jsonl").write_text(rows)


def page(path: Path) -> Elements:
    return Elements((path / "show.html").read_bytes())


def test_a_page_lies_in_the_run_directory_or_where_it_is_wanted(
    path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a_run(path)
    before = {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}
    assert cli.main(["show", str(path)]) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"{path / 'show.html'}: 1 steps, 1 episodes, 4 tokens; ")
    assert len(said.splitlines()) == 1
    assert {file: file.read_bytes() for file in before} == before
    other = tmp_path / "other.html"
    assert cli.main(["show", str(path), f"out={other}"]) == 0
    index = read_index(Elements(other.read_bytes()))
    assert index["run"]["state"] == "finished"
    assert index["metrics"]["steps"] == [0, 1]  # what was measured of the final weights comes after the last step
    columns = dict(zip(index["metrics"]["names"], index["metrics"]["values"], strict=True))
    assert columns == {"env/all/correct": [0.5, None], "odd": ["NaN", None], "test/nll": [None, 1.5]}
    assert index["config"] == [["model", '"tiny"']]
    assert [row[:3] for row in index["checkpoints"]] == [["000001-final", "final", 1]]
    assert [row[1] for row in index["events"]] == ["started", "finished"]


def test_a_page_is_opened_on_request(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    monkeypatch.setattr("tinsmith.recipes.show.webbrowser.open", seen.append)
    a_run(path)
    assert cli.main(["show", str(path), "--open"]) == 0
    assert seen == [(path / "show.html").as_uri()]


def test_a_run_that_still_runs_is_shown(path: Path) -> None:
    """The row that is being written is left out, and so is the record."""
    with opened(path) as run:
        run.record_step(0, {"a": 1}, datums="")
        run.write_rollouts(1, [OLD, OLD])
        with (path / "journal.jsonl").open("ab") as journal, (path / "rollouts/train.jsonl").open("ab") as rollouts:
            journal.write(b'{"crc":"1234')
            rollouts.write(b'{"step":1,"vers')
        assert cli.main(["show", str(path)]) == 0
    index = read_index(page(path))
    assert index["run"]["state"] == "running"
    assert index["run"]["steps"] == 1
    assert len(read_episodes(page(path))) == 2
    (note,) = index["notes"]
    assert note.endswith("train.jsonl, line 3: it has no end: it is being written, or was torn")


def test_damage_is_named_and_the_rest_is_shown(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    turn = OLD["turns"][0]
    bad = [
        "not json",
        json.dumps([1]),
        json.dumps(OLD | {"turns": [turn | {"logprobs": [-1]}]}),
        json.dumps(OLD | {"turns": [turn | {"action": [-5, 1]}]}),
        json.dumps(OLD | {"turns": [turn | {"advantages": [1, 2, 3]}]}),
        json.dumps(OLD | {"step": "\u202e"}),
        json.dumps({key: value for key, value in OLD.items() if key != "problem"}),
        json.dumps(OLD | {"reward": None}),
    ]
    a_run(path, "\n".join([json.dumps(OLD), *bad, json.dumps(OLD | {"episode": 1})]) + "\n")
    assert cli.main(["show", str(path)]) == 0
    said = capsys.readouterr().out
    assert [f"line {i}: not a rollout" in said for i in range(1, 12)] == [False] + [True] * 8 + [False] * 2
    assert "\u202e" not in said
    found = read_episodes(page(path))
    assert [episode["member"] for episode in found] == [0, 1]
    assert found[0]["turns"][0]["logprobs"].tolist() == [-0.5, float("-inf")]


def test_a_damaged_journal_is_shown_up_to_the_damage(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with opened(path) as run:
        for step in range(4):
            run.record_step(step, {"a": step}, datums="")
        run.finish("max_steps")
    journal = path / "journal.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    lines[3] = lines[3].replace(b"step", b"stop")
    journal.write_bytes(b"".join(lines))
    assert cli.main(["show", str(path)]) == 0
    assert "line 4: the record is damaged" in " ".join(capsys.readouterr().out.split())
    assert read_index(page(path))["metrics"]["values"] == [[0, 1]]


def test_a_run_without_rollouts_has_a_page(path: Path) -> None:
    with opened(path):
        pass
    assert cli.main(["show", str(path)]) == 0
    index = read_index(page(path))
    assert index["episodes"]["columns"]["step"] == []
    assert index["run"]["state"] == "killed"


def test_what_is_no_run_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "file").write_text("")
    for name, why in [("missing", "no such run directory"), ("sub", "holds no run"), ("file", "a file, not a run")]:
        assert cli.main(["show", str(tmp_path / name)]) == 2
        assert why in capsys.readouterr().err
    a_run(tmp_path / "sub" / "run")
    assert cli.main(["show", str(tmp_path / "sub")]) == 2
    assert "sub/run" in capsys.readouterr().err.replace("\n", "")
    assert cli.main(["show", str(tmp_path / "sub" / "run"), f"out={tmp_path / 'no' / 'where'}"]) == 2
    assert "out=FILE" in capsys.readouterr().err


def test_tokens_without_their_tokenizer_keep_their_logged_text(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a_run(path, model="/no/such/model")
    assert cli.main(["show", str(path)]) == 0
    assert "tokens are shown by their ids" in capsys.readouterr().out
    index = read_index(page(path))
    assert index["vocabulary"]["bytes"] is None
    assert index["vocabulary"]["ids"] == [1, 23, 27, 205]
    assert cli.main(["show", str(path), "tokenizer=tiny"]) == 0
    assert "ids" not in capsys.readouterr().out
    assert cli.main(["show", str(path), "tokenizer=/no/such/model"]) == 2


def test_a_tokenizer_of_another_model_is_noticed(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = OLD | {"turns": [OLD["turns"][0] | {"text": "other"}]}
    a_run(path, json.dumps(row) + "\n")
    assert cli.main(["show", str(path)]) == 0
    assert "it is another one" in capsys.readouterr().out


def test_of_a_run_too_large_steps_are_left_out_evenly(path: Path) -> None:
    rows = [json.dumps(OLD | {"step": step, "episode": e}) + "\n" for step in range(100) for e in range(2)]
    a_run(path, "".join(rows))
    config = show.Config(run=path)
    assert config.limit_mb * 1_000_000 > sum(map(len, rows))
    shown = show.show_run(path, bootstrap.local_files(), tokenizer=None, now=0.0, limit_bytes=sum(map(len, rows)) // 3)
    steps = [episode["step"] for episode in read_episodes(Elements(shown.data))]
    assert steps == [step for step in range(100) if step % 4 == 0 or step == 99 for _ in range(2)]
    assert "of 100 steps are shown, evenly spaced" in shown.notes[0]


RL = ["rl-basic", "max_steps=2", "groups_per_batch=2", "group_size=2", "test_size=0", "export=none", "lora.rank=4"]


def test_an_evaluation_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "e"
    assert cli.main(["eval", "arithmetic", "size=6", "n=2", f"log_path={path}"]) == 0
    results = json.loads((path / "results.json").read_text())
    before = {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}
    capsys.readouterr()
    assert cli.main(["show", str(path)]) == 0
    assert "6 problems, 12 episodes" in capsys.readouterr().out
    assert {file: file.read_bytes() for file in before} == before
    index = read_index(page(path))
    about = index["run"]
    assert (about["state"], about["recipe"], about["model"]) == ("finished", "eval arithmetic", "tiny")
    assert (about["steps"], about["total"], about["unit"]) == (6, 6, "problems")
    columns = dict(zip(index["metrics"]["names"], index["metrics"]["values"], strict=True))
    assert columns["score"] == [results["score"]["value"]]
    assert index["vocabulary"]["bytes"] is not None
    episodes = read_episodes(page(path))
    rows = [json.loads(line) for line in (path / "trajectories.jsonl").read_text().splitlines()]
    assert [list(e["turns"][0]["action"]) for e in episodes] == [row["turns"][0]["action"] for row in rows]
    assert cli.main(["eval", "arithmetic", "size=9", "n=2", f"log_path={path}"]) == 0
    (path / "results.json").unlink()  # as after a kill before the first was written
    assert cli.main(["show", str(path)]) == 0
    assert (read_index(page(path))["run"]["state"], read_index(page(path))["run"]["steps"]) == ("killed", 9)


def test_a_large_evaluation_is_shown_in_part(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "e"
    assert cli.main(["eval", "arithmetic", "size=6", "n=2", f"log_path={path}"]) == 0
    file = path / "trajectories.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    padded = [row | {"turns": [row["turns"][0] | {"prompt": "x" * 200_000}]} for row in rows]
    file.write_text("".join(json.dumps(row, separators=(",", ":")) + "\n" for row in padded))
    assert cli.main(["show", str(path), "limit_mb=1"]) == 0
    assert "one problem in 3" in capsys.readouterr().out
    kept = [row for row in rows if row["group"] % 3 == 0]
    assert len(read_episodes(page(path))) == len(kept) == 4


def test_evaluations_on_the_way_are_shown_with_their_run_and_by_themselves(tmp_path: Path) -> None:
    path = tmp_path / "run"
    evals = ["evals=arithmetic", "evaluation.size=3", "eval_every=1"]
    assert cli.main([*RL, *evals, f"log_path={path}"]) == 0
    assert cli.main(["show", str(path)]) == 0
    index = read_index(page(path))
    columns = index["episodes"]["columns"]
    assert index["episodes"]["files"] == ["train", "evals/arithmetic"]
    steps = [(index["episodes"]["files"][f], s) for f, s in zip(columns["file"], columns["step"], strict=True)]
    assert steps == [("train", s) for s in (0, 1) for _ in range(4)] + [
        ("evals/arithmetic", s) for s in (0, 1, 2) for _ in range(3)
    ]
    names = dict(zip(index["metrics"]["names"], index["metrics"]["values"], strict=True))
    assert all(value is not None for value in names["test/arithmetic/score"])
    one = path / "evals" / "arithmetic" / "000002"
    assert cli.main(["show", str(one)]) == 0
    found = read_index(page(one))
    assert found["vocabulary"]["bytes"] is not None, "its run says which tokenizer"
    assert found["run"]["recipe"] == "eval arithmetic"

"""Every command and program in README and docs runs."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FENCE = re.compile(r"^```(console|python)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(page: Path) -> list[tuple[str, str]]:
    return FENCE.findall(page.read_text())


def run(argv: list[str], where: Path, exported: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
    return subprocess.run(
        argv,
        cwd=where,
        env={"PATH": path, "HOME": str(where), "PYTHONPATH": str(ROOT / "src"), **(exported or {})},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


@pytest.mark.parametrize(
    "page",
    [
        *("README.md", "docs/tutorial.md", "docs/runs.md", "docs/evaluation.md"),
        *("docs/environments.md", "docs/sandboxes.md"),
    ],
)
def test_a_page_runs_from_top_to_bottom(page: str, tmp_path: Path) -> None:
    found = blocks(ROOT / page)
    assert found, f"{page} holds nothing that runs"
    run_blocks(found, tmp_path)


PARTS = ("# Recipes", "## dpo", "## on-policy-distillation and multi-teacher-distillation")
"""Headings at which the page of all recipes is parted, for its time; a part uses no file of another."""


@pytest.mark.parametrize("number", range(len(PARTS)))
def test_the_recipes_run_from_top_to_bottom(number: int, tmp_path: Path) -> None:
    text = (ROOT / "docs" / "recipes.md").read_text()
    starts = [*(text.index(f"{heading}\n") for heading in PARTS), len(text)]
    found = FENCE.findall(text[starts[number] : starts[number + 1]])
    assert found
    run_blocks(found, tmp_path)


@pytest.mark.parametrize("page", ["tinker.md", "serve.md", "laptop.md"])
def test_a_page_runs_against_the_server_that_it_starts(page: str, tmp_path: Path) -> None:
    pytest.importorskip("tinker", reason="needs the extra: tinker")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    text = (ROOT / "docs" / page).read_text().split("## tinker-cookbook")[0]  # its commands run in `make cookbook`
    found = [(kind, block.replace("8177", port)) for kind, block in FENCE.findall(text)]
    started, rest = found[0][1].split("\n", 1)
    assert started.startswith("$ tinsmith serve")
    assert started.endswith("&")
    server = subprocess.Popen(
        [sys.executable, "-m", *started[2:-2].split()],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        for _ in range(300):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", int(port)), 1.0):
                break
            time.sleep(0.1)
        run_blocks([("console", rest), *found[1:]], tmp_path)
    finally:
        server.terminate()
        server.wait(30)


def run_blocks(found: list[tuple[str, str]], tmp_path: Path) -> None:
    exported: dict[str, str] = {}
    for kind, text in found:
        if kind == "python":
            done = run([sys.executable, "-c", text], tmp_path, exported)
            assert done.returncode == 0, f"{text}\n{done.stderr}"
            continue
        for line in text.splitlines():
            if not line.startswith("$ "):
                continue
            command, _, comment = line[2:].partition("   # ")
            if command.startswith("export "):
                exported |= dict(pair.split("=", 1) for pair in command.split()[1:])
                continue
            command = re.sub(r"^tinsmith\b", f"{sys.executable} -m tinsmith", command)
            done = run(["bash", "-c", command], tmp_path, exported)
            fails = comment.strip() == "fails"
            assert (done.returncode != 0) == fails, f"{command}\n{done.stdout}\n{done.stderr}"
            if fails:
                assert "line 6" in done.stderr, done.stderr

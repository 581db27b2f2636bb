"""Record what the families' own libraries write: tests/data/oracles. `make oracles`.

Inkling and Mistral have no chat template that says all; tml-renderers (which needs torch) and mistral-common write
their formats, and the library `renderers` writes tools as Kimi is shown them. What they give for the cases of
tests/families/cases.py is kept as token ids (of tools: bytes), for the real conversations as a digest each, so that the
comparison runs without them.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "families")]

from cases import CASES, Case  # noqa: E402
from oracles import FOLDER, PACKAGES, digest, neutral  # noqa: E402
from table import real_conversations  # noqa: E402

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer", required=True, help="a Python with tml-renderers, mistral-common and renderers")
    peer = parser.parse_args().peer
    shared = Path(os.environ.get("TINSMITH_SHARED", ROOT.parent / "shared"))
    chats = real_conversations(shared / "data" / "chat")
    cases = {name: case for name, case in CASES.items() if not case.prefill}  # these libraries have none
    asked = [neutral(case) for case in (*cases.values(), *(Case(c.messages, tools=c.tools) for c in chats))]
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, package in PACKAGES.items():
        run = subprocess.run(
            [peer, str(ROOT / "tools" / "record_oracles_peer.py"), name],
            input=json.dumps(asked),
            capture_output=True,
            text=True,
            check=False,
            timeout=1200,
        )
        if run.returncode:
            sys.exit(run.stderr)
        found = json.loads(run.stdout)
        kept = {
            "package": package,
            "cases": dict(zip(cases, found, strict=False)),
            "chats": [digest(one["ids"]) if "ids" in one else one["refused"] for one in found[len(cases) :]],
        }
        (FOLDER / f"{name}.json").write_text(json.dumps(kept) + "\n", encoding="utf-8")
        refused = sum("refused" in one for one in found)
        print(f"{name}: {len(found)} rendered by {package}, {refused} of them refused")

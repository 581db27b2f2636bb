"""Write docs/conformance.md: the laws that `tinsmith conform` checks. `make conformance`."""

from __future__ import annotations

from pathlib import Path

from tinsmith.testing.conformance import CHAPTERS, LAWS

TARGET = Path(__file__).resolve().parents[1] / "docs" / "conformance.md"
HEAD = """# Conformance: is this server true?

<!-- written by tools/conformance_table.py (make conformance) from the laws themselves -->

`tinsmith conform` checks any server of the Tinker protocol against {count} laws. It talks raw HTTP the way SDK 0.38.0
does, and needs neither the SDK nor the engine: `pip install "tinsmith[conform]"`.

    tinsmith conform http://localhost:8000                  # a server of your own
    tinsmith conform http://localhost:8000 model=NAME api_key=tml-...
    tinsmith conform law=sampling,gradient_accumulation     # laws or chapters, on a `tinsmith serve` of its own
    tinsmith conform http://localhost:8000 --json > findings.json

It prints a line a law: *holds*, *broken* (with what was seen and the smallest counter-example) or *not supported* (the
server refuses that as the user's mistake, or nothing can be seen of it). The exit code is 1 where a law is broken, else
0. A law about all batches, prompts or settings is tried on `examples=` drawn ones; the same `seed=` draws the same.

How it sees what a server hides: gradients and optimizer states are compared through logprobs. All plays begin at one
saved state. With a great eps Adam moves by the gradient times lr / eps, so sums, signs and sizes of gradients show;
with an eps near 0 the betas and the correction of their bias do. Two plays that the arithmetic makes equal must move
the logprobs alike, up to `tolerance=` of that movement and the noise that the server itself shows when the same is
played twice. Distributions are held to a chi-square test whose chance of a false alarm is one in a million.

It makes a session, some dozen small LoRA models (rank 8) and checkpoints; at the end it deletes these and finishes the
session. On
`tinsmith serve` with the tiny model, all of it took {cost}.

The kit is held to its word in turn: for each law there is a server with a fault that the law must find
(`tests/contracts/test_wire_laws_catch_faults.py`). From Python it is `tinsmith.testing.conformance`.
"""
COST = "about 6,300 requests and a minute on two busy cores (40 s of processor time)"


def document() -> str:
    parts = [HEAD.format(count=len(LAWS), cost=COST)]
    for chapter, about in CHAPTERS.items():
        parts.append(f"\n## {chapter}\n\n{about.strip()}\n\n| law | what it says | source |\n|---|---|---|\n")
        for law in LAWS.values():
            if law.chapter == chapter:
                parts.append(f"| `{law.name}` | {law.statement.replace('|', chr(92) + '|')} | {law.source} |\n")
    return "".join(parts)


if __name__ == "__main__":
    TARGET.write_text(document())
    print(f"wrote {TARGET}")

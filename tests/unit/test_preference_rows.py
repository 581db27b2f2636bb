"""Layouts of preference data, and what is no pair."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tinsmith.domain.errors import DataError
from tinsmith.domain.messages import Message
from tinsmith.domain.preference_rows import NoPreference, pair_from_row
from tinsmith.rendering import get
from tinsmith.testing import FakeTokenizer
from tinsmith.workflows.chat_examples import Example, LeftOut, Place
from tinsmith.workflows.preference import PairExamples

ASKED = {"role": "user", "content": "Which?"}


def said(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


LAYOUTS: dict[str, dict[str, Any]] = {
    "text": {"prompt": "Which?", "chosen": "this", "rejected": "that"},
    "messages": {"prompt": [ASKED], "chosen": [said("this")], "rejected": [said("that")]},
    "whole conversations": {
        "prompt": "Which?",
        "chosen": [ASKED, said("this")],
        "rejected": [ASKED, said("that")],
        "score_chosen": 8.0,
    },
    "sharegpt": {
        "conversations": [{"from": "human", "value": "Which?"}],
        "chosen": {"from": "gpt", "value": "this"},
        "rejected": {"from": "gpt", "value": "that"},
    },
    "hh-rlhf": {
        "chosen": "\n\nHuman: Which?\n\nAssistant: this",
        "rejected": "\n\nHuman: Which?\n\nAssistant: that",
    },
    "helpsteer3": {
        "context": [ASKED],
        "response1": "that",
        "response2": "this",
        "overall_preference": 2,
        "domain": "general",
    },
    "helpsteer3, the first": {"context": [ASKED], "response1": "this", "response2": "that", "overall_preference": -1},
    "ultrafeedback": {"instruction": "Which?", "chosen_response": "this", "rejected_response": "that", "source": "x"},
}


@pytest.mark.parametrize("row", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_every_layout_is_the_same_pair(row: dict[str, Any]) -> None:
    pair = pair_from_row(row)
    assert pair.prompt.messages == (Message.user("Which?"),)
    assert pair.chosen == (Message.assistant("this"),)
    assert pair.rejected == (Message.assistant("that"),)


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ({"prompt": "a", "chosen": "x", "rejected": "x"}, "are equal"),
        ({"prompt": "a", "chosen": "x", "rejected": "  "}, "one is empty"),
        ({"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "\n\nHuman: c\n\nAssistant: b"}, "different conv"),
        ({"chosen": "\n\nHuman: a\n\nHuman: b", "rejected": "\n\nHuman: a\n\nHuman: c"}, "do not end with the assist"),
        ({"context": [ASKED], "response1": "x", "response2": "y", "overall_preference": 0}, "preferred equally"),
        ({"chosen": [ASKED, said("a")], "rejected": [ASKED, said("b"), ASKED, said("c")]}, "different conversations"),
    ],
)
def test_what_prefers_nothing_says_why(row: dict[str, Any], why: str) -> None:
    with pytest.raises(NoPreference, match=why):
        pair_from_row(row)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"prompt": "a", "chosen": "x"}, "'rejected'"),
        ({"messages": [ASKED]}, "'chosen'"),
        ({"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "b"}, "must begin with"),
        ({"context": [ASKED], "response1": "x", "overall_preference": 1}, "'response2' must be text"),
        ({"context": [ASKED], "response1": "x", "response2": "y", "overall_preference": "1"}, "must be a number"),
        ({"instruction": 3, "chosen_response": "x", "rejected_response": "y"}, "'instruction' must be text"),
        ({"prompt": "a", "chosen": "x", "rejected": 7}, "'rejected'"),
    ],
)
def test_a_malformed_row_is_named(row: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError, match=said) as caught:
        pair_from_row(row, source="pairs.jsonl", line=4)
    assert not isinstance(caught.value, NoPreference)
    assert str(caught.value).startswith("pairs.jsonl, line 4: ")


def test_real_pairs_are_read(shared: Path) -> None:
    import gzip

    kept, left_out = 0, Counter[str]()
    with gzip.open(shared / "data" / "hh_rlhf" / "harmless_base_test.jsonl.gz", "rt") as file:
        for line, text in enumerate(file, 1):
            row = json.loads(text)
            try:
                pair = pair_from_row(row, source="hh", line=line)
            except NoPreference as error:
                left_out[error.why] += 1
                continue
            kept += 1
            assert row["chosen"].endswith(pair.chosen[-1].text)
            assert (
                len(pair.prompt.messages)
                == row["chosen"].count("\n\nHuman:") + row["chosen"].count("\n\nAssistant:") - 1
            )
    assert kept > 2200
    assert kept + sum(left_out.values()) == 2312
    for line, row in enumerate(json.loads((shared / "data" / "chat" / "dpo_en_demo.json").read_text()), 1):
        assert pair_from_row(row, source="dpo", line=line).chosen[-1].role == "assistant"


def places(*rows: dict[str, Any]) -> list[Place]:
    return [Place(row, "pairs", line) for line, row in enumerate(rows, 1)]


def test_a_pair_is_two_datums_that_train_their_answers() -> None:
    renderer = get("chatml", FakeTokenizer())
    (example,) = PairExamples(renderer=renderer, max_length=1000)(places(LAYOUTS["text"]))
    assert isinstance(example, Example)
    for datum, text in zip(example.datums, ("this", "that"), strict=True):
        trained = renderer.tokenizer.decode(datum.targets[datum.weights > 0])
        assert text in trained
        assert "Which" not in trained
    chosen, rejected = example.datums
    n = int(np.argmax(chosen.weights > 0))
    assert chosen.tokens[: n + 1].tolist() == rejected.tokens[: n + 1].tolist(), "after the same prompt"


def test_what_differs_beyond_the_cut_is_no_pair() -> None:
    renderer = get("chatml", FakeTokenizer())
    row = {"prompt": "a", "chosen": "x" * 50 + "this", "rejected": "x" * 50 + "that"}
    whole = PairExamples(renderer=renderer, max_length=1000)(places(row))[0]
    assert isinstance(whole, Example)
    length = whole.datums[0].num_tokens - 10
    cut = PairExamples(renderer=renderer, max_length=length)(places(row))[0]
    assert cut == LeftOut("have two answers that are equal")
    skipped = PairExamples(renderer=renderer, max_length=length, too_long="skip")(places(row))[0]
    assert skipped == LeftOut(f"are longer than {length} tokens")
    with pytest.raises(DataError, match=r"pairs, line 1: .*too_long"):
        PairExamples(renderer=renderer, max_length=length, too_long="raise")(places(row))

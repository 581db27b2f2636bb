"""Instructions that a program can check: which text follows one, strictly and loosely, and what an evaluation says."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinsmith import bootstrap, rendering
from tinsmith.cli import main
from tinsmith.domain.episodes import StopReason
from tinsmith.domain.errors import DataError
from tinsmith.envs.instruction_checks import CHECKS
from tinsmith.envs.instructions import (
    Instruction,
    InstructionSet,
    InstructionTask,
    needs_linguist,
    read_prompts,
)
from tinsmith.testing import FakeTokenizer, MemorySource, ScriptedSampler
from tinsmith.workflows.env_check import CheckSettings, check_env
from tinsmith.workflows.rollouts import RolloutLimits, RolloutPlan, roll_out


class Plain:
    """A Linguist for texts that say what they are."""

    def language(self, text: str) -> str | None:
        return "de" if "der" in text.lower() else "en" if any(c.isalpha() for c in text) else None

    def sentences(self, text: str) -> int:
        return text.count(".")

    def words(self, text: str) -> Sequence[str]:
        return text.split()


LINGUIST = Plain()

EXAMPLES: dict[str, list[tuple[dict[str, Any], list[str], list[str]]]] = {
    "keywords:existence": [({"keywords": ["moon", "su?n"]}, ["Sun and MOONS"], ["moon", ""])],
    "keywords:frequency": [
        ({"keyword": "a", "frequency": 2, "relation": "at least"}, ["Aha"], ["a", "ho"]),
        ({"keyword": "a", "frequency": 2, "relation": "less than"}, ["a", "ho"], ["Aha"]),
    ],
    "keywords:forbidden_words": [({"forbidden_words": ["rock"]}, ["rocks", "a sprocket"], ["ROCK!"])],
    "keywords:letter_frequency": [
        ({"letter": "#", "let_frequency": 2, "let_relation": "at least"}, ["#a #b"], ["#a"]),
        ({"letter": "T", "let_frequency": 2, "let_relation": "less than"}, ["The"], ["tT"]),
    ],
    "language:response_language": [({"language": "de"}, ["der Hund", "12 34"], ["the dog"])],
    "length_constraints:number_sentences": [({"num_sentences": 2, "relation": "less than"}, ["One."], ["One. Two."])],
    "length_constraints:number_words": [({"num_words": 3, "relation": "at least"}, ["it's so"], ["so so", "so-so"])],
    "length_constraints:number_paragraphs": [
        ({"num_paragraphs": 2}, ["a *** b", "*** a\n***\nb ***", "a\n\nb***c"], ["a", "a *** *** b", "a\n\nb"])
    ],
    "length_constraints:nth_paragraph_first_word": [
        (
            {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "But"},
            ["a b\n\nbut c", "a\n\n'\"But, c", "a\n\nbut\n\n"],
            ["a\n\nbutter", "but\n\na", "a\n\n\n\nbut", "a\n\nbut\n\nc", "a\nbut"],
        )
    ],
    "detectable_content:number_placeholders": [
        ({"num_placeholders": 2}, ["[a] [b]", "[[a]]] []"], ["[a]", "[a\n] [b]"])
    ],
    "detectable_content:postscript": [
        ({"postscript_marker": "P.S."}, ["end\np. s. more", "P.S.x"], ["PS more"]),
        ({"postscript_marker": "P.P.S"}, ["p.p. s: x"], ["P.S. x"]),
    ],
    "detectable_format:number_bullet_lists": [
        (
            {"num_bullets": 2},
            ["* a\n  - b", "x\n\n\n\n*a\n\n-", "- a\n- b\ntext * c", "*\n- b"],
            ["* a", "** a\n- b", "- - a"],
        )
    ],
    "detectable_format:constrained_response": [
        ({}, ["Well. My answer is no."], ["My answer is no", "my answer is no."])
    ],
    "detectable_format:number_highlighted_sections": [
        ({"num_highlights": 2}, ["*a* and *b*", "*a* **b**"], ["**a**", "*a*", "*a\nb* c"])
    ],
    "detectable_format:multiple_sections": [
        ({"section_spliter": "SECTION", "num_sections": 2}, ["SECTION 1\na\nSECTION2 b"], ["Section 1 Section 2"])
    ],
    "detectable_format:json_format": [
        (
            {},
            ['{"a": [1]}', '```json\n{"a": 1}\n```', "``` 3 ```"],
            ["{a: 1}", "```py\n1```", "[" * 200_000, 'x {"a": 1}'],
        )
    ],
    "detectable_format:title": [({}, ["<<a>>", "x << a >> y"], ["<<>>", "<< >>", "<<a\n>>", "<a>", ">> <<"])],
    "combination:two_responses": [
        ({}, ["a ****** b", "******a******b******"], ["a ****** a", "a ****** ****** b", "a", "a******b******c"])
    ],
    "combination:repeat_prompt": [({"prompt_to_repeat": " Say it. "}, ["\nsay it. Yes"], ["Yes. Say it."])],
    "startend:end_checker": [({"end_phrase": "The end."}, ['x THE END."', "the end. "], ["The end", "The end. x"])],
    "startend:quotation": [({}, [' "a" ', '""'], ['"', '"a" b', "'a'"])],
    "change_case:english_capital": [({}, ["ALL OF IT, 7", "Ü"], ["ALl", "DER HUND", "7"])],
    "change_case:english_lowercase": [({}, ["all of it, 7"], ["All", "der hund", "7"])],
    "change_case:capital_word_frequency": [
        ({"capital_frequency": 2, "capital_relation": "at least"}, ["SO I say"], ["So I say"]),
        ({"capital_frequency": 1, "capital_relation": "less than"}, ["so say it"], ["so I say"]),
    ],
    "punctuation:no_comma": [({}, ["a; b"], ["a, b"])],
}


@pytest.mark.parametrize("kind", CHECKS)
def test_which_text_follows_an_instruction(kind: str) -> None:
    for arguments, following, not_following in EXAMPLES[kind]:
        instruction = Instruction(kind, arguments)
        assert [text for text in following if not instruction.follows(text, LINGUIST)] == []
        assert [text for text in not_following if instruction.follows(text, LINGUIST)] == []
        assert not instruction.follows(" \n", LINGUIST), "who says nothing follows nothing"


def test_there_are_the_25_kinds_of_the_paper() -> None:
    assert len(CHECKS) == 25
    assert set(EXAMPLES) == set(CHECKS)


def test_loosely_lines_around_and_stars_do_not_count() -> None:
    comma, words = Instruction("punctuation:no_comma", {}), Instruction("startend:quotation", {})
    for text in ("Sure, I do:\nfine", "fine\nBye, then", "Sure, well\nfine\nBye, then"):
        assert not comma.follows(text, None)
        assert comma.follows_loosely(text, None)
    assert not comma.follows_loosely("fine\nno, not fine\nfine", None)
    assert words.follows_loosely('**"a"**', None)
    assert not comma.follows_loosely(",", None), "of nothing left, nothing is followed"


@given(st.text(alphabet='ab ,*\n-[]<>".1', max_size=40), st.sampled_from(sorted(EXAMPLES)))
def test_what_follows_strictly_follows_loosely(text: str, kind: str) -> None:
    for arguments, _, _ in EXAMPLES[kind]:
        instruction = Instruction(kind, arguments)
        assert instruction.follows_loosely(text, LINGUIST) or not instruction.follows(text, LINGUIST)


HOSTILE = [
    "\n" * 60_000,
    " " * 60_000,
    "[" * 60_000,
    "<" * 60_000,
    "*" * 60_000,
    "\n \n" * 20_000,
    "p. " * 20_000,
    "<<>" * 20_000,
]


@pytest.mark.parametrize("kind", CHECKS)
def test_no_text_takes_long(kind: str) -> None:
    began = time.process_time()
    for text in HOSTILE:
        for arguments, _, _ in EXAMPLES[kind]:
            Instruction(kind, arguments).follows(f"x{text}", LINGUIST)
    assert time.process_time() - began < 3.0


ROW = {
    "key": 7,
    "prompt": "Say it.",
    "instruction_id_list": ["punctuation:no_comma", "length_constraints:number_words"],
    "kwargs": [{"num_words": None}, {"num_words": 2.0, "relation": "at least", "keyword": None}],
}


def test_a_row_is_a_prompt_and_nulls_are_no_arguments() -> None:
    (prompt,) = read_prompts(MemorySource([ROW]))
    assert prompt.id == "ifeval/7"
    assert prompt.instructions[0] == Instruction("punctuation:no_comma", {})
    assert prompt.instructions[1].arguments == {"num_words": 2, "relation": "at least"}
    assert not needs_linguist([prompt])


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"prompt": " "}, "prompt"),
        ({"kwargs": [{}]}, "2 instructions and 1 kwargs"),
        ({"instruction_id_list": ["punctuation:no_commas", "x"]}, "no instruction 'punctuation:no_commas'"),
        ({"kwargs": [{}, {"num_words": 2, "relation": "at most"}]}, "not one of less than, at least"),
        ({"kwargs": [{}, {"relation": "at least"}]}, "needs num_words, int"),
        ({"instruction_id_list": ["keywords:existence"], "kwargs": [{"keywords": ["("]}]}, "unterminated"),
        ({"instruction_id_list": ["keywords:existence"], "kwargs": [{"keywords": []}]}, "needs keywords"),
        (
            {
                "instruction_id_list": ["keywords:letter_frequency"],
                "kwargs": [{"letter": "ab", "let_frequency": 1, "let_relation": "at least"}],
            },
            "letter is 'ab'",
        ),
    ],
)
def test_a_row_that_leaves_something_to_chance_is_refused(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError, match="line 2") as caught:
        read_prompts(MemorySource([ROW, ROW | wrong]))
    assert said in str(caught.value)


def test_an_answer_is_judged_also_where_it_was_cut() -> None:
    renderer = rendering.get("chatml", FakeTokenizer())
    prompts = read_prompts(MemorySource([ROW]))
    problems = InstructionSet(InstructionTask(renderer=renderer, linguist=None), prompts)
    answers = ["Well, so be it", "So be it"]

    def answer(prompt: str, j: int) -> str:
        return answers[j % 2]

    plan = RolloutPlan(limits=RolloutLimits(max_tokens=9), group_size=2)
    (group,) = roll_out(ScriptedSampler(FakeTokenizer(), answer), [problems[0]], plan)
    assert group.rewards.tolist() == [0.0, 1.0]
    assert [e.stop_reason for e in group.episodes] == [StopReason.MAX_TOKENS, StopReason.COMPLETED]
    first = group.episodes[0].transitions[0].metrics
    assert (first["instructions"], first["followed"], first["correct_loose"]) == (2.0, 1.0, 0.0)
    assert check_env(problems, renderer, CheckSettings(max_tokens=64, reward_range=(0.0, 1.5))).failures == ()


def test_an_evaluation_says_all_four_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [
        {**ROW, "key": 1, "prompt": "Say apple river."},
        {"key": 2, "prompt": "Say apple.", "instruction_id_list": ["startend:quotation"], "kwargs": [{}]},
    ]
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["eval", "ifeval", "data=rows.jsonl", "max_tokens=16", "temperature=0", "log_path=run"]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert all(
        line in out for line in ("score ", "score, loose", "instructions followed ", "instructions followed, loose")
    )
    found = json.loads(Path("run/results.json").read_text())
    assert found["score"]["value"] == 0.5
    assert found["metrics"]["followed"] == 1.0, "two of three instructions, over two prompts"
    assert main(["eval", "ifeval", "regrade=run", "log_path=again"]) == 0
    assert json.loads(Path("again/results.json").read_text())["metrics"] == found["metrics"]


def test_real_sentences_words_and_languages() -> None:
    for module in ("langdetect", "nltk", "punkt"):
        pytest.importorskip(module, reason="needs the extra: ifeval")
    linguist = bootstrap.open_linguist()
    assert linguist.sentences("Dr. Smith went to the U.S. in 1990. He liked it! Did he?") == 3
    assert list(linguist.words("I can't, CAN'T! (COVID-19)")) == [
        *("I", "ca", "n't", ",", "CA", "N'T", "!", "(", "COVID-19", ")")
    ]
    assert [linguist.language(t) for t in ("This is plain English text.", "Das ist ein deutscher Satz.", "12 34")] == [
        "en",
        "de",
        None,
    ]
    assert len({linguist.language("otec matka syn") for _ in range(20)}) == 1, "the same each time"

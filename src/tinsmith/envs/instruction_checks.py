"""The verifiable instructions of IFEval (arXiv:2311.07911): whether a text follows one.

Each is told as the paper's published programs define it (google-research, instruction_following_eval), to the letter
where that surprises: a keyword is a regular expression, a text whose language nobody can tell is in any, a star alone
makes the next line its bullet point. Two things differ: what those leave to chance (an argument that is missing is
drawn there) is an error of the data here, and a text that would take their expressions quadratic time takes linear
time.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping

from attrs import frozen

from tinsmith.ports.linguist import Linguist

CONSTRAINED = ("My answer is yes.", "My answer is no.", "My answer is maybe.")
RELATIONS = ("less than", "at least")


@frozen
class Check:
    """One kind of instruction."""

    arguments: Mapping[str, type]
    follows: Callable[..., bool]
    """(text, linguist, arguments by name)."""
    linguist: bool
    """It needs one."""


CHECKS: dict[str, Check] = {}
"""By id, as the data name them."""

_Function = Callable[..., bool]


def _check(name: str, *, linguist: bool = False, **arguments: type) -> Callable[[_Function], _Function]:
    def keep(function: _Function) -> _Function:
        CHECKS[name] = Check(arguments, function, linguist)
        return function

    return keep


def _holds(count: int, relation: str, threshold: float) -> bool:
    return count < threshold if relation == RELATIONS[0] else count >= threshold


@_check("keywords:existence", keywords=list)
def _existence(text: str, _: Linguist | None, keywords: list[str]) -> bool:
    return all(re.search(keyword, text, re.IGNORECASE) for keyword in keywords)


@_check("keywords:frequency", keyword=str, frequency=int, relation=str)
def _frequency(text: str, _: Linguist | None, keyword: str, frequency: int, relation: str) -> bool:
    return _holds(len(re.findall(keyword, text, re.IGNORECASE)), relation, frequency)


@_check("keywords:forbidden_words", forbidden_words=list)
def _forbidden(text: str, _: Linguist | None, forbidden_words: list[str]) -> bool:
    return not any(re.search(rf"\b{word}\b", text, re.IGNORECASE) for word in forbidden_words)


@_check("keywords:letter_frequency", letter=str, let_frequency=int, let_relation=str)
def _letters(text: str, _: Linguist | None, letter: str, let_frequency: int, let_relation: str) -> bool:
    return _holds(text.lower().count(letter.strip().lower()), let_relation, let_frequency)


@_check("language:response_language", linguist=True, language=str)
def _language(text: str, linguist: Linguist, language: str) -> bool:
    return linguist.language(text) in (None, language)


@_check("length_constraints:number_sentences", linguist=True, num_sentences=int, relation=str)
def _sentences(text: str, linguist: Linguist, num_sentences: int, relation: str) -> bool:
    return _holds(linguist.sentences(text), relation, num_sentences)


@_check("length_constraints:number_words", num_words=int, relation=str)
def _words(text: str, _: Linguist | None, num_words: int, relation: str) -> bool:
    return _holds(len(re.findall(r"\w+", text)), relation, num_words)


@_check("length_constraints:number_paragraphs", num_paragraphs=int)
def _paragraphs(text: str, _: Linguist | None, num_paragraphs: int) -> bool:
    """Parted by ***; an empty one counts not at either end, and is one too many between."""
    parts = re.split(r"\s?\*\*\*\s?", text)
    if not all(part.strip() for part in parts[1:-1]):
        return False
    return sum(bool(part.strip()) for part in parts) == num_paragraphs


@_check("length_constraints:nth_paragraph_first_word", num_paragraphs=int, nth_paragraph=int, first_word=str)
def _first_word(text: str, _: Linguist | None, num_paragraphs: int, nth_paragraph: int, first_word: str) -> bool:
    """Parted by two newlines. Empty ones do not count, and yet have a place when the nth is looked for."""
    parts = text.split("\n\n")
    count = sum(bool(part.strip()) for part in parts)
    if not 1 <= nth_paragraph <= count or not (paragraph := parts[nth_paragraph - 1].strip()):
        return False
    word = re.split(r"""[.,?!'"]""", paragraph.split()[0].lstrip("'").lstrip('"'), maxsplit=1)[0]
    return count == num_paragraphs and "".join(map(str.lower, word)) == first_word.lower()


@_check("detectable_content:number_placeholders", num_placeholders=int)
def _placeholders(text: str, _: Linguist | None, num_placeholders: int) -> bool:
    """[anything], on one line."""
    count = 0
    for line in text.split("\n"):
        end = 0
        while (start := line.find("[", end)) >= 0 and (closing := line.find("]", start)) >= 0:
            count, end = count + 1, closing + 1
    return count >= num_placeholders


@_check("detectable_content:postscript", postscript_marker=str)
def _postscript(text: str, _: Linguist | None, postscript_marker: str) -> bool:
    marker = postscript_marker.strip()
    known = {"P.P.S": r"p\.\s?p\.\s?s", "P.S.": r"p\.\s?s\."}
    return re.search(known.get(marker, marker.lower()), text.lower()) is not None


@_check("detectable_format:number_bullet_lists", num_bullets=int)
def _bullets(text: str, _: Linguist | None, num_bullets: int) -> bool:
    """Lines that begin with * and no second one, or with -."""
    text = re.sub(r"\n(?:[^\S\n]*\n){2,}", "\n\n", text)
    stars = re.findall(r"^\s*\*[^*].*$", text, re.MULTILINE)
    dashes = re.findall(r"^\s*-.*$", text, re.MULTILINE)
    return len(stars) + len(dashes) == num_bullets


@_check("detectable_format:constrained_response")
def _constrained(text: str, _: Linguist | None) -> bool:
    return any(option in text for option in CONSTRAINED)


@_check("detectable_format:number_highlighted_sections", num_highlights=int)
def _highlights(text: str, _: Linguist | None, num_highlights: int) -> bool:
    single = sum(bool(found.strip("*").strip()) for found in re.findall(r"\*[^\n*]*\*", text))
    double = sum(bool(found[2:-2].strip()) for found in re.findall(r"\*\*[^\n*]*\*\*", text))
    return single + double >= num_highlights


@_check("detectable_format:multiple_sections", section_spliter=str, num_sections=int)
def _sections(text: str, _: Linguist | None, section_spliter: str, num_sections: int) -> bool:
    return len(re.findall(rf"\s?{section_spliter.strip()}\s?\d+\s?", text)) >= num_sections


@_check("detectable_format:json_format")
def _json(text: str, _: Linguist | None) -> bool:
    text = text.strip()
    for fence in ("```json", "```Json", "```JSON", "```"):
        text = text.removeprefix(fence)
    try:
        json.loads(text.removesuffix("```").strip())
    except (ValueError, RecursionError):
        return False
    return True


@_check("detectable_format:title")
def _title(text: str, _: Linguist | None) -> bool:
    """<<anything>>, on one line."""
    for line in text.split("\n"):
        start, end = line.find("<<"), line.rfind(">>")
        if 0 <= start <= end - 3 and line[start : end + 2].lstrip("<").rstrip(">").strip():
            return True
    return False


@_check("combination:two_responses")
def _two_responses(text: str, _: Linguist | None) -> bool:
    """Parted by ******, and different; empty ones may stand at either end."""
    parts = text.split("******")
    said = [part.strip() for part in parts if part.strip()]
    return all(part.strip() for part in parts[1:-1]) and len(said) == 2 and said[0] != said[1]


@_check("combination:repeat_prompt", prompt_to_repeat=str)
def _repeat(text: str, _: Linguist | None, prompt_to_repeat: str) -> bool:
    return text.strip().lower().startswith(prompt_to_repeat.strip().lower())


@_check("startend:end_checker", end_phrase=str)
def _end(text: str, _: Linguist | None, end_phrase: str) -> bool:
    return text.strip().strip('"').lower().endswith(end_phrase.strip().lower())


@_check("startend:quotation")
def _quotation(text: str, _: Linguist | None) -> bool:
    text = text.strip()
    return len(text) > 1 and text[0] == text[-1] == '"'


@_check("change_case:english_capital", linguist=True)
def _capital(text: str, linguist: Linguist) -> bool:
    return text.isupper() and linguist.language(text) in (None, "en")


@_check("change_case:english_lowercase", linguist=True)
def _lowercase(text: str, linguist: Linguist) -> bool:
    return text.islower() and linguist.language(text) in (None, "en")


@_check("change_case:capital_word_frequency", linguist=True, capital_frequency=int, capital_relation=str)
def _capital_words(text: str, linguist: Linguist, capital_frequency: int, capital_relation: str) -> bool:
    return _holds(sum(word.isupper() for word in linguist.words(text)), capital_relation, capital_frequency)


@_check("punctuation:no_comma")
def _no_comma(text: str, _: Linguist | None) -> bool:
    return "," not in text

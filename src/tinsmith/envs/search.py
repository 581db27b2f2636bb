"""Questions that are answered by searching a corpus: several turns, one tool, a reward by exact match."""

from __future__ import annotations

import hashlib
import json
import re
import string
from collections.abc import Mapping, Sequence
from typing import Any

from attrs import evolve, frozen

from tinsmith.domain.episodes import Episode
from tinsmith.domain.errors import DataError
from tinsmith.domain.messages import Message, ToolCall
from tinsmith.domain.mixtures import row_at
from tinsmith.envs.base import Env, GroupBuilder, Speaker
from tinsmith.envs.message import ParseErrors, RenderedEnv
from tinsmith.envs.tools import Graded, ToolBox, ToolEnv, ToolError, ToolFunction, tool
from tinsmith.ports.data import DatasetSource
from tinsmith.ports.search import Hit, SearchIndex
from tinsmith.rendering import Renderer

MARK = "Answer:"
INSTRUCTIONS = f"Answer the question. Search for what you do not know. End with one line: {MARK} and the answer alone."
MAX_QUERIES = 8
"""Queries that one call may ask."""

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalised(answer: str) -> str:
    """Lower case, no ASCII punctuation, no articles, single spaces: as SQuAD's evaluation (arXiv:1606.05250) and
    Search-R1 (arXiv:2503.09516) compare answers."""
    return " ".join(_ARTICLES.sub(" ", answer.lower().translate(_PUNCTUATION)).split())


def answer_in(text: str) -> str | None:
    """What follows the mark `Answer:`; None where there is none, several, or nothing behind it."""
    parts = text.split(MARK)
    return parts[1].strip() or None if len(parts) == 2 else None


@frozen
class Question:
    id: str
    text: str
    answers: tuple[str, ...]
    """Each of them is right."""
    tag: str
    """Where it comes from: metrics are kept apart by it."""


def read_questions(rows: DatasetSource) -> list[Question]:
    """Rows with a `question`, and `golden_answers` or `reward_model.ground_truth.target` (text or texts), and where it
    has one a `data_source`: PeterJinGo/nq_hotpotqa_train. Raises DataError with the line of a row that is none."""
    questions = []
    for line, row in enumerate(rows, 1):
        answers = row.get("golden_answers")
        if answers is None:
            answers = _target(row)
        answers = [answers] if isinstance(answers, str) else list(answers) if isinstance(answers, Sequence) else []
        text, tag = row.get("question"), row.get("data_source") or "search"
        if not isinstance(text, str) or not text.strip() or not isinstance(tag, str):
            raise DataError('row needs a "question"', source=rows.name, line=line)
        if not answers or not all(isinstance(a, str) and normalised(a) for a in answers):
            raise DataError(
                'row needs "golden_answers" (or "reward_model" with its ground_truth.target): texts that are not empty',
                source=rows.name,
                line=line,
            )
        questions.append(Question(str(row.get("id", f"search/{line - 1}")), text.strip(), tuple(answers), tag))
    if not questions:
        raise DataError("the file is empty: there is no question in it", source=rows.name)
    return questions


def _target(row: Mapping[str, Any]) -> Any:
    found: Any = row
    for key in ("reward_model", "ground_truth", "target"):
        found = found.get(key) if isinstance(found, Mapping) else None
    return found


def search_tool(index: SearchIndex, n_results: int = 3) -> ToolFunction:
    """The tool `search(query_list)`, which gives `n_results` documents for each query."""

    @tool
    async def search(query_list: list[str]) -> str:
        """Search documents by one query or several."""
        if not 0 < len(query_list) <= MAX_QUERIES:
            raise ToolError(f"query_list holds {len(query_list)} queries; ask 1 to {MAX_QUERIES} at once")
        found = await index.search(query_list, n_results)
        return "\n\n".join(_listed(query, hits) for query, hits in zip(query_list, found, strict=True))

    made: ToolFunction = search
    return made


def _listed(query: str, hits: Sequence[Hit]) -> str:
    lines = [f"Query: {query}", *([] if hits else ["nothing was found"])]
    for i, hit in enumerate(hits, 1):
        lines.append(f"Document {i}: {hit.document.title}\n{hit.document.text}".replace(": \n", ":\n"))
    return "\n".join(lines)


@frozen(kw_only=True)
class SearchTask:
    """What is asked of the policy for every question, and how it is paid.

    reward = correct + format_coef * (format - 1); `format` holds when the conversation ended with a message that has
    one `Answer:`, `correct` when what follows equals a right answer, both normalised. A message that was cut or cannot
    be read, and a conversation that a limit ended, have no answer.
    """

    renderer: Renderer
    box: ToolBox
    format_coef: float = 0.1
    instructions: str = INSTRUCTIONS

    def messages(self, question: Question) -> tuple[Message, ...]:
        return (Message.system(self.instructions), Message.user(question.text))

    def grade(self, question: Question, conversation: Sequence[Message]) -> Graded:
        last = conversation[-1]
        ended = last.role == "assistant" and not last.tool_calls
        answer = answer_in(last.text) if ended else None
        correct = float(answer is not None and normalised(answer) in {normalised(a) for a in question.answers})
        well_formed = float(answer is not None)
        reward = correct + self.format_coef * (well_formed - 1.0)
        return Graded(reward=reward, metrics={"correct": correct, "format": well_formed})

    def env(self, question: Question) -> Env:
        async def grade(conversation: Sequence[Message]) -> Graded:
            return self.grade(question, conversation)

        env = ToolEnv(start=self.messages(question), box=self.box, grade=grade)
        unread = ParseErrors(reward=-self.format_coef)
        return RenderedEnv(env=env, renderer=self.renderer, parse_errors=unread, length_reward=-self.format_coef)


@frozen(eq=False)
class SearchGroup:
    """G attempts at one question."""

    task: SearchTask
    question: Question
    coupled: bool = False

    @property
    def problem(self) -> str:
        return self.question.id

    @property
    def tags(self) -> tuple[str, ...]:
        return (self.question.tag,)

    @property
    def solution(self) -> Speaker:
        """Searches for the question, then knows the answer."""

        def speak(text: str, turn: int) -> Message | str:
            if turn == 0:
                asked = json.dumps({"query_list": [self.question.text]}, ensure_ascii=False)
                return Message("assistant", tool_calls=(ToolCall("search", asked),))
            return f"{MARK} {self.question.answers[0]}"

        return speak

    @property
    def reward_range(self) -> tuple[float, float]:
        return -self.task.format_coef, 1.0

    def make(self, n: int) -> Sequence[Env]:
        return [self.task.env(self.question) for _ in range(n)]

    async def grade(self, episodes: Sequence[Episode]) -> Sequence[float]:
        return [0.0] * len(episodes)


@frozen(eq=False)
class QuestionSet:
    """Questions by index, in an order shuffled anew for each pass by (seed, pass)."""

    task: SearchTask
    questions: Sequence[Question]
    corpus: str
    """Fingerprint of what is searched."""
    seed: int | None = None
    """None keeps the order."""
    name: str = "search"

    @property
    def fingerprint(self) -> str:
        said = repr([(q.text, q.answers) for q in self.questions])
        return hashlib.blake2b(f"{self.corpus}/{said}".encode(), digest_size=16).hexdigest()

    def __len__(self) -> int:
        return len(self.questions)

    def __getitem__(self, index: int) -> GroupBuilder:
        place = row_at(index, len(self.questions), self.seed)
        return SearchGroup(self.task, self.questions[place])

    def some(self, start: int, end: int, seed: int | None) -> QuestionSet:
        """The questions `start` to `end`."""
        return evolve(self, questions=self.questions[start:end], seed=seed)

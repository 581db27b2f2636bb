"""search-tool: questions that are answered by searching a corpus, in several turns."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any, Literal

from attrs import evolve, frozen

from tinsmith import bootstrap
from tinsmith.bootstrap import Model
from tinsmith.config import option
from tinsmith.domain.documents import Document
from tinsmith.domain.errors import ConfigError, RenderError
from tinsmith.envs.search import QuestionSet, SearchTask, read_questions, search_tool
from tinsmith.envs.tools import ToolBox, served_tools
from tinsmith.ports.progress import Progress
from tinsmith.ports.search import SearchIndex
from tinsmith.ports.tools import ToolServer
from tinsmith.recipes import common, costs, reinforcement, small_world
from tinsmith.recipes.reinforcement import Environments, MultiTurnConfig

NAME = "search-tool"
TOOL_FORMAT = "qwen3"
"""Chat format for a model whose own has no form for tools."""


@frozen(kw_only=True)
class ChromaSettings:
    """Where a Chroma server is."""

    host: str = option("127.0.0.1", help="its host")
    port: int = option(8000, help="its port", min=1, max=65535)
    ssl: bool = option(False, help="whether it is spoken to over TLS")
    collection: str = option("corpus", help="the collection: filled with the corpus where it is empty")


@frozen(kw_only=True)
class Config(MultiTurnConfig):
    data: str = option("small", help="questions: small (made here), a file, a URL or hf://NAME")
    test_data: str | None = option(None, help="questions to evaluate on; none sets test_size aside")
    test_size: int = option(64, help="questions of an evaluation at most", min=0)
    corpus: str | None = option(
        None, help="documents: a file, a URL or hf://NAME; none: those of data=small, or what the collection holds"
    )
    search: Literal["bm25", "chroma"] = option("bm25", help="by words in memory, or a collection of a Chroma server")
    chroma: ChromaSettings = option(factory=ChromaSettings, help="of search=chroma")
    mcp: tuple[str, ...] = option(
        (), help="more tools for the policy: those of MCP servers, by command or URL, which keep nothing between calls"
    )
    n_results: int = option(3, help="documents that a query gives", min=1)
    search_timeout_s: float = option(60.0, help="seconds that a search, or another tool, may take", exclusive_min=0)
    format_coef: float = option(0.1, help="what a conversation without an answer in the form asked for loses", min=0)
    groups_per_batch: int = option(8, help="questions a step", min=1)
    max_steps: int = option(8, help="steps: batches of rollouts", min=1)
    max_tokens: int = option(96, help="tokens that one message may have", min=1)


def run(config: Config, progress: Progress) -> int:
    with environments(config, progress.note) as envs:
        path = config.log_path or common.default_path(NAME, config, config.data.rsplit("/")[-1])
        shown = (("share of right answers", "correct"), ("answers in the form asked for", "format"))
        lines = (*shown, ("calls of the tool, a turn", "tool_calls"), ("reward", "reward/total"))
        reinforcement.train(NAME, config, progress, envs.model, envs.train, envs.test, path, lines)
    return 0


@contextmanager
def environments(config: Config, note: Callable[[str], object]) -> Iterator[Environments]:
    validate(config)
    model = open_model(config)
    with ExitStack() as open_:
        index = open_.enter_context(closing(open_index(config)))
        servers = [open_.enter_context(closing(open_tools(where, config))) for where in config.mcp]
        yield Environments(model, *load_questions(config, model, index, servers))


def open_tools(where: str, config: Config) -> ToolServer:
    return bootstrap.open_mcp(
        where if "://" in where else shlex.split(where), cwd=str(Path.cwd()), timeout_s=config.search_timeout_s
    )


def check(config: Config) -> Iterable[Any]:
    """One rendered question, and the most that the run can take; trains nothing."""
    with environments(config, lambda note: None) as envs:
        model, train = envs.model, envs.train
        assert isinstance(train, QuestionSet)
        first = train.questions[0]
        tools = train.task.box.tools
        prompt = model.renderer.generation_prompt(train.task.messages(first), tools=tools).ids
        yield f"one question, {len(prompt)} tokens; right is {' or '.join(first.answers)}:"
        yield model.tokenizer.decode(prompt)
        yield f"{len(train)} questions, {0 if envs.test is None else len(envs.test)} test questions"
    episodes = config.max_steps * config.groups_per_batch * config.group_size
    turns = config.max_turns or 1
    longest = min(len(prompt) + turns * config.max_tokens, config.max_trajectory_tokens or model.context)
    yield costs.estimate(model, config.lora, config.max_steps, episodes * longest, episodes * turns * config.max_tokens)


def validate(config: Config) -> None:
    reinforcement.validate(config)
    if config.corpus is None and config.data != "small" and config.search == "bm25":
        raise ConfigError(f"data={config.data} needs the documents to search: corpus=FILE, or search=chroma")
    if config.search == "bm25" and config.chroma != ChromaSettings():
        raise ConfigError("chroma. options belong to search=chroma, which is not asked for")


def open_model(config: Config) -> Model:
    """The model, in a chat format that has a form for tools."""
    model = common.open_model(config)
    if model.renderer.calls_tools:
        return model
    if config.renderer is not None:
        raise ConfigError(f"renderer={config.renderer} has no form for tools; {TOOL_FORMAT} has one, for any tokenizer")
    try:
        return common.open_model(evolve(config, renderer=TOOL_FORMAT))
    except RenderError as error:
        raise ConfigError(
            f"the chat format of {config.model} has no form for tools, and its tokenizer cannot write that of "
            f"{TOOL_FORMAT}: {error}. Take another model, or another renderer="
        ) from error


def open_index(config: Config) -> SearchIndex:
    documents: list[Document] | None = None
    if config.corpus is not None:
        documents = bootstrap.read_corpus(config.corpus)
    elif config.data == "small":
        documents = small_world.documents()
    if config.search == "bm25":
        assert documents is not None
        return bootstrap.open_bm25(documents)
    chroma = config.chroma
    return bootstrap.open_chroma(
        chroma.collection,
        documents,
        host=chroma.host,
        port=chroma.port,
        ssl=chroma.ssl,
        timeout_s=config.search_timeout_s,
    )


def load_questions(
    config: Config, model: Model, index: SearchIndex, servers: Sequence[ToolServer]
) -> tuple[QuestionSet, QuestionSet | None]:
    """What to train and to test on."""
    reinforcement.check_room(config, model)
    functions = [search_tool(index, config.n_results), *(f for server in servers for f in served_tools(server))]
    box = ToolBox(functions, timeout_s=config.search_timeout_s)
    task = SearchTask(renderer=model.renderer, box=box, format_coef=config.format_coef)

    def read(where: str) -> QuestionSet:
        source = small_world.Questions() if where == "small" else bootstrap.open_source(where)
        return QuestionSet(task, read_questions(source), index.fingerprint)

    every = read(config.data)
    check_prompts(config, model, every)
    if config.test_data is not None:
        return every.some(0, len(every), config.seed), read(config.test_data).some(0, config.test_size or 1, None)
    if len(every) <= config.test_size:
        raise ConfigError(f"{config.data}: test_size={config.test_size} leaves nothing of {len(every)} questions")
    test = every.some(0, config.test_size, None) if config.test_size else None
    return every.some(config.test_size, len(every), config.seed), test


def check_prompts(config: Config, model: Model, questions: QuestionSet) -> None:
    """Refuse options that leave a question no room: its episodes would end before they begin, and pay alike."""
    task = questions.task
    longest = max(questions.questions, key=lambda q: len(q.text))
    length = len(model.renderer.generation_prompt(task.messages(longest), tools=task.box.tools).ids)
    room = min(model.context, config.max_trajectory_tokens or model.context)
    if length + config.max_tokens > room:
        raise ConfigError(
            f"the prompt of question {longest.id} has {length} tokens, and with max_tokens={config.max_tokens} more "
            f"than {room}: take a model of longer context, a larger max_trajectory_tokens, or fewer max_tokens"
        )

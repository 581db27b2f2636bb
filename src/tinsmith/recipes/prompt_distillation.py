"""prompt-distillation: a teacher answers with a long prompt, and a student learns the answers without it (context
distillation)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from attrs import evolve, frozen

from tinsmith.bootstrap import Model
from tinsmith.config import option
from tinsmith.config.files import text_of
from tinsmith.domain.chat_rows import conversation_from_row
from tinsmith.domain.errors import ConfigError
from tinsmith.domain.messages import Conversation, Message
from tinsmith.ports.progress import Progress
from tinsmith.ports.sampler import Sampler, SamplingParams
from tinsmith.recipes import chat_sl, common, small_sets, sources, supervised, teaching
from tinsmith.recipes.off_policy_distillation import AskingConfig, asked, check_asking
from tinsmith.workflows.evaluation import NllObjective
from tinsmith.workflows.teacher_answers import Question, pattern
from tinsmith.workflows.waiting import wait

NAME = "prompt-distillation"


@frozen(kw_only=True)
class Config(AskingConfig):
    data: tuple[str, ...] = option(
        ("sums",), help="prompts without the long one: sums (made here), sets of conversations, files, hf://NAME"
    )
    prompt: str | None = option(
        None, help="what the teacher alone reads: a system message, or with {input} the form of the last user message"
    )
    prompt_file: Path | None = option(None, help="the same from a file; none of both: the one that belongs to sums")
    extract: str | None = option(
        None, help="regular expression whose one group is what of an answer is learned; others are left out"
    )
    max_tokens: int = option(12, help="tokens that an answer of the teacher may have; a longer one is left out", min=1)
    temperature: float = option(0.0, help="of the teacher's answers", min=0)
    num_epochs: int = option(8, help="passes over the answers", min=1)
    learning_rate: float = option(2e-3, help="peak learning rate", exclusive_min=0)


def run(config: Config, progress: Progress) -> int:
    text = validate(config)
    model = common.open_model(config)
    root = config.log_path or common.default_path(NAME, config, *teaching.names_of(config.data))
    with ExitStack() as open_:
        enter = open_.enter_context
        teachers = enter(teaching.open_teachers(config, model, config.data, root, progress, scores=False))
        train, test = enter(teaching.open_problems(config, model, progress.note))
        learned = asked(
            config,
            train,
            test,
            teachers,
            root,
            progress,
            question=lambda prompt: Question(asked=with_prompt(text, prompt), kept=prompt),
            extract=None if config.extract is None else pattern(config.extract),
        )
        data, test_datums = chat_sl.load(learned, model, progress)
        progress.note("the student learns")
        handle = supervised.train(
            NAME,
            evolve(config, budget=teaching.left(config, root)),
            root / "student",
            model,
            data,
            lambda _: NllObjective(config.reduction, test=test_datums, token_bytes=model.text_bytes),
            progress,
            supervised.report_nll,
        )
        samplers = [enter(model.sampler()), common.open_state(open_, model, config, handle, "student")]
        held_out = [row for path in learned.test_data for row in _rows(path)]
        if held_out:
            shares = [_as_the_teacher(config, model, sampler, held_out) for sampler in samplers]
            progress.table("sampled", ["", "before", "after"], [["likeliest answers that are the teacher's", *shares]])
    return 0


def with_prompt(text: str, prompt: Conversation) -> Conversation:
    """What the teacher reads: `text` as a system message, before one that is there; where it holds `{input}`, in place
    of the last message, with that one's text in it."""
    messages = prompt.messages
    if "{input}" in text:
        last = messages[-1]
        return Conversation((*messages[:-1], Message(last.role, text.replace("{input}", last.text))), prompt.tools)
    if messages[0].role == "system":
        text, messages = f"{text}\n\n{messages[0].text}", messages[1:]
    return Conversation((Message("system", text), *messages), prompt.tools)


def _rows(path: str) -> list[Mapping[str, Any]]:
    return [json.loads(line) for line in Path(path).read_bytes().splitlines()]


def _as_the_teacher(config: Config, model: Model, sampler: Sampler, rows: Sequence[Mapping[str, Any]]) -> float:
    """The share of the likeliest answers, without the long prompt, that are the teacher's, word for word."""
    params = SamplingParams(
        max_tokens=config.max_tokens,
        temperature=0.0,
        stop_ids=model.renderer.stop.ids,
        stop=model.renderer.stop.strings,
    )
    pending = []
    for row in rows:
        whole = conversation_from_row(row)
        prompt = model.renderer.generation_prompt(whole.messages[:-1], tools=whole.tools).ids
        pending.append((whole, prompt, sampler.sample(prompt, params)))
    same = 0
    for whole, prompt, sampled in pending:
        (completion,) = wait(sampled, "an answer of the student", config.timeout_s).completions
        said = model.renderer.parse(completion.tokens, prompt=prompt, tools=whole.tools).message
        same += said.text.strip() == whole.messages[-1].text.strip()
    return same / len(rows)


def check(config: Config) -> Iterable[Any]:
    """What the student reads and what the teacher reads, and what the run would take; trains nothing."""
    text = validate(config)
    model = common.open_model(config)
    with_it = model.renderer.generation_prompt(with_prompt(text, Conversation((Message.user("..."),))).messages).ids
    yield f"the teacher's prompt, {len(with_it)} tokens:"
    yield model.tokenizer.decode(with_it)
    yield from check_asking(config, model, longer=len(with_it), reads=False)


def validate(config: Config) -> str:
    """The long prompt."""
    sources.validate(config, teaching.SETS)
    made = () if config.prompt or config.prompt_file else ("sums",)
    teaching.check_teachers(config.data, config.teachers, config.teacher, made)
    if config.test_data:
        raise ConfigError("test_data= has no meaning here: the teacher answers test_size= prompts set aside")
    if config.extract is not None:
        pattern(config.extract)
    if config.prompt is not None and config.prompt_file is not None:
        raise ConfigError("prompt= and prompt_file= are two places of one text: give one")
    if config.prompt_file is not None:
        text = text_of(config.prompt_file, "prompt_file").rstrip("\n")
    elif config.prompt is not None:
        text = config.prompt
    elif set(config.data) == {"sums"}:
        text = small_sets.RULES
    else:
        raise ConfigError("no prompt that the teacher reads and the student does not: prompt= or prompt_file=")
    if not text.strip():
        raise ConfigError("the prompt that the teacher reads is empty")
    return text

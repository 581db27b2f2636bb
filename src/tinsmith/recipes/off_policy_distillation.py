"""off-policy-distillation: a student learns a teacher's answers, or its likeliest tokens at each place of given
conversations."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

from attrs import evolve, frozen

from tinsmith import bootstrap
from tinsmith.bootstrap import Model
from tinsmith.config import option, to_dict
from tinsmith.domain.cost import Tokens
from tinsmith.domain.errors import ConfigError
from tinsmith.domain.metrics import episode_metrics
from tinsmith.envs.base import ProblemSource
from tinsmith.ports.progress import Notes, Progress
from tinsmith.ports.sampler import Sampler
from tinsmith.recipes import chat_sl, common, costs, reinforcement, sources, supervised, teaching
from tinsmith.recipes.teaching import Teacher, TeacherSettings
from tinsmith.workflows.distillation import SoftObjective, SoftTargets
from tinsmith.workflows.evaluation import NllObjective, Objective
from tinsmith.workflows.metering import Meter
from tinsmith.workflows.rollouts import RolloutLimits, RolloutPlan, roll_out
from tinsmith.workflows.teacher_answers import AskSettings, Question, ask

NAME = "off-policy-distillation"


@frozen(kw_only=True)
class AskingConfig(chat_sl.Config):
    """Options of recipes whose teacher answers prompts. `data` names the prompts."""

    teachers: tuple[str, ...] = option(
        (), help="models, as model=: one for all sources or one for each; none: trained first, of what is made here"
    )
    teacher: TeacherSettings = option(factory=TeacherSettings, help="where teachers are")
    max_tokens: int = option(8, help="tokens that an answer of the teacher may have; a longer one is left out", min=1)
    temperature: float = option(1.0, help="of the teacher's answers", min=0)
    num_samples: int = option(1, help="answers to each prompt", min=1)
    max_rows: int | None = option(512, help="prompts of each source at most", min=1)
    test_size: int = option(128, help="prompts of each source set aside for evaluation", min=0)


@frozen(kw_only=True)
class Config(AskingConfig):
    data: tuple[str, ...] = option(
        ("arithmetic",),
        help="prompts: arithmetic, gsm8k, math, polaris, deepmath, recite (made here), no_robots, tulu3, files, hf://NAME",
    )
    samples: Literal["teacher", "data"] = option(
        "teacher", help="whose answers are learned: the teacher's, or those that the data have"
    )
    top_k: int = option(
        20, help="likeliest tokens of the teacher that are targets at each position; 0: the answers' own tokens", min=0
    )
    num_epochs: int = option(4, help="passes over the answers", min=1)


def run(config: Config, progress: Progress) -> int:
    validate(config)
    model = common.open_model(config)
    names = teaching.names_of(config.data)
    root = config.log_path or common.default_path(NAME, config, *names)
    with ExitStack() as open_:
        enter = open_.enter_context
        teachers = enter(teaching.open_teachers(config, model, config.data, root, progress, scores=config.top_k > 0))
        learned: AskingConfig = config
        test: list[ProblemSource] = []
        tested = list(range(len(config.data)))
        if config.samples == "teacher":
            train, test = enter(teaching.open_problems(config, model, progress.note))
            learned = asked(config, train, test, teachers, root, progress)
            tested = [i for i, s in enumerate(train) if s.name in {t.name for t in test}]
        if config.top_k:  # the teacher says what comes after an example's last token too
            shortest = min(teacher.sampler.context for teacher in teachers)
            longest = min(config.max_length or model.context, model.context, shortest - 1)
            learned = evolve(learned, max_length=longest)
        data, test_datums = chat_sl.load(learned, model, progress, teaching.SETS)

        def objective(meter: Meter) -> Objective:
            if not config.top_k:
                return NllObjective(config.reduction, test=test_datums, token_bytes=model.text_bytes)
            made = {id(t): SoftTargets(meter.sampler(t.sampler), config.top_k, config.timeout_s) for t in teachers}
            soft = [made[id(t)] for t in (teachers if len(made) > 1 else teachers[:1])]
            known = [tested[i] for i in test_datums.sources]
            return SoftObjective(soft, config.reduction, test=test_datums, test_sources=known)

        progress.note("the student learns")
        left = evolve(config, budget=teaching.left(config, root))
        handle = supervised.train(NAME, left, root / "student", model, data, objective, progress, report)
        compare(config, model, handle, [s for s in test if s.name in names and teaching.is_math(s.name)], progress)
    return 0


def report(progress: Progress, directory: Any) -> None:
    supervised.report(
        progress, directory, ("train_kl", "train_mean_nll", "train_mean_bpb", "test/kl", "test/nll", "test/bpb")
    )


def asked(
    config: AskingConfig,
    train: Sequence[ProblemSource],
    test: Sequence[ProblemSource],
    teachers: Sequence[Teacher],
    root: Path,
    progress: Progress,
    *,
    question: Callable[[Any], Question] = lambda prompt: Question(asked=prompt, kept=prompt),
    **settings: Any,
) -> AskingConfig:
    """The teachers' answers to all prompts, as files below `root`; the options that learn from them."""
    held_out = {source.name: source for source in test}
    by_name = dict(zip(teaching.names_of(config.data), zip(train, teachers, strict=True), strict=True))
    paths: list[str] = []
    test_paths: list[str] = []
    for name, (source, teacher) in by_name.items():
        for part, some, found in ((name, source, paths), (f"{name}-test", held_out.get(source.name), test_paths)):
            if some is None:
                continue
            prompts = teaching.questions_of(some, config.max_rows)
            progress.note(f"the teacher answers {len(prompts)} prompts of {part}")
            questions = [question(prompt) for prompt in prompts]
            path = root / f"answers-{part}.jsonl"
            how = AskSettings(
                max_tokens=config.max_tokens,
                temperature=config.temperature,
                samples=config.num_samples,
                seed=config.seed,
                timeout_s=config.timeout_s,
                **settings,
            )
            answers = ask(
                teacher.sampler,
                teacher.model.renderer,
                questions,
                how,
                path=path,
                of=_digest(config, teacher, how, questions),
                files=bootstrap.local_files(),
                progress=progress,
                spending=costs.spending(evolve(config, budget=teaching.left(config, root, but=path))),
            )
            found.append(str(answers.path))
    most = config.test_size * config.num_samples
    return evolve(config, data=tuple(paths), test_data=tuple(test_paths), test_size=most, max_rows=None)


def _digest(config: AskingConfig, teacher: Teacher, how: AskSettings, questions: Sequence[Question]) -> str:
    """Of all that answers follow from."""
    names = ("model", "backend", "teachers", "teacher", "seed", "lora")
    whole = {name: value for name, value in to_dict(config).items() if name in names}
    asked_so = (how.max_tokens, how.temperature, how.samples, how.seed, how.extract)
    text = repr((sorted(whole.items()), teacher.model.renderer_name, asked_so, questions))
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def compare(config: AskingConfig, model: Model, handle: str, test: Sequence[ProblemSource], progress: Progress) -> None:
    """Right answers to held-out problems, of the start model and of the student, the same draws for both."""
    if not test:
        return
    rows = []
    with ExitStack() as open_:
        student = common.open_state(open_, model, config, handle, "student")
        start = open_.enter_context(model.sampler())
        for source in test:
            rows.append([f"right answers to {source.name}", *(_correct(config, s, source) for s in (start, student))])
    progress.table("sampled", ["", "before", "after"], rows)


def _correct(config: AskingConfig, sampler: Sampler, source: ProblemSource) -> float:
    plan = RolloutPlan(
        limits=RolloutLimits(max_tokens=config.max_tokens, turn_timeout=config.timeout_s),
        group_size=1,
        seed=config.seed,
        split="test/0",
    )
    return episode_metrics(roll_out(sampler, [source[i] for i in range(len(source))], plan))["env/all/correct"]


def check(config: Config) -> Iterable[Any]:
    """A prompt of each source (of given answers one example), and what the run would take; trains nothing."""
    validate(config)
    model = common.open_model(config)
    if config.samples == "data":
        notes = Notes()
        data, test = chat_sl.load(config, model, notes, teaching.SETS)
        yield from notes.texts
        drawn = data.batch(0, sources.RENDERED_AT_ONCE)
        yield from common.show_example(model, drawn.batch[0])
        yield f"{len(data)} examples a pass, {len(test)} test datums"
        tokens = drawn.batch.num_tokens / drawn.end
        read = tokens if config.top_k else 0.0
        yield from supervised.forecast(config, model, data, tokens, sum(d.num_tokens for d in test), read=read)
        return
    yield from check_asking(config, model)


def check_asking(config: AskingConfig, model: Model, longer: int = 0, reads: bool = True) -> Iterable[Any]:
    """longer: tokens that the teacher reads beside the prompt. reads: it also reads what is trained."""
    notes: list[str] = []
    with teaching.open_problems(config, model, notes.append) as (train, _):
        yield from notes
        examples, prompts = 0, 0
        for name, source in zip(teaching.names_of(config.data), train, strict=True):
            tokens = reinforcement.first_prompt(source)
            number = min(len(source), config.max_rows or len(source))
            yield f"one prompt of {name}, {len(tokens)} tokens, to which the teacher's answer is learned:"
            yield model.tokenizer.decode(tokens)
            yield f"{number} prompts of {name}, {config.num_samples} answers each"
            examples, prompts = examples + number * config.num_samples, prompts + number * (len(tokens) + longer)
        if not config.teachers:
            yield f"a teacher of each is trained first, in {config.teacher.max_steps} steps"
    steps = -(-examples // config.batch_size) * config.num_epochs
    steps = steps if config.max_steps is None else min(steps, config.max_steps)
    seen = min(steps * config.batch_size, examples * config.num_epochs)
    trained = seen * (len(tokens) + config.max_tokens)
    yield costs.estimate(model, config.lora, steps, trained, examples * config.max_tokens)
    used = Tokens(prefill=prompts + reads * trained, sample=examples * config.max_tokens, train=trained)
    yield from costs.forecast(config, used)


def validate(config: Config) -> None:
    sources.validate(config, teaching.SETS)
    teaching.check_teachers(config.data, config.teachers, config.teacher)
    if config.samples == "data":
        if not config.top_k:
            raise ConfigError("samples=data top_k=0 takes nothing of the teacher: that is chat-sl")
        if not config.teachers:
            raise ConfigError("samples=data: name the teacher of these conversations with teachers=MODEL")
    if config.top_k and len(set(config.teachers)) > 1 and len(config.test_data) not in (0, len(config.data)):
        raise ConfigError(
            f"{len(config.test_data)} test_data for {len(config.data)} sources with a teacher each: give one for each, "
            "or take test_size="
        )
    if config.samples == "teacher" and config.test_data:
        raise ConfigError("test_data= goes with samples=data; the teacher answers test_size= prompts set aside")

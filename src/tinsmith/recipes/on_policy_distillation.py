"""on-policy-distillation: the student samples, a teacher scores each of its tokens, and what the teacher finds unlikely
becomes so."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Literal

from attrs import evolve, frozen

from tinsmith.config import option
from tinsmith.domain.distillation import check_coef
from tinsmith.domain.errors import ConfigError
from tinsmith.envs.base import ProblemSource
from tinsmith.envs.prompt import JoinedProblems, MixedProblems
from tinsmith.ports.progress import Progress
from tinsmith.recipes import common, reinforcement, teaching
from tinsmith.recipes.reinforcement import Environments, RLConfig
from tinsmith.recipes.teaching import Teacher, TeacherSettings

NAME = "on-policy-distillation"


@frozen(kw_only=True)
class Config(RLConfig):
    data: tuple[str, ...] = option(
        ("arithmetic",),
        help="prompts: arithmetic, gsm8k, math, polaris, deepmath, recite (made here), no_robots, tulu3, files, hf://NAME",
    )
    weights: tuple[float, ...] = option(
        (), help="how often each source is drawn; none: as many prompts as each has", exclusive_min=0
    )
    teachers: tuple[str, ...] = option(
        (), help="models, as model=: one for all sources or one for each; none: trained first, of what is made here"
    )
    teacher: TeacherSettings = option(factory=TeacherSettings, help="where teachers are")
    max_rows: int | None = option(None, help="rows read of each source at most", min=1)
    test_size: int = option(256, help="prompts of each source set aside for evaluation", min=0)
    too_long: Literal["raise", "skip"] = option(
        "raise", help="what becomes of a prompt that leaves no room for max_tokens"
    )
    kl_penalty_coef: float = option(1.0, help="weight of the teachers' opinion", min=0)
    kl_discount_factor: float = option(
        0.0, help="discount with which their opinion of a token reaches earlier ones", min=0, max=1
    )
    reward_coef: float = option(
        0.0, help="weight of the problems' own rewards beside it; 0: they are measured alone", min=0
    )
    remove_constant_groups: bool = option(False, help="leave out groups whose attempts all earned the same")
    groups_per_batch: int = option(64, help="prompts a step", min=1)
    max_steps: int = option(20, help="steps: batches of rollouts", min=1)


def run(config: Config, progress: Progress, name: str = NAME) -> int:
    validate(config)
    model = common.open_model(config)
    names = teaching.names_of(config.data)
    root = config.log_path or common.default_path(name, config, *names)
    with ExitStack() as open_:

        def teachers_of_all() -> list[Teacher]:
            return open_.enter_context(teaching.open_teachers(config, model, config.data, root, progress))

        # A teacher that is named may have a shorter context; one that is trained here has the student's.
        named = teachers_of_all() if config.teachers else []
        train, test = open_.enter_context(teaching.open_problems(config, model, progress.note, named))
        teachers = named or teachers_of_all()
        progress.note("the student learns")
        reinforcement.train(
            name,
            evolve(config, budget=teaching.left(config, root)),
            progress,
            model,
            mixed(config, train),
            JoinedProblems(tuple(test)) if test else None,
            root / "student",
            shown(config, names),
            teachers={name: teacher.sampler for name, teacher in zip(names, teachers, strict=True)},
            reward_coef=config.reward_coef,
        )
    return 0


@contextmanager
def environments(config: Config, note: Callable[[str], object]) -> Iterator[Environments]:
    validate(config)
    model = common.open_model(config)
    with teaching.open_problems(config, model, note) as (train, test):
        yield Environments(model, mixed(config, train), JoinedProblems(tuple(test)) if test else None)


def shown(config: Config, names: Sequence[str]) -> list[tuple[str, str]]:
    lines = [("log(student / teacher) a token", "teacher_kl")]
    if len(names) > 1:
        lines += [(f"  {name}", f"teacher_kl/{name}") for name in names]
    math = [name for name, source in zip(names, config.data, strict=True) if teaching.is_math(source)]
    return lines + [(f"right answers to {name}", f"env/{name}/correct") for name in math]


def mixed(config: Config, sources: Sequence[ProblemSource]) -> ProblemSource:
    return MixedProblems(tuple(sources), config.weights or None, config.seed)


def check(config: Config) -> Iterable[Any]:
    """A prompt of each source, and what the run would take; trains nothing."""
    validate(config)
    model = common.open_model(config)
    notes: list[str] = []
    with teaching.open_problems(config, model, notes.append) as (train, test):
        yield from notes
        lengths = []
        for name, source in zip(teaching.names_of(config.data), train, strict=True):
            tokens = reinforcement.first_prompt(source)
            lengths.append(len(tokens))
            yield f"one prompt of {name}, {len(tokens)} tokens; the student's answers to it are scored by the teacher:"
            yield model.tokenizer.decode(tokens)
            yield f"{len(source)} prompts of {name}"
        if not config.teachers:
            yield f"a teacher of each is trained first, in {config.teacher.max_steps} steps"
        length = sum(lengths) // len(lengths)
        yield from reinforcement.forecast(config, model, mixed(config, train), length, sum(map(len, test)))


def validate(config: Config) -> None:
    reinforcement.validate(config)
    check_coef(config.kl_penalty_coef, config.kl_discount_factor)
    if config.weights and len(config.weights) != len(config.data):
        raise ConfigError(f"{len(config.weights)} weights for {len(config.data)} sources: give each one, or none")
    if config.reward_coef == 0 and config.remove_constant_groups:
        raise ConfigError("remove_constant_groups compares rewards, which teach nothing here: take a reward_coef too")
    teaching.check_teachers(config.data, config.teachers, config.teacher)

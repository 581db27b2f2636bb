"""Configuration: one config, however it is said.

Code, a file and the command line are three ways to write the same thing; what a run wrote down reads back equal; and
a mistake is named before any work is done, with its place and the way out.
"""

from __future__ import annotations

import json
import math
from enum import Enum
from pathlib import Path
from typing import Any, Literal

import attrs
import pytest
import yaml
from hypothesis import assume, example, given
from hypothesis import strategies as st

from tinsmith.config import Resolved, dumps, flat, from_dict, load, option, options_of, resolve, to_dict
from tinsmith.config.values import Misfit, Text, fit, show
from tinsmith.domain.errors import ConfigError


class Color(Enum):
    RED = "red"
    NONE = "none"


@attrs.frozen(kw_only=True)
class Adam:
    beta1: float = option(0.9, help="Decay of the first moment.", min=0, exclusive_max=1)
    eps: float = option(1e-8, help="Added to the root of the second moment.", exclusive_min=0)


@attrs.frozen(kw_only=True)
class Reference:
    model: str = option("tiny", help="The model that KL is measured against.")
    adam: Adam = option(factory=Adam, help="A group in a group.")


@attrs.frozen(kw_only=True)
class Config:
    """An option of every type that configs may have."""

    model: str = option("tiny", help="A model directory or name.")
    learning_rate: float = option(1e-4, help="Peak learning rate.", exclusive_min=0)
    batch_size: int = option(8, help="Datums a step.", min=1, max=1 << 20)
    shuffle: bool = option(True, help="Draw a new order each epoch.")
    data: Path = option(Path("data.jsonl"), help="Where the rows are.")
    schedule: Literal["linear", "cosine"] = option("linear", help="The learning rate over the run.")
    color: Color = option(Color.RED, help="A choice by enum.")
    loss: str = option("ppo", help="The token loss.", choices=("ppo", "cispo"))
    cache: Path | None = option(None, help="Where rows are kept.")
    max_steps: int | None = option(None, help="Where to stop.", min=0)
    note: str | None = option(None, help="Anything.")
    warmup: float | Literal["auto"] = option("auto", help="Steps of warm-up.")
    stop: tuple[str, ...] = option((), help="Strings that end a completion.")
    betas: tuple[float, int] = option((0.5, 1), help="A pair.")
    seeds: list[int] = option(factory=list, help="Seeds to run.")
    loss_config: dict[str, float] = option(factory=lambda: {"clip": 0.2}, help="Options of the loss.")
    adam: Adam = option(factory=lambda: Adam(beta1=0.8), help="The optimizer.")
    reference: Reference | None = option(None, help="The reference policy.")


WRONG = {
    "learning_rate": ["fast", "0", "nan", "inf", "1e400", "-1", "none", "1,2"],
    "batch_size": ["0", "1.5", "many", "true", "1e99999999", "inf", "1048577"],
    "shuffle": ["maybe", "2", ""],
    "data": ["", "s3://bucket/rows.jsonl"],
    "schedule": ["cosin", "none"],
    "color": ["blue"],
    "loss": ["dpo"],
    "max_steps": ["-1", "some"],
    "warmup": ["automatic"],
    "betas": ["1", "1,2,3", "1,x"],
    "seeds": ["1,x", "[1", "[1.5]"],
    "loss_config": ['{"clip": "x"}', "clip"],
    "adam": ["3"],
    "adam.beta1": ["1", "x"],
    "adam.eps": ["0"],
    "reference.adam.beta1": ["-0.1"],
}
"""Text that each option refuses. (model, note and stop take any text.)"""

numbers = st.floats(allow_nan=False)
words = st.text(max_size=8) | st.sampled_from(["none", "true", "1", "1e3", '"none"', "a,b", "[1]", "~", " a ", "{}"])
paths = st.sampled_from(["a", "none", "1", "a b/c.jsonl", "../x", "/tmp/y,z", '"q"']).map(Path)
adams = st.builds(
    Adam, beta1=st.floats(0, 1, exclude_max=True), eps=st.floats(0, exclude_min=True, allow_infinity=False)
)
configs = st.builds(
    Config,
    model=words,
    learning_rate=st.floats(0, exclude_min=True, allow_infinity=False),
    batch_size=st.integers(1, 1 << 20),
    shuffle=st.booleans(),
    data=paths,
    schedule=st.sampled_from(["linear", "cosine"]),
    color=st.sampled_from(Color),
    loss=st.sampled_from(["ppo", "cispo"]),
    cache=st.none() | paths,
    max_steps=st.none() | st.integers(0, 10**20),
    note=st.none() | words,
    warmup=numbers | st.just("auto"),
    stop=st.lists(words, max_size=3),
    betas=st.tuples(numbers, st.integers()),
    seeds=st.lists(st.integers(), max_size=3),
    loss_config=st.dictionaries(st.text("ab.-=\n\"'", max_size=3), numbers, max_size=2),
    adam=adams,
    reference=st.none() | st.builds(Reference, model=words, adam=adams),
)


def command_line(config: Any, *, short: bool = True) -> list[str]:
    """The words that say this config in full; `short` without the quotes that their types do not need."""
    if short:
        return [f"{name}={text}" for name, text, _ in Resolved(config, dict.fromkeys(flat(config), "")).rows()]
    return [f"{name}={show(value)}" for name, value in flat(config).items()]


# --- one config, three ways to say it ---------------------------------------------------------------------------------


@given(configs)
@example(Config(loss_config={"clip": math.inf}, note="none", stop=["none", ""], warmup=1))
def test_what_was_written_down_reads_back_equal(config: Config) -> None:
    assert from_dict(Config, to_dict(config)) == config
    assert from_dict(Config, json.loads(dumps(config))) == config
    assert dumps(from_dict(Config, json.loads(dumps(config)))) == dumps(config)


@given(configs, st.booleans())
def test_the_command_line_says_the_same_as_code(config: Config, short: bool) -> None:
    assert resolve(Config, pairs=command_line(config, short=short)).config == config


@given(configs, st.sampled_from([".json", ".yaml"]))
def test_a_file_says_the_same_as_code(tmp_path_factory: pytest.TempPathFactory, config: Config, suffix: str) -> None:
    path = tmp_path_factory.mktemp("config") / f"run{suffix}"
    path.write_text(yaml.safe_dump(to_dict(config)) if suffix == ".yaml" else dumps(config), encoding="utf-8")
    assert load(Config, path) == config
    assert resolve(Config, pairs=[f"config={path}"]).config == config


def test_a_toml_file_says_the_same_as_code(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text(
        'model = "none"\nlearning_rate = 1\nbatch-size = 1e3\nmax_steps = "none"\nstop = ["a,b"]\nadam.beta1 = 0.5\n'
        "[loss_config]\nclip_low = 0.1\n[reference.adam]\neps = 1e-5\n"
    )
    assert load(Config, path) == Config(
        model="none",
        learning_rate=1.0,
        batch_size=1000,
        stop=("a,b",),
        adam=Adam(beta1=0.5),
        loss_config={"clip_low": 0.1},
        reference=Reference(adam=Adam(eps=1e-5)),
    )


def test_a_run_directory_is_a_file_too(tmp_path: Path) -> None:
    config = Config(batch_size=3)
    (tmp_path / "config.json").write_text(dumps(config))
    assert resolve(Config, pairs=[f"config={tmp_path}"]).config == config


@given(configs, configs)
def test_what_comes_later_wins_and_says_so(
    tmp_path_factory: pytest.TempPathFactory, first: Config, second: Config
) -> None:
    path = tmp_path_factory.mktemp("config") / "first.json"
    path.write_text(dumps(first), encoding="utf-8")
    resolved = resolve(Config, files=[path], pairs=command_line(second))
    assert resolved.config == second
    assert set(resolved.origin.values()) == {"command line"}
    assert list(resolved.origin) == list(flat(second))

    one = resolve(Config, files=[path], pairs=["batch_size=7"])
    assert one.config == attrs.evolve(first, batch_size=7)
    assert {name for name, origin in one.origin.items() if origin == "command line"} == {"batch_size"}
    assert one.origin["model"] == f"file {path}"


def test_the_order_on_the_command_line_is_the_order_of_the_layers(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text("batch_size = 2")
    assert resolve(Config, pairs=["batch_size=1", f"config={path}"]).config.batch_size == 2
    assert resolve(Config, pairs=[f"config={path}", "batch_size=1"]).config.batch_size == 1


def test_one_option_of_a_group_leaves_the_others_as_they_were() -> None:
    config = resolve(Config, pairs=["adam.eps=1e-5", "loss_config.a-b=1", "reference.model=big"]).config
    assert config.adam == Adam(beta1=0.8, eps=1e-5)
    assert config.loss_config == {"clip": 0.2, "a-b": 1.0}
    assert config.reference == Reference(model="big")
    assert resolve(Config, pairs=["reference.model=big", "reference=none"]).config.reference is None


def test_a_group_that_was_none_starts_from_its_defaults_and_says_so(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text('reference.model = "big"')
    resolved = resolve(Config, pairs=[f"config={path}", "reference=none", "reference.adam.eps=1"])
    assert resolved.config.reference == Reference(adam=Adam(eps=1.0))
    assert resolved.origin["reference.model"] == "default"
    assert resolved.origin["reference.adam.eps"] == "command line"
    assert resolve(Config, files=[path], pairs=["loss_config.a=1"]).origin["loss_config"] == "command line"


@pytest.mark.parametrize("word", ["--batch-size=4", "--batch_size=4", "batch-size=4", "batch_size=4.0"])
def test_dashes_do_not_matter(word: str) -> None:
    assert resolve(Config, pairs=[word]).config.batch_size == 4


# --- values are exact or refused --------------------------------------------------------------------------------------


@given(configs)
def test_code_takes_what_fits_without_loss(config: Config) -> None:
    """A list for a tuple, an int for a float, the text of an enum; and taking it once more changes nothing."""
    given = {f.name: getattr(config, f.name) for f in attrs.fields(Config)}
    given |= {"stop": list(config.stop), "betas": list(config.betas), "color": config.color.value}
    assert Config(**given) == config
    assert type(Config(learning_rate=1).learning_rate) is float


@given(st.floats())
def test_a_whole_number_is_never_made_by_rounding(number: float) -> None:
    for value in (number, Text(repr(number))):
        if number.is_integer() and abs(number) < 1e30:
            assert float(fit(value, int)) == number
        elif not number.is_integer():
            with pytest.raises(Misfit):
                fit(value, int)


@given(st.text())
@example("__import__('os').getcwd()")
@example("1+1")
def test_text_is_never_evaluated(text: str) -> None:
    assume(not text.startswith('"'))
    assert resolve(Config, pairs=[f"model={text}"]).config.model == text


def test_nan_is_no_setting() -> None:
    with pytest.raises(ConfigError, match="low=nan"):
        Needy(data=Path("x"), low=math.nan)


# --- mistakes ---------------------------------------------------------------------------------------------------------

MEANING = {row.name: row.bounds.help for row in options_of(Config)}
mistakes = st.lists(st.sampled_from(sorted(set(WRONG) - {"adam"})), min_size=1, unique=True).flatmap(
    lambda names: st.fixed_dictionaries({name: st.sampled_from(WRONG[name]) for name in names})
)


@pytest.mark.parametrize(("name", "text"), [(name, text) for name, texts in WRONG.items() for text in texts])
def test_a_wrong_value_names_its_option_its_source_and_its_meaning(name: str, text: str) -> None:
    with pytest.raises(ConfigError) as refused:
        resolve(Config, pairs=[f"{name}={text}"])
    assert str(refused.value).startswith(f"{name}=")
    assert "(command line): expected " in str(refused.value)
    assert MEANING[name] in str(refused.value)


@given(mistakes, st.booleans())
def test_all_mistakes_are_told_at_once(
    tmp_path_factory: pytest.TempPathFactory, wrong: dict[str, str], in_file: bool
) -> None:
    if in_file:
        path = tmp_path_factory.mktemp("config") / "run.json"
        path.write_text(json.dumps(wrong))
        pairs, source = [f"config={path}"], f"file {path}"
    else:
        pairs, source = [f"{name}={text}" for name, text in wrong.items()], "command line"
    with pytest.raises(ConfigError) as refused:
        resolve(Config, pairs=[*pairs, "bach_size=3", "stray"])
    lines = str(refused.value).splitlines()
    assert len([line for line in lines if line.startswith("- ")]) == len(wrong) + 2
    assert f"{len(wrong) + 2} mistakes" in lines[0]
    for name in wrong:
        place = next(i for i, line in enumerate(lines) if line.startswith(f"- {name}=") and f"({source})" in line)
        assert MEANING[name] in lines[place + 1]
    assert any("bach_size=3" in line and "did you mean batch_size?" in line for line in lines)
    assert any("'stray'" in line and "key=value" in line for line in lines)


def test_code_is_told_all_mistakes_at_once_too() -> None:
    with pytest.raises(ConfigError) as refused:
        Config(learning_rate=-1.0, batch_size=0, schedule="cosin")  # type: ignore[arg-type]
    message = str(refused.value)
    assert message.startswith("3 mistakes")
    for part in ("learning_rate=-1.0", "batch_size=0", "schedule=cosin", "did you mean cosine?", "Peak learning rate."):
        assert part in message


@given(st.sampled_from([row.name for row in options_of(Config) if len(row.name) > 5]), st.data())
def test_a_misspelt_option_is_refused_with_the_nearest_name(name: str, data: st.DataObject) -> None:
    at = data.draw(st.integers(name.rfind(".") + 1, len(name) - 1))
    wrong = name[:at] + data.draw(st.sampled_from(["", "x", name[at] * 2])) + name[at + 1 :]
    assume(wrong not in MEANING)
    with pytest.raises(ConfigError) as refused:
        resolve(Config, pairs=[f"{wrong}=1"])
    assert f"{wrong}=1 (command line): there is no such option; did you mean {name}?" in str(refused.value)
    assert MEANING[name] in str(refused.value)


def test_quotes_are_shown_only_where_they_change_what_is_meant() -> None:
    config = Config(model="none", note="none", color=Color.NONE, stop=("a", "b,c"), schedule="cosine", loss_config={})
    shown = {name: text for name, text, _ in Resolved(config, dict.fromkeys(flat(config), "")).rows()}
    assert (shown["model"], shown["color"], shown["schedule"], shown["cache"]) == ("none", "none", "cosine", "none")
    assert (shown["note"], shown["stop"]) == ('"none"', '["a", "b,c"]')
    kinds = {row.name: row.type for row in options_of(Config)}
    assert (kinds["color"], kinds["max_steps"], kinds["reference"]) == ("red | none", "int | none", "group | none")


@pytest.mark.parametrize(("short", "name"), [("lr", "learning_rate"), ("bs", "batch_size"), ("eps", "adam.eps")])
def test_short_names_are_understood_though_not_obeyed(short: str, name: str) -> None:
    with pytest.raises(ConfigError, match=f"did you mean {name}\\?"):
        resolve(Config, pairs=[f"{short}=1"] if short != "eps" else ["epsi=1"])


def test_a_required_option_that_nobody_gave_is_named() -> None:
    with pytest.raises(ConfigError, match=r"data: is required\n    data: path, required\. Where"):
        resolve(Needy)
    assert resolve(Needy, pairs=["data=x"]).config == Needy(data=Path("x"))


def test_a_contradiction_between_options_is_told_in_its_own_words() -> None:
    with pytest.raises(ConfigError, match=r"low=3\.0 is above high=1\.0"):
        resolve(Needy, pairs=["data=x", "low=3"])


@attrs.frozen(kw_only=True)
class Needy:
    data: Path = option(help="Where the rows are.")
    low: float = option(0.0, help="Low end.")
    high: float = option(1.0, help="High end.")

    def __attrs_post_init__(self) -> None:
        if self.low > self.high:
            raise ConfigError(f"low={self.low} is above high={self.high}")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=8,
)
names = st.sampled_from([*MEANING, "nothing", "adam.x", "adam.eps.x", "model.x", "", ".", "adam."])


@given(st.dictionaries(names, json_values, max_size=5), st.lists(st.tuples(names, st.text()), max_size=4))
def test_any_input_gives_a_config_or_a_config_error(data: dict[str, Any], pairs: list[tuple[str, str]]) -> None:
    for make in (
        lambda: from_dict(Config, data),
        lambda: resolve(Config, pairs=[f"{name}={text}" for name, text in pairs if name != "config"]).config,
    ):
        try:
            config = make()
        except ConfigError:
            continue
        assert from_dict(Config, to_dict(config)) == config

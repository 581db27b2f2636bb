"""From defaults, files, command line and code to one config, and back.

Everything becomes nested data first (later wins, option by option), and cattrs structures that into the class: so a
file, the command line and code cannot disagree about what a value means. All mistakes are reported together.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

import attrs

from tinsmith.config.files import read_file
from tinsmith.config.options import (
    Problem,
    default_of,
    explain,
    fields,
    fit_option,
    group_of,
    options_of,
)
from tinsmith.config.values import NONE_WORDS, Misfit, Text, nearest, plain, show_as
from tinsmith.domain.errors import ConfigError

C = TypeVar("C")
DEFAULT = "default"
COMMAND_LINE = "command line"
FILE_KEY = "config"
"""`config=FILE` on the command line names a file and so is no name for an option."""


@attrs.frozen
class Resolved(Generic[C]):
    """A config and where each of its values came from."""

    config: C
    origin: Mapping[str, str]
    """By dotted name: "default", "file run.toml" or "command line"."""

    def rows(self) -> list[tuple[str, str, str]]:
        """Dotted name, value as the command line reads it, origin."""
        kinds = {row.name: row.kind for row in options_of(type(self.config))}
        return [(name, show_as(value, kinds[name]), self.origin[name]) for name, value in flat(self.config).items()]


def resolve(cls: type[C], *, files: Iterable[str | Path] = (), pairs: Iterable[str] = ()) -> Resolved[C]:
    """The config that defaults, then `files`, then `pairs` ("adam.beta1=0.9", "config=run.toml") make; later wins.

    Raises ConfigError with every mistake in it; each names its option, the value, its source, and the way out.
    """
    layers = _Layers(cls)
    for file in files:
        layers.put((), read_file(file), f"file {file}")
    problems = []
    words = [*pairs, ""]
    for i, word in enumerate(words[:-1]):
        key, equals, value = word.partition("=")
        key = key.lstrip("-")
        if not equals and i and _value_of(cls, words[i - 1], word):
            continue  # said with the word before
        if not equals or not key:
            problems.append(Problem("", _not_a_pair(cls, word, words[i + 1])))
        elif key == FILE_KEY:
            layers.put((), read_file(value), f"file {value}")
        else:
            layers.put(key.split("."), Text(value), COMMAND_LINE)
    config = layers.structure(problems)
    return Resolved(config, {name: layers.source(name) or DEFAULT for name in flat(config)})


def to_dict(config: Any) -> dict[str, Any]:
    """A config as JSON data; `from_dict` gives an equal config back."""
    data: dict[str, Any] = _converter().unstructure(config)
    return data


def from_dict(cls: type[C], data: Mapping[str, Any], *, source: str = "") -> C:
    """The config that `to_dict` wrote; what is missing takes its default. Raises ConfigError."""
    layers = _Layers(cls)
    layers.put((), data, source)
    config: C = layers.structure([])
    return config


def dumps(config: Any) -> str:
    """A config as the JSON text of a run directory's config.json."""
    return json.dumps(to_dict(config), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def load(cls: type[C], path: str | Path) -> C:
    """The config of a TOML, JSON or YAML file or of a run directory. Raises ConfigError."""
    return from_dict(cls, read_file(path), source=f"file {path}")


def flat(config: Any, prefix: str = "") -> dict[str, Any]:
    """The values of a config by dotted name, in order; a group that is None is one value."""
    values: dict[str, Any] = {}
    for field, kind in fields(type(config)):
        value, name = getattr(config, field.name), prefix + field.name
        if group_of(kind) is not None and value is not None:
            values |= flat(value, name + ".")
        else:
            values[name] = value
    return values


class _Layers:
    """Nested data that starts as the defaults of a class and takes one layer over another."""

    def __init__(self, cls: type) -> None:
        assert FILE_KEY not in attrs.fields_dict(cls), f"an option of {cls.__name__} may not be called {FILE_KEY!r}"
        self.cls = cls
        self.data = _defaults(cls)
        self.sources: dict[tuple[str, ...], str] = {}

    def put(self, path: Sequence[str], value: Any, source: str) -> None:
        """Set the option, or each option of the group, that `path` names. Nothing is checked yet."""
        node: dict[str, Any] = self.data
        group: type | None = self.cls
        done: list[str] = []
        for i, part in enumerate(path):
            part = part.replace("-", "_") if group else part
            done.append(part)
            group = _child_group(group, part)
            if i == len(path) - 1 and not (group and isinstance(value := _table(value), Mapping)):
                node[part] = value
                self._replaced(done, source)
                return
            if not isinstance(node.get(part), dict):
                node[part] = {}  # a group that was none starts from its own defaults
                self._replaced(done, DEFAULT)
            node = node[part]
        if not node:
            self.sources[tuple(done)] = source
        for key, item in value.items():
            self.put([*done, *str(key).split(".")], item, source)

    def _replaced(self, path: Sequence[str], source: str) -> None:
        self.sources = {at: by for at, by in self.sources.items() if at[: len(path)] != tuple(path)}
        self.sources[tuple(path)] = source

    def structure(self, problems: list[Problem]) -> Any:
        """The config; ConfigError for `problems` and all that the data adds to them."""
        import cattrs

        config = None
        try:
            config = _converter().structure(self.data, self.cls)
        except cattrs.BaseValidationError as error:
            self._collect(error, (), problems)
        if problems:
            raise ConfigError(explain(self.cls, problems))
        return config

    def source(self, name: str) -> str:
        """Who set an option last, or the group that it is in."""
        path = tuple(name.split("."))
        below = (source for at, source in self.sources.items() if at[: len(path)] == path and at != path)
        above = (self.sources[path[:n]] for n in range(len(path), -1, -1) if path[:n] in self.sources)
        return next(below, "") or next(above, "")

    def _collect(self, error: Exception, path: tuple[str, ...], problems: list[Problem]) -> None:
        from cattrs import ClassValidationError, ForbiddenExtraKeysError

        name = ".".join(path)
        if isinstance(error, ClassValidationError):
            noted, others = error.group_exceptions()
            for inner, note in noted:
                self._collect(inner, (*path, note.name), problems)
            for inner in others:
                self._collect(inner, path, problems)
        elif isinstance(error, ForbiddenExtraKeysError):
            for key in sorted(error.extra_fields):
                unknown = ".".join((*path, key))
                given = self._given((*path, key))
                meant = nearest(unknown, [row.name for row in options_of(self.cls)])
                what = "there is no such option" + (f"; did you mean {meant}?" if meant else "")
                problems.append(Problem(unknown, what, given=given, source=self.source(unknown), meant=meant))
        elif isinstance(error, Misfit):
            given = self._given(path)
            problems.append(Problem(name, f"expected {error}", given=given, source=self.source(name)))
        elif isinstance(error, KeyError):
            problems.append(Problem(name, "is required"))
        elif isinstance(error, ConfigError):
            problems.append(Problem(name, str(error)))
        else:
            raise error

    def _given(self, path: tuple[str, ...]) -> Any:
        return functools.reduce(lambda node, part: node[part], path, self.data)


@functools.cache
def _converter() -> Any:
    import cattrs
    from cattrs.gen import make_dict_structure_fn, make_dict_unstructure_fn, override

    converter = cattrs.Converter(forbid_extra_keys=True, detailed_validation=True)

    def structure_hook(field: attrs.Attribute[Any], kind: Any) -> Any:
        group = group_of(kind)

        def hook(value: Any, _: Any) -> Any:
            if group is None:
                return fit_option(value, field, kind)
            if group is not kind and (value is None or (isinstance(value, Text) and value.lower() in NONE_WORDS)):
                return None
            if isinstance(value, Mapping):
                return converter.structure(value, group)
            raise Misfit(f"a group of options, as in {field.name}.{next(fields(group))[0].name}=...")

        return hook

    def structure_class(cls: type) -> Any:
        hooks: Any = {field.name: override(struct_hook=structure_hook(field, kind)) for field, kind in fields(cls)}
        return make_dict_structure_fn(cls, converter, _cattrs_forbid_extra_keys=True, **hooks)

    def unstructure_class(cls: type) -> Any:
        hooks: Any = {
            field.name: override(unstruct_hook=plain) for field, kind in fields(cls) if group_of(kind) is None
        }
        return make_dict_unstructure_fn(cls, converter, **hooks)

    converter.register_structure_hook_factory(attrs.has, structure_class)
    converter.register_unstructure_hook_factory(attrs.has, unstructure_class)
    return converter


def _defaults(cls: type) -> dict[str, Any]:
    data = {}
    for field, _ in fields(cls):
        default = default_of(field)
        if default is not attrs.NOTHING:
            data[field.name] = to_dict(default) if attrs.has(type(default)) else plain(default)
    return data


def _child_group(cls: type | None, name: str) -> type | None:
    return next((group_of(kind) for field, kind in fields(cls) if field.name == name), None) if cls else None


def _table(value: Any) -> Any:
    """A group typed as JSON, `adam={"beta1": 0.9}`, as the table that it is."""
    if isinstance(value, Text) and value.startswith("{"):
        try:
            return json.loads(value)
        except ValueError:
            return value
    return value


def _value_of(cls: type, word: str, after: str) -> str | None:
    """The key of `--key value` or `key value`, typed where key=value is meant."""
    key = word.lstrip("-").replace("-", "_")
    is_key = "=" not in word and any(row.name == key for row in options_of(cls))
    return key if is_key and after and "=" not in after and not after.startswith("--") else None


def _not_a_pair(cls: type, word: str, after: str) -> str:
    """What to say of a word without `=`."""
    key = _value_of(cls, word, after)
    if key:
        return f"{word} {after}: options are written key=value; did you mean {key}={after}?"
    names = [row.name for row in options_of(cls)]
    meant = nearest(word.strip("-=").replace("-", "_"), names)
    return f"{word!r}: options are written key=value" + (f"; did you mean {meant}=...?" if meant else "")

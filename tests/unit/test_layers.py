"""Imports run downhill also where a module is named in a string, which import-linter does not see."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tinsmith
from tinsmith.recipes import RECIPES

SOURCES = Path(tinsmith.__file__).parent
CONTRACTS: list[dict[str, Any]] = tomllib.loads(Path(__file__).parents[2].joinpath("pyproject.toml").read_text())[
    "tool"
]["importlinter"]["contracts"]


def within(module: str, packages: list[str]) -> str | None:
    """The package among these that a module belongs to."""
    return next((p for p in packages if module == p or module.startswith(f"{p}.")), None)


def refused(importer: str, imported: str) -> str | None:
    """The name of the contract that keeps one module from importing another."""
    for contract in CONTRACTS:
        if contract["type"] == "layers":
            rows = [re.findall(r"[\w.]+", row) for row in contract["layers"]]
            rank = {package: number for number, row in enumerate(rows) for package in row}
            above, below = within(imported, list(rank)), within(importer, list(rank))
            if above is not None and below is not None and above != below and rank[above] <= rank[below]:
                return str(contract["name"])
        elif contract["type"] == "forbidden":
            here, there = within(importer, contract["source_modules"]), within(imported, contract["forbidden_modules"])
            if here is not None and there is not None:
                return str(contract["name"])
    return None


def named(text: str) -> Iterator[str]:
    """The modules of the package that the strings of a source name, also as the beginning of an f-string."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            name = node.value.rstrip(".")
            path = SOURCES.parent.joinpath(*name.split("."))
            if re.fullmatch(r"tinsmith(\.\w+)+", name) and (path.is_dir() or path.with_suffix(".py").is_file()):
                yield name


def test_no_module_names_one_of_a_layer_above_it() -> None:
    found, uphill = set(), []
    for file in SOURCES.rglob("*.py"):
        importer = ".".join(file.relative_to(SOURCES.parent).with_suffix("").parts).removesuffix(".__init__")
        for imported in named(file.read_text(encoding="utf-8")):
            found.add(imported)
            if (why := refused(importer, imported)) is not None:
                uphill.append(f"{importer} names {imported}: {why}")
    assert found >= {recipe.module for recipe in RECIPES.values()}  # which are named in a table
    assert not uphill, "\n".join(uphill)


def test_the_contracts_are_read() -> None:
    assert refused("tinsmith.rendering.registry", "tinsmith.bootstrap") == "imports run downhill"
    assert refused("tinsmith.workflows.rl", "tinsmith.bootstrap.models") == "imports run downhill"
    assert refused("tinsmith.envs.code", "tinsmith.adapters.local.files")
    assert refused("tinsmith.domain.tokens", "tinsmith.config")
    assert refused("tinsmith.bootstrap.models", "tinsmith.rendering") is None
    assert refused("tinsmith.adapters.graders.pool", "tinsmith.adapters.graders.worker") is None
    assert list(named('import_module("tinsmith.bootstrap").load_tokenizer')) == ["tinsmith.bootstrap"]
    assert list(named('f"tinsmith.adapters.{x}"; "tinsmith.no_such_thing"; "tinsmith"')) == ["tinsmith.adapters"]

"""`import tinsmith` is light, and its public names are what a type checker sees."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import tinsmith

HEAVY = {
    *("numpy", "attrs", "cattrs", "click", "rich", "tokenizers", "jinja2", "yaml", "obstore", "asyncio"),
    *("torch", "transformers", "datasets", "huggingface_hub", "tinker", "sympy", "hypothesis"),
    *("tinsmith._native", "tinsmith.domain", "tinsmith.ports", "tinsmith.adapters"),
}

NOT_IN_ALL = {"chroma", "modal", "textarena", "verifiers", "inspect", "test", "dev", "smollm2"}


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = "import sys, tinsmith; print(*sys.modules, sep='\\n')"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "tinsmith" in loaded
    assert not HEAVY & set(loaded)


def test_every_public_name_is_there() -> None:
    for name in tinsmith.__all__:
        if name != "__version__":  # the compiled part has it
            assert getattr(tinsmith, name) is not None
    assert set(tinsmith.__all__) <= set(dir(tinsmith))
    with pytest.raises(AttributeError, match="no_such_name"):
        tinsmith.no_such_name  # noqa: B018


def test_the_type_checker_sees_the_same_names() -> None:
    tree = ast.parse(Path(tinsmith.__file__).read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {
        alias.asname: node.module.removeprefix("tinsmith.")
        for node in block.body
        if isinstance(node, ast.ImportFrom) and node.module
        for alias in node.names
    }
    assert seen == tinsmith._MODULE_OF


def test_the_extra_all_has_every_technology() -> None:
    """But the tools of tests and development, and the model, which is data."""
    project = tomllib.loads(Path(__file__).parents[2].joinpath("pyproject.toml").read_text())["project"]
    (every,) = project["optional-dependencies"].pop("all")
    assert every == f"tinsmith[{','.join(n for n in project['optional-dependencies'] if n not in NOT_IN_ALL)}]"


@pytest.mark.parametrize(
    "imported", ["import tinsmith as ts; rendering = ts.rendering", "from tinsmith import rendering"]
)
def test_a_model_brings_its_tokenizer_to_the_public_rendering(imported: str) -> None:
    subprocess.run(
        [sys.executable, "-c", f"{imported}; assert rendering.for_model('tiny').name == 'chatml'"], check=True
    )


def test_the_layer_of_rendering_alone_says_what_finds_a_tokenizer() -> None:
    code = "from tinsmith.rendering import for_model; for_model('tiny')"
    alone = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "model 'tiny': give its tokenizer, or import tinsmith.bootstrap" in alone.stderr

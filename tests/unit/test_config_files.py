"""Broken option files are named with their line."""

from __future__ import annotations

from pathlib import Path

import pytest

from tinsmith.config.files import read_file, text_of
from tinsmith.domain.errors import ConfigError


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.toml", "x = 1\ny = \n", r"a\.toml: .*at line 2"),
        ("a.toml", "x = 1\nx = 2\n", r"a\.toml: .*at line 2"),
        ("a.json", '{"x": 1,\n "y": }', r"a\.json, line 2, column 7: "),
        ("a.json", '{"x": 1, "x": 2}', r"a\.json: x is given twice"),
        ("a.json", "[" * 100_000, r"a\.json: nested too deeply"),
        ("a.json", "", r"a\.json, line 1"),
        ("a.json", "[1]", r"a\.json: expected a table of options at the top, not list"),
        ("a.yaml", "x: 1\ny: [1\n", r"a\.yaml, line 3: "),
        ("a.yml", "x: 1\nx: 2\n", r"a\.yml, line 2: x is given twice"),
        ("a.yaml", "1: 2\n", r"a\.yaml: expected a table"),
        ("a.yaml", "x: !!python/object/apply:os.getcwd []\n", r"a\.yaml, line 1: "),
        ("a.ini", "x = 1", r"a\.ini: a configuration file ends in \.toml, \.json"),
    ],
)
def test_a_broken_file_is_named_with_its_line(tmp_path: Path, name: str, text: str, said: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match=said):
        read_file(tmp_path / name)


def test_what_is_no_text_or_not_there_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_bytes(b"x = '\xff'")
    with pytest.raises(ConfigError, match=r"a\.toml: not UTF-8 at byte 5"):
        read_file(tmp_path / "a.toml")
    with pytest.raises(ConfigError, match=r"config\.json: No such file"):
        read_file(tmp_path)


def test_a_file_that_windows_wrote_and_one_of_comments_are_read(tmp_path: Path) -> None:
    for name, text in (("a.toml", "x = 2\r\n"), ("a.json", '{"x": 2}\r\n'), ("a.yaml", "x: 2\r\n")):
        (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + text.encode())
        assert read_file(tmp_path / name) == {"x": 2}
    for name in ("b.toml", "b.yaml"):
        (tmp_path / name).write_text("# nothing yet\n")
        assert read_file(tmp_path / name) == {}


def test_a_text_that_an_option_names_is_utf8_and_there(tmp_path: Path) -> None:
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9\r\n")
    with pytest.raises(ConfigError, match=r"words=.*latin\.txt: not UTF-8 at byte 3"):
        text_of(tmp_path / "latin.txt", "words")
    with pytest.raises(ConfigError, match=r"words=.*none\.txt: No such file or directory$"):
        text_of(tmp_path / "none.txt", "words")
    (tmp_path / "good.txt").write_bytes(b"\xef\xbb\xbfa\r\nb")
    assert text_of(tmp_path / "good.txt") == "a\nb"


def test_yaml_numbers_without_a_dot_are_numbers(tmp_path: Path) -> None:
    """YAML 1.1 reads 1e-4 as a text; the type of the option makes it a number."""
    (tmp_path / "a.yaml").write_text("x: 1e-4\n")
    assert read_file(tmp_path / "a.yaml") == {"x": "1e-4"}

"""Trackers: by name, and without their package."""

import io
import logging
import sys
import types

import pytest

from tinsmith.adapters.tracking import make_tracker
from tinsmith.adapters.tracking.console import ConsoleRunLog
from tinsmith.domain.errors import ConfigError, MissingExtraError


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_a_tracker_without_its_package_says_what_to_install(monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtraError, match=rf'{name} is not installed: pip install "tinsmith\[track\]"'):
        make_tracker(name, "project")


def test_an_unknown_tracker_is_refused_with_the_known_ones():
    with pytest.raises(ConfigError, match="one of console, trackio, wandb"):
        make_tracker("tensorboard", "project")


def test_the_console_shows_what_matters_in_one_line():
    stream = io.StringIO()
    log = ConsoleRunLog(stream)
    log.start("rl-basic", {})
    log.log(3, {"env/all/correct": 0.51234567, "env/all/ac_tokens_per_turn": 9.0, "optim/entropy": 1.5})
    log.log(4, {"other": 2.0})
    log.close()
    assert stream.getvalue().splitlines() == [
        "rl-basic",
        "step 3  env/all/correct 0.5123  optim/entropy 1.5",
        "step 4  other 2",
    ]


class _Service(types.ModuleType):
    """The calls of wandb and trackio that the adapters make; `down` after so many of them."""

    def __init__(self, down=99):
        super().__init__("service")
        self.calls = []
        self.down = down

    def _called(self, *call):
        self.calls.append(call)
        if len(self.calls) > self.down:
            raise ConnectionError("no route\nto host")

    def Settings(self, **options):
        return options

    def init(self, *, project, name, config, **_):
        self._called("init", project, name, config)
        return self

    def log(self, metrics, *, step):
        self._called("log", metrics, step)

    def finish(self):
        self._called("finish")


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_services_get_the_run_its_steps_and_its_end(monkeypatch, name):
    service = _Service()
    monkeypatch.setitem(sys.modules, name, service)
    log = make_tracker(name, "project")
    log.start("run", {"seed": 1})
    log.log(0, {"a": 1.0, "b": float("nan")})
    log.close()
    log.close()
    assert service.calls == [("init", "project", "run", {"seed": 1}), ("log", {"a": 1.0}, 0), ("finish",)]


@pytest.mark.parametrize("name", ["wandb", "trackio"])
@pytest.mark.parametrize("down", [0, 1, 2, 3])
def test_a_service_that_goes_down_is_named_once_and_left_alone(monkeypatch, caplog, name, down):
    service = _Service(down)
    monkeypatch.setitem(sys.modules, name, service)
    log = make_tracker(name, "project")
    with caplog.at_level(logging.WARNING):
        log.start("run", {})
        log.log(0, {"a": 1.0})
        log.log(1, {"a": 1.0})
        log.close()
    assert len(service.calls) == down + 1
    (record,) = caplog.records
    assert record.getMessage().startswith(f"{name} stops getting metrics: ConnectionError: no route; the run goes on")


def test_the_real_wandb_works_offline(monkeypatch, tmp_path, caplog):
    pytest.importorskip("wandb", reason="needs the extra: track")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.chdir(tmp_path)
    log = make_tracker("wandb", "project")
    log.start("run", {"seed": 1, "nested": {"a": [1]}})
    log.log(0, {"a": 1.0})
    log.close()
    assert not caplog.records
    assert list((tmp_path / "wandb").glob("offline-run-*/*.wandb"))


def test_the_real_trackio_keeps_its_database_here(monkeypatch, tmp_path, caplog):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    pytest.importorskip("trackio", reason="needs the extra: track")
    log = make_tracker("trackio", "project")
    log.start("run", {"seed": 1})
    log.log(0, {"a": 1.0})
    log.close()
    assert not [record for record in caplog.records if record.name.startswith("tinsmith")]
    assert list((tmp_path / "trackio").iterdir())

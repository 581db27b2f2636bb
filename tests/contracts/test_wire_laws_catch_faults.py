"""Each law of the protocol finds its fault: the kit that judges servers is judged by servers that are wrong."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from functools import partial
from unittest import mock

import pytest
from faulty_wire import Answered, Call, Fault, Reply, Switch, Training, faulty_server, status, within
from wire_fault_kinds import Make
from wire_faults import FAULTS, MORE

from tinsmith import cli
from tinsmith.testing.conformance import LAWS, Verdict, Wire, World, check_law

SOON = 4.0
"""Seconds after which a faulty server is not waited for; a true one may be slow on a busy machine."""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[World, Switch]]:
    """One server and one session for all: what laws start from is made while nothing is wrong."""
    with (
        faulty_server(tmp_path_factory.mktemp("serve")) as (url, switch),
        World(lambda: Wire(url, deadline=20.0), patience=0.1) as world,
    ):
        _ = (world.noise, world.start_sampler, world.base_sampler, world.capabilities)
        yield world, switch


def test_every_law_has_a_fault() -> None:
    assert set(FAULTS) == set(LAWS)


@pytest.mark.parametrize(
    ("name", "what", "make"),
    [*((name, *FAULTS[name]) for name in LAWS if name in FAULTS), *MORE],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_law_finds_its_fault(name: str, what: str, make: Make, served: tuple[World, Switch]) -> None:
    world, switch = served
    impatient = mock.patch.object(world, "connect", partial(Wire, world.wire.base_url, deadline=SOON))
    with switch.on(make(switch)), mock.patch.object(world.wire, "deadline", SOON), impatient:
        finding = check_law(LAWS[name], world, examples=5, shrink_s=0.0)
    world.drop_model()
    assert finding.verdict is Verdict.BROKEN, f"{what}: {finding.verdict} after {finding.examples} examples"
    assert finding.message


def test_the_command_shows_what_is_broken(
    served: tuple[World, Switch], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    world, switch = served
    monkeypatch.delenv("TINKER_API_KEY", raising=False)
    words = ["conform", world.wire.base_url, "law=sum_over_tokens,telemetry", "examples=2"]
    with switch.on(FAULTS["sum_over_tokens"][1](switch)):
        assert cli.main(words) == 1
        shown = capsys.readouterr().out
        assert cli.main([*words, "--json"]) == 1
        report = json.loads(capsys.readouterr().out)
    assert "training.sum_over_tokens  broken" in shown
    assert "smallest counter-example: rows [[3 -> 3, weights 1]]; power 2.0" in shown
    assert "1 holds, 1 broken" in shown
    assert [law["verdict"] for law in report["laws"]] == ["broken", "holds"]
    assert cli.main(words) == 0


def test_a_wrong_key_or_model_is_said_once(served: tuple[World, Switch], capsys: pytest.CaptureFixture[str]) -> None:
    world, switch = served
    assert cli.main(["conform", world.wire.base_url, "model=huge"]) == 2
    assert "serves tiny" in capsys.readouterr().err
    with switch.on(Answered("", status(401))):
        assert cli.main(["conform", world.wire.base_url]) == 2
    assert "api_key=" in capsys.readouterr().err


def test_the_counter_example_is_small_and_the_same_for_a_seed(served: tuple[World, Switch]) -> None:
    world, switch = served
    law = LAWS["sum_over_tokens"]
    with switch.on(FAULTS[law.name][1](switch)):
        found = [check_law(law, world, seed=3) for _ in range(2)]
    assert found[0].example == found[1].example == "rows [[3 -> 3, weights 1]]; power 2.0"


def test_a_loss_that_a_server_lacks_is_not_supported(served: tuple[World, Switch]) -> None:
    world, switch = served
    lacking = Training(lambda message: setattr(message, "loss_fn", message.loss_fn.replace("gspo", "no_such_loss")))
    with switch.on(lacking):
        finding = check_law(LAWS["loss_gspo"], world)
    assert finding.verdict is Verdict.UNSUPPORTED
    assert "no_such_loss" in finding.message


def test_a_law_about_a_distribution_is_not_supported_where_nothing_can_be_seen(served: tuple[World, Switch]) -> None:
    world, switch = served
    with switch.on(within("asample", "sampling_params", top_k=1)):
        finding = check_law(LAWS["temperature"], world)
    assert finding.verdict is Verdict.UNSUPPORTED


def test_a_server_that_never_answers_breaks_the_law_in_time(served: tuple[World, Switch]) -> None:
    world, switch = served

    class Mute(Fault):
        def before(self, call: Call) -> Reply | None:
            asked = call.path == "retrieve_future"
            return Reply(408, [], b"{}") if asked else None

    began = time.monotonic()
    with switch.on(Mute()), mock.patch.object(world.wire, "deadline", SOON):
        finding = check_law(LAWS["training_learns"], world)
    world.drop_model()
    assert finding.verdict is Verdict.BROKEN
    assert "no result within 4 s" in finding.message
    assert time.monotonic() - began < 15


def test_one_failure_of_a_server_is_tried_again(served: tuple[World, Switch]) -> None:
    world, switch = served

    class Flaky(Fault):
        """Every third request fails, in turn as a busy, a slow and a broken server does."""

        count = 0

        def before(self, call: Call) -> Reply | None:
            self.count += 1
            if self.count % 3:
                return None
            return Reply((429, 408, 503)[self.count // 3 % 3], [], b"{}")

    with switch.on(Flaky()):
        finding = check_law(LAWS["gradient_accumulation"], world, examples=1)
    assert finding.verdict is Verdict.HOLDS, finding.message

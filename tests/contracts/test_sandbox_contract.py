"""The contract of sandboxes, kept by each adapter: real namespaces, a server on loopback, a stand-in for Modal."""

import contextlib
import functools
import inspect
import os
import shutil
import signal
import site
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from concurrent.futures import Future
from pathlib import Path

import pytest
from faults import laws_of
from sandbox_servers import FakeModal, fusion_server

from tinsmith.adapters.sandbox import inside
from tinsmith.adapters.sandbox.fusion import FusionBackend
from tinsmith.adapters.sandbox.local import BubblewrapBackend, LocalBackend, check
from tinsmith.adapters.sandbox.modal import ModalBackend
from tinsmith.adapters.sandbox.pool import SandboxPool
from tinsmith.domain.errors import ConfigError
from tinsmith.ports.pending import Pending
from tinsmith.ports.sandbox import Leases, Program, SandboxError
from tinsmith.testing import ScriptedSandbox
from tinsmith.testing.contracts import SandboxContract
from tinsmith.testing.contracts import sandbox as suite
from tinsmith.testing.contracts._common import WAIT
from tinsmith.testing.contracts.sandbox import AT_ONCE, LIMITS, SLEEPER, _command_lines, at_rest
from tinsmith.testing.sandbox import says


def here(backend):
    try:
        made = backend(LIMITS)
        check(made)
    except ConfigError as error:
        if backend is LocalBackend and can_unshare():
            raise  # the machine is not what is wrong
        pytest.skip(str(error))
    return SandboxPool(made, max_concurrent=AT_ONCE)


def can_unshare():
    words = ["unshare", "--mount", "--pid", "--net", "--fork", *(["--map-root-user"] if os.geteuid() else []), "true"]
    return (
        shutil.which("unshare") is not None and subprocess.run(words, capture_output=True, timeout=60).returncode == 0
    )


class TestLocal(SandboxContract):
    def make(self):
        return here(LocalBackend)

    def lost(self):
        class Elsewhere(LocalBackend):
            def _command(self):
                return ["/bin/false"]

        return SandboxPool(Elsewhere(LIMITS), max_concurrent=AT_ONCE)


class TestBubblewrap(SandboxContract):
    def make(self):
        return here(BubblewrapBackend)

    def lost(self):
        class Refused(BubblewrapBackend):
            def _command(self):
                return [self._bwrap, "--bind", "/nowhere", "/nowhere", "--", "/bin/true"]

        here(BubblewrapBackend).close()
        return SandboxPool(Refused(LIMITS), max_concurrent=AT_ONCE)


class TestSandboxFusion(SandboxContract):
    @contextlib.contextmanager
    def make(self):
        here(LocalBackend).close()
        with fusion_server() as url, SandboxPool(FusionBackend(LIMITS, url=url), max_concurrent=AT_ONCE) as sandbox:
            yield sandbox

    def lost(self):
        return SandboxPool(FusionBackend(LIMITS, url="http://127.0.0.1:9/run_code"), max_concurrent=AT_ONCE)


class TestModal(SandboxContract):
    def make(self):
        here(LocalBackend).close()
        return SandboxPool(ModalBackend(LIMITS, api=FakeModal()), max_concurrent=AT_ONCE)

    def lost(self):
        return SandboxPool(ModalBackend(LIMITS, api=FakeModal(create_fails=True)), max_concurrent=AT_ONCE)


# What is of one adapter alone


@pytest.mark.parametrize("backend", [LocalBackend, BubblewrapBackend])
def test_packages_may_lie_below_the_scratch_directory(backend, monkeypatch):
    """As those of an environment in /tmp do: seen, read-only, and not among what the program starts with."""
    with tempfile.TemporaryDirectory(dir=inside.SCRATCH) as directory:
        (Path(directory) / "carried.py").write_text("value = 42")
        os.chmod(directory, 0o755)
        monkeypatch.setattr(site, "getsitepackages", lambda: [directory])
        here(backend).close()
        source = (
            "import os, carried\nprint(carried.value, os.listdir('.'))\n"
            f"try: open({directory!r} + '/x', 'w')\nexcept OSError: print('read-only')\nopen('/tmp/x', 'w')"
        )
        with SandboxPool(backend(LIMITS), max_concurrent=1) as sandbox:
            ran = sandbox.run(Program(source=source)).result(WAIT)
        assert (ran.exit_code, ran.stdout) == (0, b"42 ['main.py']\nread-only\n"), ran


@pytest.mark.parametrize("which", ["outer", "inner"])
def test_a_process_of_the_sandbox_killed_from_outside_is_an_error_of_the_world(which):
    """As a machine without memory would do. Nothing of the program stays."""
    marker = f"lost-{uuid.uuid4().hex}"
    source = SLEEPER.format(marker=marker, more="") + "import time; time.sleep(300)"
    with here(LocalBackend) as sandbox:
        pending = sandbox.run(Program(source=source, timeout_s=60.0))
        alive = SandboxContract().alive
        assert _within(lambda: alive(marker))
        (inner,) = _watchers()
        os.kill(inner if which == "inner" else _parent(inner), signal.SIGKILL)
        with pytest.raises(SandboxError, match="lost"):
            pending.result(WAIT)
        at_rest(sandbox)
        assert _within(lambda: not alive(marker))
        assert sandbox.run(Program(source="pass")).result(WAIT).ok


def _watchers():
    """The first processes of sandboxes: children of what was started here."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError), open(f"/proc/{name}/cmdline", "rb") as file:
                if b"inside.py" in file.read() and _parent(_parent(int(name))) == os.getpid():
                    found.append(int(name))
    return found


def _parent(pid):
    with contextlib.suppress(OSError), open(f"/proc/{pid}/stat") as file:
        return int(file.read().rsplit(")", 1)[1].split()[1])
    return 0


def test_a_run_dies_with_the_process_that_asked_for_it():
    here(LocalBackend).close()
    marker = f"orphan-{uuid.uuid4().hex}"
    source = SLEEPER.format(marker=marker, more="") + "import time; time.sleep(300)"
    asks = (
        "from tinsmith import bootstrap\nfrom tinsmith.ports.sandbox import Program\n"
        f"bootstrap.open_sandbox().run(Program(source={source!r}, timeout_s=300.0)).result()\n"
    )
    alive = SandboxContract().alive
    process = subprocess.Popen(
        [sys.executable, "-c", asks], env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    )
    try:
        assert _within(lambda: sum(marker.encode() in words for words in _command_lines()) >= 2), "asker and sleeper"
    finally:
        process.kill()
        process.wait()
    assert _within(lambda: not alive(marker))


def _within(holds):
    end = time.monotonic() + WAIT
    while not holds() and time.monotonic() < end:
        time.sleep(0.05)
    return holds()


@pytest.mark.parametrize(
    "answer",
    [
        (500, b"oops"),
        (200, b"not json"),
        (200, b"{}"),
        (200, b'{"status": "SandboxError", "message": "no container", "run_result": null}'),
        (200, b'{"status": "Failed", "message": "", "run_result": {"status": "Error"}}'),
        (200, b'{"status": "SandboxError", "message": "", "run_result": {"status": "Finished", "return_code": 0}}'),
    ],
)
def test_what_a_server_fails_at_is_no_end_of_a_program(answer):
    with (
        fusion_server(answer) as url,
        SandboxPool(FusionBackend(LIMITS, url=url), max_concurrent=1) as sandbox,
        pytest.raises(SandboxError),
    ):
        sandbox.run(Program(source="pass")).result(WAIT)


def test_modal_containers_have_no_network_and_a_bound_of_memory_and_time_and_are_terminated_once():
    here(LocalBackend).close()
    api = FakeModal()
    with SandboxPool(ModalBackend(LIMITS, api=api), max_concurrent=1) as sandbox:
        assert sandbox.run(Program(source="print(1)")).result(WAIT).stdout == b"1\n"
    assert api.options["block_network"] is True
    assert api.options["memory"][1] == LIMITS.memory_bytes >> 20
    assert 0 < api.options["timeout"] <= 3600
    assert api.terminated == api.created
    assert len(api.created) == 1


def test_modal_takes_what_is_asked_of_it():
    modal = pytest.importorskip("modal", reason="needs the extra: modal")
    asked = {"app": None, "image": None, "timeout": 1, "block_network": True, "memory": (1, 2)}
    inspect.signature(modal.Sandbox.create).bind("sleep", "infinity", **asked)
    inspect.signature(modal.Sandbox.exec).bind(None, "python", "-I", "-c", "", text=False)
    for owner, names in ((modal.Sandbox, ["terminate"]), (modal.App, ["lookup"]), (modal.Image, ["debian_slim"])):
        assert all(callable(getattr(owner, name)) for name in names)
    inspect.signature(modal.App.lookup).bind("tinsmith", create_if_missing=True)
    process, writer = modal.container_process.ContainerProcess, modal.io_streams.StreamWriter
    assert all(hasattr(process, name) for name in ("stdin", "stdout", "stderr", "wait"))
    assert all(hasattr(writer, name) for name in ("write", "write_eof", "drain"))
    assert issubclass(modal.exception.Error, Exception)


def test_a_modal_container_that_is_lost_is_the_worlds_failure_and_is_terminated():
    api = FakeModal(exec_fails=True)
    with SandboxPool(ModalBackend(LIMITS, api=api), max_concurrent=1) as sandbox:
        with pytest.raises(SandboxError, match="gone"):
            sandbox.run(Program(source="print(1)")).result(WAIT)
        assert sandbox.leases.live == 0
    assert api.terminated == api.created


def test_a_modal_container_that_comes_too_late_is_terminated(monkeypatch):
    api = FakeModal()
    create, go = api.Sandbox.create, threading.Event()
    api.Sandbox.create = lambda *words, **options: (go.wait(WAIT), create(*words, **options))[1]
    monkeypatch.setattr("tinsmith.adapters.sandbox.modal.CREATE_S", 0.05)
    with SandboxPool(ModalBackend(LIMITS, api=api), max_concurrent=1) as sandbox:
        with pytest.raises(SandboxError, match="longer"):
            sandbox.run(Program(source="print(1)")).result(WAIT)
        assert sandbox.leases.created == 0
        go.set()
        end = time.monotonic() + WAIT
        while not api.terminated and time.monotonic() < end:
            time.sleep(0.01)
        assert len(api.terminated) == 1


# Faults


class SaysYes(ScriptedSandbox):
    """Every program did well and said nothing."""

    def __init__(self):
        super().__init__(lambda program: says())


class Lost(ScriptedSandbox):
    def __init__(self):
        super().__init__(self._fail)

    def _fail(self, program):
        raise SandboxError("gone")


class NeverReleases(SaysYes):
    leases = Leases(created=1, released=0, live=1)


class TakesWorkWhenClosed(SaysYes):
    def close(self):
        """It goes on."""


class AllAtOnce(ScriptedSandbox):
    def __init__(self):
        super().__init__(lambda program: says(program.source[6:-1] + "\n"))

    def run(self, program):
        pending = super().run(program)
        return Pending(Future()) if len(self.programs) == 1 else pending

    leases = Leases(created=3, released=0, live=3)


CASES = [
    *((law, fault) for law in laws_of(SandboxContract) for fault in (SaysYes, Lost) if "refused" not in law),
    ("test_many_programs_run_a_bounded_number_at_once", AllAtOnce),
    ("test_what_one_run_leaves_the_next_does_not_find", NeverReleases),
    ("test_a_closed_sandbox_refuses_and_has_released_all", TakesWorkWhenClosed),
]
GREEN = {("test_a_lost_sandbox_is_an_error_of_the_world", Lost)}


@pytest.mark.parametrize(("law", "fault"), [case for case in CASES if case not in GREEN])
def test_a_law_goes_red(law, fault, tmp_path, monkeypatch):
    for name, seconds in (("WAIT", 0.5), ("PATIENCE", 0.2)):
        monkeypatch.setattr(suite, name, seconds)

    class Faulty(SandboxContract):
        def make(self):
            return fault()

        lost = make

    method = getattr(Faulty(), law)
    given = {"stdin": "in", "data": b"d", "code": 3, "said": "s"} if hasattr(method, "hypothesis") else {}
    if given:
        method = functools.partial(method.hypothesis.inner_test, Faulty())
    known = {"how": "children", "more": "", "tmp_path": tmp_path, "monkeypatch": monkeypatch}
    given |= {name: known[name] for name in inspect.signature(method).parameters if name in known}
    with pytest.raises((Exception, pytest.fail.Exception)):  # any way of being red
        method(**given)

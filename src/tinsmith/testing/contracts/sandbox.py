"""The contract of a Sandbox. Subclass it and supply `make` and, where there is a way to break it, `lost`."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinsmith.domain.errors import CancelledWorkError, ConfigError, WorldError
from tinsmith.ports.sandbox import End, Limits, Program, Ran, Sandbox, SandboxError
from tinsmith.testing.contracts._common import LAW, WAIT

LIMITS = Limits(memory_bytes=256 << 20, output_bytes=64 << 10, disk_bytes=4 << 20, processes=16)
AT_ONCE = 2
PATIENCE = 15.0
"""Seconds beyond its own time that a run may take on a busy machine."""
SLEEPER = (
    "import subprocess, sys\n"
    "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(300)', {marker!r}]{more})\n"
)
texts = st.text(st.characters(codec="utf-8", exclude_characters="\r"), max_size=40)


class SandboxContract:
    """Laws of every Sandbox."""

    def make(self) -> AbstractContextManager[Sandbox]:
        """A sandbox with LIMITS that runs AT_ONCE programs at once, closed when the context ends."""
        raise NotImplementedError

    def lost(self) -> AbstractContextManager[Sandbox] | None:
        """A sandbox that cannot be had, or is lost whenever it is used; None where there is no way to make one."""
        return None

    def alive(self, marker: str) -> bool:
        """Whether a process with this word in its command line still runs, in a sandbox or anywhere."""
        return any(marker.encode() in words for words in _command_lines())

    def one(self, sandbox: Sandbox, source: str, **given: object) -> Ran:
        ran = sandbox.run(Program(source=source, **given)).result(WAIT)  # type: ignore[arg-type]
        at_rest(sandbox)
        return ran

    @settings(LAW, max_examples=3)
    @given(stdin=texts, data=st.binary(max_size=30), code=st.integers(0, 255), said=texts)
    def test_a_program_has_what_it_is_given_and_what_it_says_comes_back(
        self, stdin: str, data: bytes, code: int, said: str
    ) -> None:
        source = (
            "import os, sys\n"
            "sys.stdout.buffer.write(sys.stdin.buffer.read() + open('data', 'rb').read())\n"
            f"sys.stdout.flush(); sys.stderr.buffer.write({said.encode()!r}); sys.stderr.flush()\n"
            f"os._exit({code})\n"
        )
        text = data.decode("latin-1").encode()  # every sandbox gives text back; not every one other bytes
        with self.make() as sandbox:
            ran = self.one(sandbox, source, stdin=stdin, files={"data": text})
            assert (ran.end, ran.exit_code) == (End.EXITED, code)
            assert ran.stdout == stdin.encode() + text
            assert ran.stderr == said.encode()
            assert ran.ok is (code == 0)
            assert ran.seconds >= 0

    def test_what_one_run_leaves_the_next_does_not_find(self) -> None:
        with self.make() as sandbox:
            paths = ["left", "/tmp/left"]
            left = self.one(sandbox, f"for path in {paths}: open(path, 'w').write('x')")
            assert left.ok, left
            assert self.one(sandbox, f"import os; print(*map(os.path.exists, {paths}))").stdout == b"False False\n"

    def test_a_program_that_never_returns_ends_at_its_time(self) -> None:
        with self.make() as sandbox:
            began = time.monotonic()
            ran = self.one(sandbox, "print('begun', flush=True)\nwhile True: pass", timeout_s=0.5)
            assert ran.end is End.TIMEOUT
            assert ran.exit_code is None
            assert not ran.ok
            assert time.monotonic() - began < 0.5 + PATIENCE

    def test_a_program_that_prints_for_ever_ends_and_costs_no_memory(self) -> None:
        with self.make() as sandbox:
            ran = self.one(sandbox, "while True: print('x' * 1000)", timeout_s=20.0)
            assert ran.end is End.OUTPUT
            assert len(ran.stdout) + len(ran.stderr) <= LIMITS.output_bytes
            assert not ran.ok

    def test_a_program_that_forks_ends_with_all_its_children(self) -> None:
        marker = f"forked-{uuid.uuid4().hex}"
        source = (
            "import os, sys, time\n"
            f"if len(sys.argv) == 1: os.execv(sys.executable, [sys.executable, __file__, {marker!r}])\n"
            "end = time.monotonic() + 0.3\n"
            "while time.monotonic() < end:\n"
            "    try: os.fork()\n"
            "    except OSError: time.sleep(0.01)\n"
            "time.sleep(300)\n"
        )
        with self.make() as sandbox:
            ran = self.one(sandbox, source, timeout_s=0.6)
            assert ran.end in (End.TIMEOUT, End.MEMORY), ran
            assert not self.alive(marker)
            assert self.one(sandbox, "print('well')").stdout == b"well\n"

    def test_no_more_processes_than_allowed(self) -> None:
        source = (
            "import os, time\nn = 1\n"
            "try:\n    while True:\n        if os.fork() == 0: time.sleep(60)\n        n += 1\n"
            "except OSError: print(n)\n"
        )
        with self.make() as sandbox:
            if not sandbox.isolation.processes:
                pytest.skip(f"{sandbox.name} does not bound processes")
            ran = self.one(sandbox, source, timeout_s=20.0)
            assert ran.ok, ran
            assert int(ran.stdout) <= LIMITS.processes

    def test_a_program_that_fills_the_disk_is_stopped(self) -> None:
        with self.make() as sandbox:
            if not sandbox.isolation.disk:
                pytest.skip(f"{sandbox.name} does not bound the disk")
            big = (
                "i = 0\ntry:\n    while True:\n        open(f'/tmp/{i // 2}', 'ab').write(b'x' * (1 << 20)); i += 1\n"
                "except OSError: print(i)\n"
            )
            many = "i = 0\nwhile True:\n    open(f'/tmp/{i}', 'w').close(); i += 1\n"
            ran = self.one(sandbox, big, timeout_s=20.0)
            assert ran.ok, ran
            assert int(ran.stdout) << 20 <= LIMITS.disk_bytes
            ran = self.one(sandbox, many, timeout_s=20.0)
            assert ran.end in (End.EXITED, End.DISK), ran
            assert not ran.ok
            assert self.one(sandbox, "open('x', 'wb').write(b'x' * (1 << 20))").ok

    @pytest.mark.parametrize("how", ["alone", "children", "shared"])
    def test_a_program_that_takes_all_memory_is_stopped(self, how: str) -> None:
        part = LIMITS.memory_bytes // 3
        take = {
            "alone": "while True: kept.append(b'x' * part)",
            "children": "for _ in range(4):\n    if os.fork() == 0: kept.append(b'x' * part); time.sleep(60)",
            "shared": (
                "for _ in range(4):\n"
                "    if os.fork() == 0: m = mmap.mmap(-1, part); m.write(b'x' * part); time.sleep(60)"
            ),
        }[how]
        source = f"import mmap, os, time\npart, kept = {part}, []\n{take}\ntime.sleep(60)\n"
        with self.make() as sandbox:
            if not sandbox.isolation.memory:
                pytest.skip(f"{sandbox.name} does not bound memory")
            ran = self.one(sandbox, source, timeout_s=20.0)
            assert not ran.ok
            assert ran.end in (End.MEMORY, End.EXITED), ran
            assert ran.end is End.MEMORY or how == "alone"

    def test_a_program_that_kills_all_it_sees_hurts_itself_alone(self) -> None:
        source = (
            "import os, resource\n"
            "seen = {os.getppid(), 1, *(int(n) for n in os.listdir('/proc') if n.isdigit())} - {os.getpid()}\n"
            "for pid in seen:\n"
            "    for kind in (resource.RLIMIT_CPU, resource.RLIMIT_AS):\n"
            "        try: resource.prlimit(pid, kind, (0, 0))\n"
            "        except OSError: pass\n"
            "for number in range(1, 65):\n"
            "    for pid in (*seen, -1):\n"
            "        try: os.kill(pid, number)\n"
            "        except OSError: pass\n"
            "while True: pass\n"
        )
        with self.make() as sandbox:
            ran = sandbox.run(Program(source=source, timeout_s=1.0)).result(WAIT)
            assert not ran.ok
            assert self.one(sandbox, "print('well')").stdout == b"well\n"

    def test_a_program_of_any_name_ends_as_it_would_with_another(self) -> None:
        """A process may call itself what is no text: whoever looks at it must not mind."""
        source = (
            "import ctypes, time\nctypes.CDLL(None).prctl(15, b'\\xff\\xfe', 0, 0, 0)\ntime.sleep(0.3)\nprint('well')"
        )
        with self.make() as sandbox:
            assert self.one(sandbox, source).stdout == b"well\n"

    @pytest.mark.parametrize("more", ["", ", start_new_session=True, stdout=subprocess.DEVNULL"])
    def test_a_daemon_does_not_outlive_its_run(self, more: str) -> None:
        marker = f"daemon-{uuid.uuid4().hex}"
        with self.make() as sandbox:
            began = time.monotonic()
            ran = self.one(sandbox, SLEEPER.format(marker=marker, more=more) + "print('gone')")
            assert ran.stdout == b"gone\n"
            assert ran.end is End.EXITED
            assert time.monotonic() - began < PATIENCE
            assert not self.alive(marker)

    def test_no_network(self) -> None:
        with self.make() as sandbox, socket.socket() as listening:
            if not sandbox.isolation.network:
                pytest.skip(f"{sandbox.name} leaves the network to its deployment")
            listening.bind(("127.0.0.1", 0))
            listening.listen()
            port = listening.getsockname()[1]
            source = f"import socket\nsocket.create_connection(('127.0.0.1', {port}), 5)\nprint('reached')"
            ran = self.one(sandbox, source)
            assert not ran.ok
            assert b"reached" not in ran.stdout

    def test_neither_files_nor_environment_of_the_caller(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        secret = f"secret-{uuid.uuid4().hex}"
        monkeypatch.setenv("TINSMITH_SECRET", secret)
        (tmp_path / "key").write_text(secret)
        source = (
            "import os\nprint(dict(os.environ))\n"
            f"for path in ({str(tmp_path / 'key')!r}, '/proc/1/environ', '/proc/self/environ'):\n"
            "    try: print(open(path).read())\n    except OSError: pass\n"
            f"try: open({str(tmp_path / 'mine')!r}, 'w')\nexcept OSError: pass\n"
            "print('looked')\n"
        )
        with self.make() as sandbox:
            if not sandbox.isolation.files:
                pytest.skip(f"{sandbox.name} shares files with the caller")
            ran = self.one(sandbox, source)
            assert ran.stdout.endswith(b"looked\n"), ran
            assert secret.encode() not in ran.stdout
            assert not (tmp_path / "mine").exists()

    def test_many_programs_run_a_bounded_number_at_once(self) -> None:
        with self.make() as sandbox:
            pending = [sandbox.run(Program(source=f"print({i})")) for i in range(4)]
            seen, end = 0, time.monotonic() + WAIT
            while not all(p.done() for p in pending) and time.monotonic() < end:
                leases = sandbox.leases
                assert leases.created == leases.released + leases.live
                seen = max(seen, leases.live)
                time.sleep(0.005)
            assert [p.result(WAIT).stdout for p in pending] == [f"{i}\n".encode() for i in range(4)]
            assert seen <= AT_ONCE

    def test_a_run_that_nobody_waits_for_is_killed(self) -> None:
        marker = f"cancelled-{uuid.uuid4().hex}"

        async def leave(sandbox: Sandbox) -> None:
            source = SLEEPER.format(marker=marker, more="") + "import time; time.sleep(300)"
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.6):
                    await sandbox.run(Program(source=source, timeout_s=300.0))

        with self.make() as sandbox:
            asyncio.run(leave(sandbox))
            at_rest(sandbox)
            assert not (sandbox.isolation.cancel and self.alive(marker))
            assert self.one(sandbox, "print('well')").stdout == b"well\n"

    def test_a_lost_sandbox_is_an_error_of_the_world(self) -> None:
        lost = self.lost()
        if lost is None:
            pytest.skip("there is no way to break it from here")
        with lost as sandbox:
            for _ in range(2):
                with pytest.raises(SandboxError) as raised:
                    sandbox.run(Program(source="print('x')", timeout_s=3.0)).result(WAIT)
                assert isinstance(raised.value, WorldError)
                assert str(raised.value)
            at_rest(sandbox)

    def test_a_closed_sandbox_refuses_and_has_released_all(self) -> None:
        marker = f"closed-{uuid.uuid4().hex}"
        with self.make() as sandbox:
            source = SLEEPER.format(marker=marker, more="") + "import time; time.sleep(300)"
            owed = [sandbox.run(Program(source=source, timeout_s=300.0)) for _ in range(3)]
            time.sleep(0.3)
            began = time.monotonic()
            sandbox.close()
            assert time.monotonic() - began < PATIENCE
            leases = sandbox.leases
            assert leases.live == 0
            assert leases.created == leases.released
            for pending in owed:
                with pytest.raises(CancelledWorkError):
                    pending.result(WAIT)
            with pytest.raises(CancelledWorkError):
                sandbox.run(Program(source="pass"))
            assert not (sandbox.isolation.cancel and self.alive(marker))
            sandbox.close()

    @pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden", "a\0b", "main.py"])
    def test_a_file_that_would_lie_elsewhere_is_refused(self, name: str) -> None:
        with pytest.raises(ConfigError):
            Program(source="", files={name: b""})


def at_rest(sandbox: Sandbox) -> None:
    """Within moments of the last result everything is released."""
    end = time.monotonic() + PATIENCE
    while (leases := sandbox.leases).live and time.monotonic() < end:
        time.sleep(0.005)
    assert leases.live == 0
    assert leases.created == leases.released


def _command_lines() -> Iterator[bytes]:
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError), open(f"/proc/{name}/cmdline", "rb") as file:
                yield file.read()

"""Programs on this machine, in namespaces of their own: `local` makes them itself, `bubblewrap` has bwrap do it.

A sandbox is three processes. The first one is started here and makes the namespaces; the second is the first process
in them, watches, and cannot be killed from inside; the third is the program (`inside.py`). No file of theirs is ever
on a disk. When the second one ends, the kernel ends everything in its namespace, whoever forked it and however.
"""

from __future__ import annotations

import base64
import contextlib
import itertools
import os
import platform
import selectors
import shutil
import site
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from attrs import define, field

from tinsmith.adapters.sandbox import filter, inside
from tinsmith.adapters.sandbox.pool import Stop, encoded
from tinsmith.domain.errors import ConfigError
from tinsmith.ports.sandbox import MAIN, End, Isolation, Limits, Program, Ran, SandboxError

START_S = 30.0
"""Seconds that a sandbox may take to be there, on a busy machine."""
END_S = 10.0
"""Seconds that its end may take before it is killed from outside."""
ALL = Isolation(network=True, files=True, memory=True, disk=True, processes=True)
assert inside.MAIN == MAIN

_numbers = itertools.count()


@define(eq=False)
class _Box:
    process: subprocess.Popen[bytes]
    control: socket.socket
    head: dict[str, Any] = field(factory=dict)


class LocalBackend:
    """Namespaces made here: for Linux, where unprivileged user namespaces are allowed or the caller is root."""

    name = "local"
    isolation = ALL
    _how = "local"

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        machine = filter.MACHINES.get(platform.machine())
        if machine is None or not sys.platform.startswith("linux"):
            raise ConfigError(
                f"sandbox.kind={self.name} is for Linux on {' and '.join(filter.MACHINES)}: take sandboxfusion or modal"
            )
        self._machine = machine
        self._python = os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable)
        packages = [p for p in site.getsitepackages() if os.path.isdir(p)]
        self._packages = [os.path.realpath(p) for p in packages]
        paths = {os.path.realpath(sys.base_prefix), *self._packages}
        self._paths = sorted(p for p in paths if p != "/" and not p.startswith("/usr/") and p != "/usr")

    def _command(self) -> list[str]:
        return [self._python, "-I", "-S", "-B", str(Path(inside.__file__)), self._how]

    def _head(self) -> dict[str, Any]:
        slot = next(_numbers) % 50
        return {
            "paths": self._paths,
            "disk_bytes": self.limits.disk_bytes,
            "memory_bytes": self.limits.memory_bytes,
            "processes": self.limits.processes,
            "pivot_root": self._machine.pivot_root,
            "filter": base64.b64encode(filter.program(self._machine)).decode(),
            # Each another one, so that what one of them may fork is not counted against the others.
            "uid": inside.FIRST_UID + os.getpid() % 4_000_000 * 50 + slot,
            "command": [self._python, "-B"],
            "environment": {
                "PATH": "/usr/local/bin:/usr/bin:/bin",
                "HOME": inside.SCRATCH,
                "TMPDIR": inside.SCRATCH,
                "LANG": "C.UTF-8",
                "PYTHONPATH": os.pathsep.join(self._packages),
                "PYTHONHASHSEED": "0",
                "OMP_NUM_THREADS": "1",
                "OPENBLAS_NUM_THREADS": "1",
                "MKL_NUM_THREADS": "1",
            },
        }

    def create(self, stop: Stop) -> _Box:
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                process = subprocess.Popen(
                    self._command(),
                    stdin=theirs.fileno(),
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    env={"LANG": "C.UTF-8"},
                    cwd="/",
                    start_new_session=True,
                )
            except OSError:
                ours.close()
                raise
        box = _Box(process, ours)
        try:
            ours.settimeout(START_S)
            with stop.calling(lambda: _hang_up(ours)):
                inside.send(ours, self._head())
                said = inside.receive(ours)
            if said is None or "ready" not in said:
                raise SandboxError(f"no sandbox: {self._why(box, said)}")
        except BaseException:
            self.release(box)
            raise
        return box

    def _why(self, box: _Box, said: Any) -> str:
        if said is not None:
            return str(said["error"])
        box.process.kill()
        assert box.process.stderr is not None
        text = box.process.stderr.read(4096).decode(errors="replace").strip()
        return text.splitlines()[-1] if text else "its process ended without a word"

    def run(self, box: _Box, program: Program, stop: Stop) -> Ran:
        with stop.calling(lambda: _hang_up(box.control)):
            inside.send(
                box.control,
                {
                    "source": program.source,
                    "files": {name: base64.b64encode(data).decode() for name, data in program.files.items()},
                    "stdin": base64.b64encode(encoded(program.stdin)).decode(),
                },
            )
            said = inside.receive(box.control)
            if said is None or "started" not in said:
                raise SandboxError(f"the program was not started: {self._why(box, said)}")
            return self._watched(box, program.timeout_s)

    def _watched(self, box: _Box, timeout_s: float) -> Ran:
        began = time.monotonic()
        ends, left = began + timeout_s, self.limits.output_bytes
        streams: dict[Any, bytearray] = {box.process.stdout: bytearray(), box.process.stderr: bytearray()}
        verdict: tuple[End, int | None] | None = None
        heard = True
        with selectors.DefaultSelector() as selector:
            for source in (*streams, box.control):
                selector.register(source, selectors.EVENT_READ)
            while selector.get_map():
                wait = ends - time.monotonic()
                if wait <= 0:
                    if verdict is not None:  # all have ended; what still holds the pipe is not of the sandbox
                        break
                    verdict = (End.TIMEOUT, None)
                    _hang_up(box.control)
                    ends = time.monotonic() + END_S
                    continue
                for key, _ in selector.select(wait):
                    if key.fileobj is box.control:
                        said = inside.receive(box.control)
                        selector.unregister(box.control)
                        if verdict is None and said is not None and "end" in said:
                            verdict = (End(said["end"]), said["code"])
                            ends = time.monotonic() + END_S
                        elif verdict is None:
                            heard = False
                            verdict = (End.EXITED, None)
                        continue
                    data = os.read(key.fd, 1 << 16)
                    if not data:
                        selector.unregister(key.fileobj)
                        continue
                    streams[key.fileobj] += data[:left]
                    left -= len(data)
                    if left < 0:
                        verdict = (End.OUTPUT, None)
                        heard = True
                        break
                if left < 0:
                    break
        if verdict is None or not heard:
            raise SandboxError("the sandbox was lost before its program ended")
        stdout, stderr = (bytes(data) for data in streams.values())
        seconds = time.monotonic() - began
        return Ran(end=verdict[0], exit_code=verdict[1], stdout=stdout, stderr=stderr, seconds=seconds)

    def release(self, box: _Box) -> None:
        _hang_up(box.control)
        box.control.close()
        for stream in (box.process.stdout, box.process.stderr):
            if stream is not None:
                stream.close()
        try:
            box.process.wait(END_S)
        except subprocess.TimeoutExpired:
            box.process.kill()
            box.process.wait(END_S)


def _hang_up(control: socket.socket) -> None:
    """What is inside ends when nobody is there any more."""
    with contextlib.suppress(OSError):
        control.shutdown(socket.SHUT_RDWR)


class BubblewrapBackend(LocalBackend):
    """The same, in namespaces that bubblewrap makes: also where the kernel allows them to a setuid bwrap alone."""

    name = "bwrap"
    _how = "inside"

    def __init__(self, limits: Limits) -> None:
        super().__init__(limits)
        found = shutil.which("bwrap")
        if found is None:
            raise ConfigError(
                "sandbox.kind=bwrap needs bubblewrap, which is not installed (Debian: apt install bubblewrap)"
            )
        self._bwrap = found

    def _command(self) -> list[str]:
        script = "/inside.py"
        words = [self._bwrap, "--as-pid-1", "--die-with-parent", "--new-session", "--clearenv"]
        if os.geteuid() == 0:  # in no user namespace, where it can still become another user
            words += ["--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts"]
            words += [word for name in ("SETUID", "SETGID", "SETPCAP") for word in ("--cap-add", f"CAP_{name}")]
        else:
            words += ["--unshare-all"]
        for name in inside.HOST:
            path = f"/{name}"
            if os.path.islink(path):
                words += ["--symlink", os.readlink(path), path]
            elif os.path.isdir(path):
                words += ["--ro-bind", path, path]
        words += ["--perms", "1777", "--size", str(self.limits.disk_bytes), "--tmpfs", inside.SCRATCH]
        for path in [*self._paths, *(f"/etc/{name}" for name in inside.ETC)]:
            for folder in reversed(Path(path).parents[:-1]):  # which it else makes for its own user alone
                words += ["--perms", "0755", "--dir", str(folder)]
            words += ["--ro-bind-try", path, path]
        words += ["--ro-bind", str(Path(inside.__file__)), script]
        words += ["--proc", "/proc", "--perms", "0755", "--tmpfs", "/dev"]
        for name in inside.DEVICES:
            words += ["--dev-bind", f"/dev/{name}", f"/dev/{name}"]
        words += ["--symlink", inside.SCRATCH, "/dev/shm", "--symlink", "/proc/self/fd", "/dev/fd"]
        words += ["--remount-ro", "/dev"]
        words += ["--remount-ro", "/", "--chdir", "/"]
        return [*words, "--", self._python, "-I", "-S", "-B", script, self._how]


_probed: dict[str, str | None] = {}
_probing = threading.Lock()


def check(backend: LocalBackend) -> None:
    """ConfigError where this machine gives it no sandbox."""
    with _probing:
        if backend.name not in _probed:
            try:
                backend.release(backend.create(Stop()))
                _probed[backend.name] = None
            except SandboxError as error:
                _probed[backend.name] = str(error)
    if (why := _probed[backend.name]) is not None:
        raise ConfigError(
            f"sandbox.kind={backend.name} does not work on this machine ({why}): the code of a model is run isolated "
            "or not at all. Allow user namespaces (sysctl kernel.unprivileged_userns_clone=1, "
            "kernel.apparmor_restrict_unprivileged_userns=0; in a container --security-opt seccomp=unconfined), "
            "or take sandbox.kind=bwrap, sandboxfusion or modal"
        )

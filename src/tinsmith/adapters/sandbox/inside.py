"""What runs one program where it can do no harm: started by `local` and `bubblewrap` as a process of its own.

It imports the standard library alone and is the first process of its PID namespace, which no process in it can kill;
when it ends, the kernel ends all the others. File descriptor 0 is a socket to whoever started it, on which it reads one
message, the program, and says `ready` and then how the program ended. When the socket closes, it ends.

    python -I -S -B inside.py local|inside
"""

from __future__ import annotations

import base64
import contextlib
import ctypes
import json
import os
import re
import resource
import select
import signal
import socket
import struct
import sys
import time
from typing import Any, NoReturn

MAIN = "main.py"
SCRATCH = "/tmp"
WORK = f"{SCRATCH}/run"
"""Where the program starts, with its files and nothing else."""
LENGTH = struct.Struct("!I")
POLL = 0.05
"""Seconds between looks at memory."""

_NEWNS, _NEWUTS, _NEWIPC, _NEWUSER, _NEWPID, _NEWNET = (
    0x20000,
    0x4000000,
    0x8000000,
    0x10000000,
    0x20000000,
    0x40000000,
)
_RDONLY, _NOSUID, _NODEV, _NOEXEC, _REMOUNT, _BIND, _REC, _PRIVATE = 1, 2, 4, 8, 32, 4096, 16384, 1 << 18
_DETACH = 2
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_SECCOMP, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 1, 4, 22, 24, 38

FIRST_UID = 1_900_000_000
"""For root: programs run as users that nobody else is, each as another one."""
HOST = ("bin", "sbin", "lib", "lib64", "lib32", "libx32", "usr")
ETC = ("ld.so.cache", "ld.so.conf", "ld.so.conf.d", "alternatives", "localtime")
DEVICES = ("null", "zero", "full", "random", "urandom")

_OWN = re.compile(rb"^Rss(?:Anon|Shmem):\s+(\d+) kB", re.MULTILINE)
"""Bytes: a process may call itself what is no text."""

libc: Any = ctypes.CDLL(None, use_errno=True)


def _checked(result: int, what: str) -> None:
    if result != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{what}: {os.strerror(error)}")


def _mount(source: str, target: str, kind: str, flags: int, options: str = "") -> None:
    done = libc.mount(source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), options.encode())
    _checked(done, f"mount {target}")


def _prctl(option: int, value: int) -> int:
    return int(libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0))


def receive(connection: socket.socket) -> Any:
    """One message; None at the end."""
    data = b""
    while len(data) < LENGTH.size:
        if not (more := connection.recv(LENGTH.size - len(data))):
            return None
        data += more
    (missing,) = LENGTH.unpack(data)
    parts = []
    while missing:
        if not (more := connection.recv(min(missing, 1 << 20))):
            return None
        parts.append(more)
        missing -= len(more)
    return json.loads(b"".join(parts))


def send(connection: socket.socket, message: Any) -> None:
    data = json.dumps(message).encode()
    connection.sendall(LENGTH.pack(len(data)) + data)


def _map_user() -> None:
    uid, gid = os.geteuid(), os.getegid()
    _checked(libc.unshare(_NEWUSER | _NEWNS | _NEWPID | _NEWNET | _NEWIPC | _NEWUTS), "unshare")
    for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)


def unshare() -> None:
    """Namespaces of one's own; the next process that is forked is the first one in its own."""
    if os.geteuid() == 0:  # root needs no user namespace: the program runs as another user without any right
        _checked(libc.unshare(_NEWNS | _NEWPID | _NEWNET | _NEWIPC | _NEWUTS), "unshare")
    else:
        _map_user()


def build_root(paths: list[str], pivot: int, disk_bytes: int) -> None:
    """A root of which all is read-only but the scratch directory, which lies in memory and has a size. Where Python or
    its packages lie below a directory of that name, they are mounted in it."""
    _mount("", "/", "", _REC | _PRIVATE)
    _mount("tmpfs", "/tmp", "tmpfs", _NOSUID | _NODEV, "size=1m,mode=755")
    os.makedirs("/tmp/new")
    os.makedirs("/tmp/old")
    _mount("/tmp/new", "/tmp/new", "", _BIND)
    _pivot(pivot, "/tmp", "/tmp/old")
    os.chdir("/")
    for name in HOST:
        if os.path.islink(f"/old/{name}"):
            os.symlink(os.readlink(f"/old/{name}"), f"/new/{name}")
        elif os.path.isdir(f"/old/{name}"):
            _bind(f"/{name}")
    os.makedirs(f"/new{SCRATCH}")
    options = f"size={disk_bytes},nr_inodes={max_files(disk_bytes)},mode=1777"
    _mount("tmpfs", f"/new{SCRATCH}", "tmpfs", _NOSUID | _NODEV, options)
    for path in paths:
        if not os.path.lexists(f"/new{path}"):
            _bind(path)
    os.makedirs("/new/etc", exist_ok=True)
    for name in ETC:
        if os.path.exists(f"/old/etc/{name}"):
            _bind(f"/etc/{name}")
    os.makedirs("/new/dev")
    for name in DEVICES:
        _bind(f"/dev/{name}")
    os.symlink(SCRATCH, "/new/dev/shm")
    os.symlink("/proc/self/fd", "/new/dev/fd")
    os.makedirs("/new/proc")
    _mount("proc", "/new/proc", "proc", _NOSUID | _NODEV | _NOEXEC)
    for target in _mounts("/new"):
        if target == f"/new{SCRATCH}":
            continue
        flags = os.statvfs(target).f_flag & (_NOSUID | _NODEV | _NOEXEC | 1024 | 2048)
        if target not in ("/new/proc",) and not target.startswith("/new/dev/"):
            flags |= _NODEV
        _mount("", target, "", _REMOUNT | _BIND | _RDONLY | _NOSUID | flags)
    os.chdir("/new")
    _pivot(pivot, ".", ".")
    _checked(libc.umount2(b".", _DETACH), "umount")
    os.chdir("/")


def _pivot(number: int, new: str, old: str) -> None:
    _checked(int(libc.syscall(ctypes.c_long(number), new.encode(), old.encode())), "pivot_root")


def _bind(path: str) -> None:
    source, target = f"/old{path}", f"/new{path}"
    if os.path.isdir(source):
        os.makedirs(target, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        with open(target, "w"):
            pass
    _mount(os.path.realpath(source) if not os.path.islink(source) else source, target, "", _BIND | _REC)


def _mounts(below: str) -> list[str]:
    found = []
    with open("/old/proc/self/mountinfo") as file:
        for line in file:
            path = re.sub(r"\\(\d{3})", lambda m: chr(int(m[1], 8)), line.split()[4])
            if path == below or path.startswith(f"{below}/"):
                found.append(path)
    return found


def max_files(disk_bytes: int) -> int:
    return max(64, disk_bytes >> 12)


def fill_scratch(order: dict[str, Any]) -> None:
    os.mkdir(WORK)
    os.chmod(WORK, 0o1777)
    files = {name: base64.b64decode(data) for name, data in order["files"].items()}
    for name, data in {**files, MAIN: order["source"].encode("utf-8", "surrogatepass")}.items():
        with open(f"{WORK}/{name}", "wb") as file:
            file.write(data)
        os.chmod(f"{WORK}/{name}", 0o666)


def launch(order: dict[str, Any], command: list[str], uid: int) -> int:
    """The program's process. Raises OSError where it cannot be started."""
    stdin = os.memfd_create("stdin", os.MFD_CLOEXEC)
    data = base64.b64decode(order["stdin"])
    while data:
        data = data[os.write(stdin, data) :]
    os.lseek(stdin, 0, os.SEEK_SET)
    reading, writing = os.pipe()
    if (pid := os.fork()) != 0:
        os.close(stdin)
        os.close(writing)
        with open(reading, "rb") as file:
            if said := file.read():
                raise OSError(said.decode(errors="replace"))
        return pid
    try:
        os.setsid()
        os.dup2(stdin, 0)
        os.dup2(writing, 3, inheritable=False)
        os.closerange(4, 4096)
        os.chdir(WORK)
        _restrict(order, uid)
        os.execve(command[0], [*command, MAIN], order["environment"])
    except BaseException as error:  # noqa: BLE001 - said to the process that started this one
        os.write(3, f"{type(error).__name__}: {error}".encode())
    finally:
        os._exit(126)


def _restrict(order: dict[str, Any], uid: int) -> None:
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGCHLD, signal.SIGPIPE, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    if uid != os.geteuid():
        os.setgroups([])
        os.setresgid(uid, uid, uid)
    for capability in range(64):
        _prctl(_PR_CAPBSET_DROP, capability)
    if uid != os.geteuid():
        os.setresuid(uid, uid, uid)
    _checked(_prctl(_PR_SET_NO_NEW_PRIVS, 1), "prctl")
    bounds = {
        resource.RLIMIT_AS: order["memory_bytes"],
        resource.RLIMIT_FSIZE: order["disk_bytes"],
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_NOFILE: 256,
    }
    if uid >= FIRST_UID or _release() >= (5, 14):  # before, all processes of the user were counted
        bounds[resource.RLIMIT_NPROC] = order["processes"]
    for kind, value in bounds.items():
        _, hard = resource.getrlimit(kind)
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (value, value))
    _filter(base64.b64decode(order["filter"]))


class _Filter(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def _filter(instructions: bytes) -> None:
    """From here on system calls are filtered, and so are those of what is executed."""
    program = _Filter(len(instructions) // 8, instructions)
    _checked(libc.prctl(_PR_SET_SECCOMP, ctypes.c_ulong(2), ctypes.byref(program), 0, 0), "seccomp")


def _release() -> tuple[int, int]:
    found = re.match(r"(\d+)\.(\d+)", os.uname().release)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def _resident() -> int:
    """Bytes that the processes here have in memory, this one and what are files left out."""
    total = 0
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid():
            with contextlib.suppress(OSError), open(f"/proc/{name}/status", "rb") as file:
                total += sum(int(kilobytes) for kilobytes in _OWN.findall(file.read()))
    return total << 10


def watch(connection: socket.socket, pid: int, memory_bytes: int, disk_bytes: int) -> dict[str, Any]:
    """How the program ended. It ends this process where nobody waits for that any more."""
    ear, bell = socket.socketpair()
    bell.setblocking(False)
    ear.setblocking(False)
    signal.set_wakeup_fd(bell.fileno(), warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    looked = time.monotonic()
    while True:
        with contextlib.suppress(ChildProcessError):
            while True:
                ended, status = os.waitpid(-1, os.WNOHANG)
                if ended == pid:
                    return {"end": "exited", "code": os.waitstatus_to_exitcode(status)}
                if ended == 0:
                    break
        if time.monotonic() - looked >= POLL:
            if _resident() > memory_bytes:
                return {"end": "memory", "code": None}
            disk = os.statvfs(SCRATCH)
            if disk.f_files - disk.f_ffree > max_files(disk_bytes):  # bubblewrap's has no bound of its own
                return {"end": "disk", "code": None}
            looked = time.monotonic()
        readable, _, _ = select.select([connection, ear], [], [], POLL)
        if ear in readable:
            with contextlib.suppress(BlockingIOError):
                while ear.recv(4096):
                    pass
        if connection in readable:  # it has nothing more to say: it is gone
            os._exit(0)


def serve(connection: socket.socket, namespaces: bool) -> None:
    """The first process: everything for one program."""
    try:
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        _prctl(_PR_SET_DUMPABLE, 0)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the only one with which a program could end this process
        head = receive(connection)
        if head is None:
            return
        os.umask(0o022)
        if namespaces:
            build_root(head["paths"], head["pivot_root"], head["disk_bytes"])
        send(connection, {"ready": True})
        order = receive(connection)
        if order is None:
            return
        order |= head
        fill_scratch(order)
        uid = head["uid"] if os.geteuid() == 0 else os.geteuid()
        pid = launch(order, head["command"], uid)
        for number in (1, 2):  # the program alone holds what it writes to
            os.dup2(os.open("/dev/null", os.O_WRONLY), number)
        send(connection, {"started": True})
        send(connection, watch(connection, pid, head["memory_bytes"], head["disk_bytes"]))
    except Exception as error:  # noqa: BLE001 - whoever waits must hear of it
        with contextlib.suppress(OSError):
            send(connection, {"error": f"{type(error).__name__}: {error}"})


def main(how: str) -> NoReturn:
    connection = socket.socket(fileno=os.dup(0))
    connection.set_inheritable(False)
    if how == "inside":
        serve(connection, namespaces=False)
        os._exit(0)
    try:
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        unshare()
        first = os.fork()
    except OSError as error:
        with contextlib.suppress(OSError):
            send(connection, {"error": str(error), "namespaces": False})
        os._exit(1)
    if first == 0:
        serve(connection, namespaces=True)
        os._exit(0)
    connection.close()
    for number in (0, 1, 2):
        os.close(number)
    os.waitpid(first, 0)  # which ends when everything in there has ended
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1])

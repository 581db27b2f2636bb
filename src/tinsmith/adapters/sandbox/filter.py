"""The system calls that a program in a sandbox of this machine does not get, as a seccomp filter.

What makes memory that no bound sees (memfd, System V), what changes namespaces and mounts, and parts of the kernel that
no solution of a problem needs and in which holes were often found. Numbers: the kernel's tables for each machine.
"""

from __future__ import annotations

import errno
import struct

from attrs import frozen

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _ERRNO, _KILL = 0x7FFF0000, 0x00050000, 0x80000000
_NUMBER, _ARCH, _FIRST_ARGUMENT = 0, 4, 16
_X32 = 0x40000000
_NEW_USER = 0x10000000
_CLONE3 = 435

_EVERYWHERE = {
    "io_uring_setup": 425,
    "open_tree": 428,
    "move_mount": 429,
    "fsopen": 430,
    "mount_setattr": 442,
    "memfd_secret": 447,
}


@frozen
class Machine:
    arch: int
    pivot_root: int
    clone: int
    prlimit: int
    denied: tuple[int, ...]


def _machine(arch: int, clone: int, prlimit: int, pivot_root: int, *denied: int) -> Machine:
    return Machine(arch, pivot_root, clone, prlimit, (pivot_root, *denied, *_EVERYWHERE.values()))


# In this order: memfd_create, shmget, msgget, bpf, userfaultfd, add_key, request_key, keyctl, perf_event_open, unshare,
# setns, mount, umount2, open_by_handle_at, ptrace, init_module, finit_module, kexec_load.
MACHINES = {
    "x86_64": _machine(
        *(0xC000003E, 56, 302, 155),
        *(319, 29, 68, 321, 323, 248, 249, 250, 298, 272, 308, 165, 166, 304, 101, 175, 313, 246),
    ),
    "aarch64": _machine(
        *(0xC00000B7, 220, 261, 41),
        *(279, 194, 186, 280, 282, 217, 218, 219, 241, 97, 268, 40, 39, 265, 117, 105, 273, 104),
    ),
}


def program(machine: Machine) -> bytes:
    """Instructions, 8 bytes each: the calls above fail with EPERM, and so do clone with a new user namespace and
    prlimit of another process (which could end the one that watches); clone3 fails with ENOSYS, so that libraries use
    clone. A call by another machine's table ends the process."""
    deny, old, allow, kill = range(4)
    returns = (_ERRNO | errno.EPERM, _ERRNO | errno.ENOSYS, _ALLOW, _KILL)
    over = -2
    # (code, k, where it goes if so, where it goes if not); None: to the next one; over: past the next two.
    steps: list[tuple[int, int, int | None, int | None]] = [
        (_LOAD, _ARCH, None, None),
        (_EQUAL, machine.arch, None, kill),
        (_LOAD, _NUMBER, None, None),
        (_AT_LEAST, _X32, deny, None),
        *((_EQUAL, number, deny, None) for number in machine.denied),
        (_EQUAL, _CLONE3, old, None),
        (_EQUAL, machine.prlimit, None, over),
        (_LOAD, _FIRST_ARGUMENT, None, None),
        (_EQUAL, 0, allow, deny),
        (_EQUAL, machine.clone, None, allow),
        (_LOAD, _FIRST_ARGUMENT, None, None),
        (_ANY_BIT, _NEW_USER, deny, allow),
    ]
    out = []
    for place, (code, value, yes, no) in enumerate(steps):
        ends = len(steps) - place - 1
        far = [0 if to is None else 2 if to == over else ends + to for to in (yes, no)]
        out.append(struct.pack("=HBBI", code, *far, value))
    return b"".join([*out, *(struct.pack("=HBBI", _RETURN, 0, 0, value) for value in returns)])

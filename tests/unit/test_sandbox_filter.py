"""The filter of system calls, run on a small machine of the kernel's instructions, for every machine it is for."""

import errno
import struct

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tinsmith.adapters.sandbox.filter import MACHINES, program

ALLOW, KILL = 0x7FFF0000, 0x80000000
DENY, MISSING = 0x50000 | errno.EPERM, 0x50000 | errno.ENOSYS
CLONE3, X32, NEW_USER = 435, 0x40000000, 0x10000000
READ = {"x86_64": 0, "aarch64": 63}


def answer(code, arch, number, argument=0):
    data = {0: number, 4: arch, 16: argument}
    steps = list(struct.iter_unpack("=HBBI", code))
    place = value = 0
    while True:
        operation, yes, no, k = steps[place]
        place += 1
        if operation == 0x20:
            value = data[k]
        elif operation == 0x06:
            return k
        else:
            holds = {0x15: value == k, 0x35: value >= k, 0x45: bool(value & k)}[operation]
            place += yes if holds else no


@pytest.mark.parametrize("name", MACHINES)
def test_each_call_has_its_answer(name):
    machine, code = MACHINES[name], program(MACHINES[name])

    def said(number, argument=0):
        return answer(code, machine.arch, number, argument)

    assert len(set(machine.denied)) == len(machine.denied)
    assert {said(number) for number in machine.denied} == {DENY}
    assert said(machine.pivot_root) == DENY
    assert said(CLONE3) == MISSING
    assert said(machine.clone, 0x1200011) == ALLOW, "fork"
    assert said(machine.clone, NEW_USER | 17) == DENY
    assert said(machine.prlimit, 0) == ALLOW, "of itself"
    assert said(machine.prlimit, 1) == DENY
    assert said(READ[name]) == ALLOW
    assert said(READ[name] + X32) == DENY
    other = next(m.arch for n, m in MACHINES.items() if n != name)
    assert answer(code, other, READ[name]) == KILL


@given(
    name=st.sampled_from(sorted(MACHINES)),
    number=st.integers(0, 600) | st.integers(0, 2**32 - 1),
    argument=st.integers(0, 2**32 - 1),
)
@example(name="x86_64", number=600, argument=NEW_USER)
def test_nothing_else_is_refused(name, number, argument):
    machine = MACHINES[name]
    if number in (*machine.denied, CLONE3, machine.clone, machine.prlimit) or number >= X32:
        return
    assert answer(program(machine), machine.arch, number, argument) == ALLOW

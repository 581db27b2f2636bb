"""An engine for tests of the grader's processes: the answer says what the worker does."""

import os
import signal
import time

from tinsmith.adapters.graders.worker import Compare


def load() -> Compare:
    return compare


def compare(gold: str, pred: str) -> tuple[bool | None, str]:
    word, _, rest = pred.partition(" ")
    if word == "sleep":
        time.sleep(float(rest))
    elif word == "spin":
        while True:
            pass
    elif word == "bigint":  # holds the GIL within one operation
        return len(str(3 ** (10**9))) > 0, "done"
    elif word == "eat":
        return len(bytearray(1 << 34)) > 0, "done"
    elif word == "creep":
        held = []
        while True:
            held.append(bytes(1 << 22))
    elif word == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    elif word == "exit":
        os._exit(3)
    elif word == "deep":
        return compare(gold, pred)
    elif word == "raise":
        raise ZeroDivisionError
    elif word == "write":
        with open(rest, "w") as file:
            file.write("x")
    elif word == "system":
        os.system(rest)
    elif word == "pid":
        return True, str(os.getpid())
    return gold.strip() == pred.strip(), "compared"

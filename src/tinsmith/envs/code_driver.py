"""Runs a program on tests, inside a sandbox: its source is what is sent there. Standard library alone.

Beside it lie `solution.py` and `tests.json`: {"tests": [{"kind", "input", "function"}], "seconds", "wall", "most"}.
Every test has a process of its own, forked from this one, `seconds` of processor time, `wall` of wall clock and `most`
bytes to write. It says a line of JSON a test, {"end": "ok" | "error" | "timeout" | "output", "given", "error"}, and
ends after one that is not ok.
"""

from __future__ import annotations

import builtins
import contextlib
import json
import os
import resource
import runpy
import signal
import sys
import tempfile
import threading
import time
import traceback
from typing import Any

SAID = 2000
"""Characters of an error that are told."""
PRELUDE = """
from typing import *
from collections import *
from heapq import *
from bisect import *
from itertools import *
from functools import *
from math import *
import collections, heapq, bisect, itertools, functools, math, random, re, string, sys, os, json, operator, typing
"""
"""What programs of LiveCodeBench and its kin may use without importing it."""


def run(test: dict[str, Any], result: int) -> None:
    names: dict[str, Any] = {}
    exec(PRELUDE, names)
    # No builtin is hidden: math has a pow of its own, which takes no modulus.
    given = {name: value for name, value in names.items() if not name.startswith("__") and not hasattr(builtins, name)}
    if test["kind"] == "stdin":
        runpy.run_path("solution.py", init_globals=given, run_name="__main__")
        return
    defined = runpy.run_path("solution.py", init_globals=given, run_name="solution")
    if test["kind"] == "assert":
        try:
            exec(compile(test["input"], "tests.py", "exec"), defined)
        except AssertionError:
            traceback.print_exc()
            os.write(result, b"wrong")
        else:
            os.write(result, b"done")
        return
    name = test["function"]
    holder = defined.get("Solution")
    function = getattr(holder(), name) if holder is not None and hasattr(holder, name) else defined.get(name)
    if function is None:
        raise NameError(f"the program defines no {name}")
    value = json.dumps(function(*json.loads(test["input"]))).encode()
    while value:
        value = value[os.write(result, value) :]


def child(test: dict[str, Any], files: dict[str, int], seconds: int) -> None:
    code = 1
    try:
        os.setsid()
        for target, name in enumerate(("in", "out", "err")):
            os.dup2(files[name], target)
        sys.stdin, sys.stdout = (
            os.fdopen(0, encoding="utf-8", closefd=False),
            os.fdopen(1, "w", encoding="utf-8", closefd=False),
        )
        sys.stderr = os.fdopen(2, "w", encoding="utf-8", errors="replace", closefd=False)
        sys.argv = ["solution.py"]
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
        try:
            run(test, files["result"])
            code = 0
        except SystemExit as error:
            code = 0 if error.code in (None, 0) else 1
        for thread in threading.enumerate():
            if thread is not threading.current_thread() and not thread.daemon:
                thread.join()
    except BaseException:  # noqa: BLE001 - whatever the program raises
        code = 1
        with contextlib.suppress(BaseException):
            traceback.print_exc()
    finally:
        with contextlib.suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def one(test: dict[str, Any], seconds: float, wall: float, most: int, own: int) -> dict[str, str]:
    kept = {name: tempfile.TemporaryFile(buffering=0) for name in ("in", "out", "err", "result")}  # noqa: SIM115
    files = {name: file.fileno() for name, file in kept.items()}
    text = test["input"].encode("utf-8", "surrogatepass") if test["kind"] == "stdin" else b""
    while text:
        text = text[os.write(files["in"], text) :]
    os.lseek(files["in"], 0, os.SEEK_SET)
    whole = int(seconds) + (seconds > int(seconds))
    pid = os.fork()
    if pid == 0:
        os.close(own)
        child(test, files, whole)
    ends, pause = time.monotonic() + wall, 0.001
    end = ""
    while True:
        ended, status, usage = os.wait4(pid, os.WNOHANG)
        if ended:
            break
        if time.monotonic() > ends:
            end = "timeout"
        elif os.fstat(files["out"]).st_size > most:
            end = "output"
        if end:
            with contextlib.suppress(OSError):
                os.killpg(pid, signal.SIGKILL)
            os.kill(pid, signal.SIGKILL)
            _, status, usage = os.wait4(pid, 0)
            break
        time.sleep(pause)
        pause = min(pause * 1.5, 0.02)
    with contextlib.suppress(OSError):  # what it left
        os.killpg(pid, signal.SIGKILL)
    if not end and os.WIFSIGNALED(status):
        spent = usage.ru_utime + usage.ru_stime
        if os.WTERMSIG(status) == signal.SIGXCPU or (os.WTERMSIG(status) == signal.SIGKILL and spent >= seconds):
            end = "timeout"
    name = "out" if test["kind"] == "stdin" else "result"
    size = os.fstat(files[name]).st_size
    if not end and size > most:
        end = "output"
    given = os.pread(files[name], size, 0).decode("utf-8", "replace") if not end else ""
    said = tail(files["err"])
    for file in kept.values():
        file.close()
    if not end:
        end = "ok" if status == 0 and (test["kind"] == "stdin" or given) else "error"
    if end == "error" and not said:
        said = f"ended by signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else "it ended before the test did"
    return {"end": end, "given": given if end == "ok" else "", "error": said}


def tail(file: int) -> str:
    size = os.fstat(file).st_size
    start = max(0, size - SAID)
    return os.pread(file, SAID, start).decode("utf-8", "replace").strip()


def main() -> None:
    with open("tests.json", encoding="utf-8") as file:
        order = json.load(file)
    own = os.dup(1)
    os.set_inheritable(own, False)
    with contextlib.suppress(OSError):
        sys.setrecursionlimit(50_000)
    sys.set_int_max_str_digits(50_000)  # as LiveCodeBench runs programs
    for test in order["tests"]:
        said = one(test, order["seconds"], order["wall"], order["most"], own)
        line = (json.dumps(said) + "\n").encode()
        while line:
            line = line[os.write(own, line) :]
        if said["end"] != "ok":
            return


if __name__ == "__main__":
    main()

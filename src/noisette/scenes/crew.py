"""Work shared out among processes that end when they are told to, or when whoever started them is gone."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from multiprocessing import get_context, parent_process
from multiprocessing.connection import wait
from typing import Any

import torch

from noisette.errors import UserError

__all__ = ["cores", "keep_memory", "share_out"]

Work = Callable[..., None]
"""work(*arguments, number, advance): does one number of the list, and calls advance(n) for n steps of it."""


def share_out(
    work: Work,
    arguments: tuple[Any, ...],
    numbers: Sequence[int],
    workers: int | None,
    report: Callable[[int], None],
) -> None:
    """Do work for all numbers, each worker the next one when it is free; report hears of the steps done.

    workers: processes of one thread each, by default one per core; a single one works right here. When this
    is interrupted, or one of them fails, all are ended at once: work must leave nothing half done.

    Raises what work raises (UserError and OSError as they are, all else as RuntimeError with its traceback),
    and UserError when a process is ended from outside, or for fewer than one worker.
    """
    if workers is not None and workers < 1:
        raise UserError(f"workers: at least one does the work, not {workers}")
    report(0)
    count = min(workers or cores(), len(numbers))
    if count > 1:
        _in_processes(work, arguments, numbers, count, report)
    else:
        _here(work, arguments, numbers, report)


@cache
def keep_memory() -> None:
    """Have this process keep the memory of arrays it is done with for the next ones (GNU's C library only).

    By default large arrays go back to the system, which clears every page again at its next first touch:
    a fifth of the time of rendering on four cores. For processes of our own: the memory stays with them.
    """
    if hasattr(library := ctypes.CDLL(None) if os.name == "posix" else None, "mallopt"):
        trim_threshold, mmap_threshold = -1, -3
        library.mallopt(mmap_threshold, 2**30)
        library.mallopt(trim_threshold, 2**31 - 1)


def cores() -> int:
    """How many processes may work at once: one for each core that is ours."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _here(
    work: Work, arguments: tuple[Any, ...], numbers: Sequence[int], report: Callable[[int], None]
) -> None:
    done, threads = 0, torch.get_num_threads()

    def advance(steps: int) -> None:
        nonlocal done
        done += steps
        report(done)

    torch.set_num_threads(1)  # as in the processes, whose results must be the same
    try:
        for number in numbers:
            work(*arguments, number, advance)
    finally:
        torch.set_num_threads(threads)


def _in_processes(
    work: Work,
    arguments: tuple[Any, ...],
    numbers: Sequence[int],
    count: int,
    report: Callable[[int], None],
) -> None:
    context = get_context("spawn")
    taken, done, problems = context.Value("q", 0), context.Value("q", 0), context.SimpleQueue()
    shared = (work, arguments, numbers, taken, done, problems)
    crew = [context.Process(target=_serve, args=shared, daemon=True) for _ in range(count)]
    try:
        with _deaf():
            for process in crew:
                process.start()
        while True:
            at_work = [process.sentinel for process in crew if process.is_alive()]
            if not problems.empty():
                raise problems.get()
            if any(process.exitcode for process in crew):
                raise UserError("a worker process was ended from outside, out of memory? take fewer")
            report(done.value)
            if not at_work:
                return
            wait(at_work, timeout=0.2)
    finally:
        for process in crew:
            if process.pid is not None:
                process.terminate()
                process.join()


@contextlib.contextmanager
def _deaf() -> Iterator[None]:
    """Start processes that do not hear Ctrl-C, not even while they start: they are ended by their parent."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _serve(
    work: Work, arguments: tuple[Any, ...], numbers: Sequence[int], taken: Any, done: Any, problems: Any
) -> None:
    def advance(steps: int) -> None:
        with done.get_lock():
            done.value += steps
        parent = parent_process()
        if parent is None or not parent.is_alive():
            os._exit(1)  # nobody waits for the rest

    torch.set_num_threads(1)
    keep_memory()
    try:
        while True:
            with taken.get_lock():
                number, taken.value = taken.value, taken.value + 1
            if number >= len(numbers):
                return
            work(*arguments, numbers[number], advance)
    except (UserError, OSError) as error:
        problems.put(error)
    except BaseException:
        problems.put(RuntimeError(traceback.format_exc()))

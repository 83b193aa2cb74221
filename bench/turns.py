"""Things that are timed against each other take turns, so that a slow minute hits all alike."""

from __future__ import annotations

import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any


def in_turns(tasks: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each task, run in turns after a first turn that warms up and does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in tasks}
    for turn in range(-1, repeats):
        for name, task in tasks.items():
            start = time.perf_counter()
            task()
            if turn >= 0:
                seconds[name].append(round(time.perf_counter() - start, 5))
    return seconds


def commands_in_turns(
    commands: Mapping[str, Sequence[str]], repeats: int, environment: Mapping[str, str]
) -> dict[str, Any]:
    """The same of fresh processes, with the median of each; the first turn fills the file cache."""

    def started(command: Sequence[str]) -> Callable[[], object]:
        return lambda: subprocess.run(command, check=True, env=environment, capture_output=True)

    seconds = in_turns({name: started(command) for name, command in commands.items()}, repeats)
    return {name: {"median": statistics.median(took), "seconds": took} for name, took in seconds.items()}

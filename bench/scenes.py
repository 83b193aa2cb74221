"""Pictures of scenes a second: `python -m bench.scenes [--processes N] [--repeats N] [--quick]`.

A picture counts when all of it is there: 64 px with shadows and 4 samples per pixel, its truths (depth,
normals, ids, keypoints, cameras) and every control map. Scenes are those of `sample_scene`, by number, drawn
before the clock runs. One process of one thread and several of one thread each take turns, so that a slow
minute hits both alike; then the same scenes at growing sizes, in turns too; medians count. On a GPU, where
there is one, the same in large batches.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import get_context
from typing import Any

import torch

from bench import machine
from bench.turns import in_turns
from noisette.scenes import Scene, render, sample_scene
from noisette.scenes.crew import keep_memory
from noisette.scenes.maps import control_maps

SIZE, SAMPLES = 64, 4
SIZES = (64, 128, 256, 512)
PICTURES, COMPARED, ON_GPU = 96, 16, 2048
"""Pictures of one process in a turn; scenes at each of the sizes; pictures of a turn on a GPU."""
NO_GPU = "not measured: no GPU here"
PATIENCE = 600.0
"""Seconds after which a turn of other processes is given up."""


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.scenes", description=__doc__)
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--quick", action="store_true", help="one repeat of few pictures, nothing is written")
    asked = parser.parse_args(arguments)
    torch.set_num_threads(1)
    keep_memory()
    pictures, compared, repeats, sizes = PICTURES, COMPARED, asked.repeats, SIZES
    if asked.quick:
        pictures, compared, repeats, sizes = 8, 2, 1, SIZES[:2]
    result: dict[str, Any] = {"size": SIZE, "samples": SAMPLES, "pictures": pictures, "compared": compared}
    result |= {"processes": asked.processes, "repeats": repeats, "machine": machine.facts()}
    result |= _processes(asked.processes, pictures, repeats)
    result["sizes"] = _sizes(sizes, compared, repeats)
    result["gpu"] = _gpu(repeats)
    print(*_told(result), sep="\n")
    if not asked.quick:
        machine.write("scenes", result)


def _draw(scenes: Sequence[Scene], size: int = SIZE, device: str = "cpu") -> None:
    """Everything that is known of a picture."""
    control_maps(render(scenes, size, samples=SAMPLES, device=device))


def _scenes(first: int, count: int) -> list[Scene]:
    return [sample_scene(seed) for seed in range(first, first + count)]


def _rate(pictures: int, seconds: list[float]) -> dict[str, Any]:
    return {"pictures_per_second": round(pictures / statistics.median(seconds), 1), "seconds": seconds}


def _processes(count: int, pictures: int, repeats: int) -> dict[str, Any]:
    scenes = _scenes(0, pictures)
    with _crew(count, pictures, repeats + 1) as together:
        tasks = {
            "render": lambda: render(scenes, SIZE, samples=SAMPLES),
            "one": lambda: _draw(scenes),
            "many": together,
        }
        seconds = in_turns(tasks, repeats)
    rows = {name: _rate(pictures * (count if name == "many" else 1), s) for name, s in seconds.items()}
    pairs = zip(seconds["one"], seconds["many"], strict=True)
    rows["many"]["over_one"] = round(count * statistics.median(one / many for one, many in pairs), 2)
    return rows


@contextmanager
def _crew(count: int, pictures: int, turns: int) -> Iterator[Callable[[], None]]:
    """Processes that wait, and the function that has each of them draw its pictures once."""
    context = get_context("spawn")
    barrier = context.Barrier(count + 1, timeout=PATIENCE)
    crew = [
        context.Process(target=_work, args=(barrier, k * pictures, pictures, turns), daemon=True)
        for k in range(count)
    ]
    for process in crew:
        process.start()
    barrier.wait()  # all have loaded what they need

    def together() -> None:
        barrier.wait()
        barrier.wait()

    try:
        yield together
    finally:
        for process in crew:
            process.join(1)
            process.terminate()


def _work(barrier: Any, first: int, pictures: int, turns: int) -> None:
    try:
        torch.set_num_threads(1)
        keep_memory()  # as the processes of an export do
        scenes = _scenes(first, pictures)
        barrier.wait()
        for _ in range(turns):
            barrier.wait()
            _draw(scenes)
            barrier.wait()
    except BaseException:
        barrier.abort()
        raise


def _sizes(sizes: Sequence[int], count: int, repeats: int) -> dict[str, Any]:
    """The same scenes at several sizes: nanoseconds per pixel, and those over the smallest size's."""
    scenes = _scenes(0, count)
    tasks = {str(size): lambda size=size: _draw(scenes, size) for size in sizes}
    seconds = in_turns(tasks, repeats)
    each = {name: [s / count / int(name) ** 2 * 1e9 for s in took] for name, took in seconds.items()}
    base = each[str(sizes[0])]
    return {
        name: {
            "ns_per_pixel": round(statistics.median(row), 1),
            "over_smallest": round(statistics.median(a / b for a, b in zip(row, base, strict=True)), 3),
            "seconds": seconds[name],
        }
        for name, row in each.items()
    }


def _gpu(repeats: int) -> dict[str, Any] | None:
    if not torch.cuda.is_available():
        return None
    scenes = _scenes(0, ON_GPU)

    def rendered() -> None:
        render(scenes, SIZE, samples=SAMPLES, device="cuda")
        torch.cuda.synchronize()

    def whole() -> None:
        _draw(scenes, device="cuda")
        torch.cuda.synchronize()

    seconds = in_turns({"render": rendered, "whole": whole}, repeats)
    rates = {name: _rate(ON_GPU, took) for name, took in seconds.items()}
    return {"name": torch.cuda.get_device_name(), **rates}


def _told(result: dict[str, Any]) -> Iterator[str]:
    for name, words in (
        ("render", "one process, without control maps"),
        ("one", "one process"),
        ("many", f"{result['processes']} processes"),
    ):
        ratio = f", {result[name]['over_one']} times one" if name == "many" else ""
        yield f"{words}: {result[name]['pictures_per_second']} pictures/s{ratio}"
    for name, row in result["sizes"].items():
        yield f"{name} px: {row['ns_per_pixel']} ns per pixel, {row['over_smallest']} times the smallest's"
    gpu = result["gpu"]
    yield f"{gpu['name']}: {gpu['whole']['pictures_per_second']} pictures/s" if gpu else NO_GPU


if __name__ == "__main__":
    main()

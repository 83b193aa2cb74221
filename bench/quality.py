"""What 20 minutes of training are worth: `python -m bench.quality train|sample|score ...`.

    taskset -c 0,1 python -m bench.quality train noisette --minutes 20 --threads 2 --out RUNS/noisette
    python -m bench.quality sample RUNS/noisette --threads 2
    python -m bench.quality score RUNS/*

Each library trains by its own recipe on the same cores for the same time by the clock. `--small` gives
a peer its own network at the size of ours, which may be fairer. A run that is cut goes on where it last
saved; so does sampling. The score is the Frechet distance between 5,000 drawn and 5,000 real test
digits, in the features of the judge of digits.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench import hf, lucidrains, machine, nets, ours, ours_quality, smalldiff
from bench.data import data_folder, digits, png_folder, work_folder
from bench.loops import Loop
from noisette.errors import UserError
from noisette.files import atomic_write
from noisette.pixels import from_uint8, to_uint8

PEERS = ("denoising-diffusion-pytorch", "smalldiffusion", "smalldiffusion-dit", "diffusers")
COUNT, PART, SAVE_EVERY = 5000, 250, 120.0


def build(peer: str, small: bool, images: Tensor, out: Path) -> Loop:
    """A peer with the network and settings of its own examples, or with its network at our size."""
    target = nets.parameters(ours.recipe(128).spec.build())
    inner = images[..., 2:-2, 2:-2]
    match peer, small:
        case "denoising-diffusion-pytorch", _:
            net = lucidrains.equal_net(target) if small else lucidrains.default_net()
            pngs = png_folder(images, work_folder() / "mnist-png")
            return lucidrains.Loop(net, pngs, out / "trainer")
        case "smalldiffusion", False:
            return smalldiff.Loop(smalldiff.default_unet(), inner)
        case "smalldiffusion", True:
            # Its batch of 1024 would leave a hundred updates on a CPU.
            return smalldiff.Loop(smalldiff.equal_net(target, 28), inner, batch_size=128)
        case "smalldiffusion-dit", False:
            return smalldiff.Loop(smalldiff.default_dit(), inner, settings=smalldiff.DIT)
        case "diffusers", _:
            return hf.Loop(hf.equal_net(target) if small else hf.default_net(), images)
    raise UserError(f"there is no {'small ' if small else ''}run of {peer!r}")


def train(peer: str, out: Path, data: Path, *, minutes: float, small: bool, seed: int = 0) -> None:
    """Train for so many minutes by the clock, saving as it goes; set-up and saving do not count."""
    out.mkdir(parents=True, exist_ok=True)
    images, _ = digits(data, "train")
    torch.manual_seed(seed)
    loop = build(peer, small, images, out)
    log: dict[str, Any] = {"name": peer, "small": small, "seconds": 0.0, "updates": 0}
    if (out / "state.pt").exists():
        saved = torch.load(out / "state.pt", weights_only=True)
        loop.restore(saved["loop"])
        log = json.loads(saved["log"])
        torch.manual_seed(seed + log["updates"])
    log |= {"minutes": minutes, "parameters": loop.parameters, "batch_size": loop.batch_size}
    log["machine"] = machine.facts()
    updates, kept = loop.updates(), log["seconds"]
    while log["seconds"] < minutes * 60:
        start = time.perf_counter()
        next(updates)
        log["seconds"] += time.perf_counter() - start
        log["updates"] += 1
        if log["seconds"] - kept >= SAVE_EVERY or log["seconds"] >= minutes * 60:
            kept = log["seconds"]
            _save(out, loop, log)
            print(f"{peer}: {log['updates']} updates in {kept:.0f} s", flush=True)


def _save(out: Path, loop: Loop, log: dict[str, Any]) -> None:
    with atomic_write(out / "state.pt") as path:
        torch.save({"loop": loop.state(), "log": json.dumps(log)}, path)
    with atomic_write(out / "train.json") as path:
        path.write_text(json.dumps(log, indent=1) + "\n", encoding="utf-8")


def sample(run: Path, data: Path, *, count: int, average: bool, steps: int | None, seed: int = 1) -> None:
    """Draw `count` digits into RUN/drawn-..., 250 a file, each from its own seed; finished files stay."""
    log = _log(run)
    if log["name"] == "noisette":
        kinds = ours_quality.kinds(run, data, count)
    else:
        loop = build(log["name"], log["small"], digits(data, "train")[0][:1024], run)
        loop.restore(torch.load(run / "state.pt", weights_only=True)["loop"])
        kinds = {"averaged" if average else "last": _drawer(loop, average, steps)}
    for kind, draw in kinds.items():
        folder = run / f"drawn-{kind}"
        folder.mkdir(exist_ok=True)
        start = time.perf_counter()
        for first in range(0, count, PART):
            path = folder / f"{first:05d}.pt"
            if not path.exists():
                torch.manual_seed(seed * 1_000_003 + first)
                with atomic_write(path) as temporary:
                    torch.save(to_uint8(draw(first, PART)), temporary)
        print(f"{run.name} {kind}: {count} digits, {time.perf_counter() - start:.0f} s", flush=True)


def _drawer(loop: Loop, average: bool, steps: int | None) -> Callable[[int, int], Tensor]:
    return lambda first, count: loop.sample(count, steps, average=average).clamp(-1, 1)


def score(runs: list[Path], data: Path, count: int) -> None:
    """Measure everything drawn so far, and put it into results/quality.json, run by run."""
    from noisette.metrics import Judge, accuracy, evaluate

    judge = Judge.load()
    real, _ = digits(data, "test")
    other, _ = digits(data, "train")
    result = machine.read("quality") or {"runs": {}}
    result["floor"] = evaluate(judge.features, real, _some(other, count), seed=0)
    for run in runs:
        log = _log(run)
        log["drawn"] = {}
        for folder in sorted(path for path in run.glob("drawn-*") if path.is_dir()):
            parts = [torch.load(path, weights_only=True) for path in sorted(folder.glob("[0-9]*.pt"))]
            drawn = from_uint8(torch.cat(parts))
            if len(drawn) < count:
                print(f"{folder}: {len(drawn)} of {count} digits, not scored")
                continue
            found = evaluate(judge.features, real, drawn[:count], seed=0)
            if log["name"] == "noisette":
                asked = ours_quality.asked_labels(data, count)
                found["read_as_asked"] = accuracy(judge, drawn[:count], asked)
            log["drawn"][folder.name.removeprefix("drawn-")] = found
            _picture(run, folder.name, drawn[:100])
            print(f"{run.name} {folder.name}: Frechet distance {found['frechet']:.3f}", flush=True)
        result["runs"][run.name] = log
    result["count"] = count
    machine.write("quality", result)


def _some(images: Tensor, count: int) -> Tensor:
    chosen = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))[:count]
    return images[chosen]


def _picture(run: Path, name: str, drawn: Tensor) -> None:
    from noisette.data import to_pil

    rows = drawn.reshape(-1, 10, 1, 32, 32).permute(2, 0, 3, 1, 4).reshape(1, -1, 320)
    to_pil(rows).save(run / f"{name}.png")


def _log(run: Path) -> dict[str, Any]:
    if not (run / "train.json").is_file():
        raise UserError(f"{run} holds no run: train one first")
    return json.loads((run / "train.json").read_text(encoding="utf-8"))


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.quality",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--data", type=Path, help="folder of the MNIST files")
    common.add_argument("--threads", type=int, default=torch.get_num_threads())
    common.add_argument("--count", type=int, default=COUNT, help="digits drawn and compared")
    tasks = parser.add_subparsers(dest="task", required=True)
    training = tasks.add_parser("train", parents=[common])
    training.add_argument("peer", choices=("noisette", *PEERS))
    training.add_argument("--minutes", type=float, default=20)
    training.add_argument("--out", type=Path, required=True)
    training.add_argument("--small", action="store_true", help="the peer's network at the size of ours")
    sampling = tasks.add_parser("sample", parents=[common])
    sampling.add_argument("run", type=Path)
    sampling.add_argument("--last", action="store_true", help="the last weights in place of the averaged")
    sampling.add_argument("--steps", type=int, help="in place of the library's own")
    tasks.add_parser("score", parents=[common]).add_argument("runs", type=Path, nargs="+")
    asked = parser.parse_args(arguments)
    torch.set_num_threads(asked.threads)
    data = data_folder(asked.data)
    if asked.task == "score":
        score(asked.runs, data, asked.count)
    elif asked.task == "sample":
        sample(asked.run, data, count=asked.count, average=not asked.last, steps=asked.steps)
    elif asked.peer == "noisette":
        ours_quality.train(asked.out, data, minutes=asked.minutes)
    else:
        train(asked.peer, asked.out, data, minutes=asked.minutes, small=asked.small)


if __name__ == "__main__":
    main()

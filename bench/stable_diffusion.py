"""Checkpoints of Stable Diffusion beside diffusers: `python -m bench.stable_diffusion [--threads N]`.

Random weights in the configuration of version 1.5, saved by diffusers, loaded by both libraries. Seconds from
a shell to the first picture of a tiny pipeline, and memory while the true one is loaded, in fresh processes;
one call of the U-Net at 512 px, and of small pixel U-Nets, with equal weights in one process. All take turns.
The floor of a call is what its multiplications would take at the rate of a large product of matrices.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench import machine, pipelines
from bench.turns import commands_in_turns, in_turns
from noisette.hub.configs import pixel_unet_config
from noisette.hub.names import fitted, renamed, unet_names
from noisette.models import Model
from noisette.nets import UNet

COLD, LOADS, CALLS = 7, 3, 3
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}
WIDTHS = ((32, 64, 96), (64, 128, 256))
BATCHES = (1, 16, 64)

# What a user of diffusers writes to see the first picture of a folder.
PICTURE = """
import sys
import torch
from diffusers import StableDiffusionPipeline
pipe = StableDiffusionPipeline.from_pretrained(sys.argv[1])
seed = torch.Generator().manual_seed(0)
pipe("a red cube", num_inference_steps=2, generator=seed).images[0].save(sys.argv[2])
"""

# Memory that is the process's own, and all that it sees, at its most while a model is loaded and when all of
# its weights have been looked at once: those of a mapped file are not there before.
MEMORY = """
import json, sys, threading, time, torch
library, folder, dtype = sys.argv[1], sys.argv[2], getattr(torch, sys.argv[3])
if library == "noisette":
    from noisette import load
    read = lambda: load(folder, dtype=dtype)
    nets = lambda model: [model.denoiser, model.codec]
else:
    from diffusers import StableDiffusionPipeline
    import transformers
    transformers.CLIPTextModel, transformers.CLIPTokenizer
    read = lambda: StableDiffusionPipeline.from_pretrained(folder, torch_dtype=dtype)
    nets = lambda pipe: [pipe.unet, pipe.vae, pipe.text_encoder]
def now():
    lines = (line.split() for line in open("/proc/self/status") if line.startswith(("VmRSS", "RssAnon")))
    return {name.rstrip(":"): int(size) / 1e6 for name, size, _ in lines}
before, most, done = now(), {"VmRSS": 0.0, "RssAnon": 0.0}, threading.Event()
def watch():
    while not done.wait(0.004):
        for name, size in now().items():
            most[name] = max(most[name], size)
thread = threading.Thread(target=watch)
thread.start()
start = time.perf_counter()
model = read()
took, loaded = time.perf_counter() - start, dict(most)
for net in nets(model):
    for weight in net.parameters():
        float(weight.float().sum())
done.set()
thread.join()
print(json.dumps({"seconds": took, "before": before, "loading": loaded, "used": most}))
"""


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.stable_diffusion", description=__doc__)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument(
        "--quick", action="store_true", help="one turn of the small parts, nothing is written"
    )
    asked = parser.parse_args(arguments)
    torch.set_num_threads(asked.threads)
    result: dict[str, Any] = {"threads": asked.threads, "machine": machine.facts()}
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        tiny = pipelines.write(place / "tiny", small=True)
        result["cold"] = _cold(tiny, place, 1 if asked.quick else COLD, asked.threads)
        result["pixels"] = list(_pixels((1,) if asked.quick else BATCHES, 1 if asked.quick else CALLS))
        if not asked.quick:
            full = {name: pipelines.write(place / name, dtype) for name, dtype in _KEPT.items()}
            result["memory"] = list(_memory(full, asked.threads))
            result["calls"] = list(_calls(full["float32"]))
    print(json.dumps(result, indent=1))
    if not asked.quick:
        machine.write("stable_diffusion", result)


_KEPT = {"float32": torch.float32, "float16": torch.float16}


def _environment(threads: int) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}


def _cold(tiny: Path, place: Path, repeats: int, threads: int) -> dict[str, Any]:
    """Seconds from a shell to the first picture, and of `import torch`, which both begin with."""
    program = str(Path(sys.executable).with_name("noisette"))
    out = ["--overwrite", "-o", str(place / "ours.png")]
    draw = [program, "generate", "a red cube", "--model", str(tiny), "--steps", "2", "--seed", "0", *out]
    commands = {
        "noisette": draw,
        "diffusers": [sys.executable, "-c", PICTURE, str(tiny), str(place / "theirs.png")],
        "import torch": [sys.executable, "-c", "import torch"],
    }
    return commands_in_turns(commands, repeats, _environment(threads))


def _memory(full: Mapping[str, Path], threads: int) -> Iterator[dict[str, Any]]:
    """Gigabytes beyond the imports, of files kept in a precision and loaded in one."""
    for kept, wanted in itertools.product(_KEPT, _KEPT):
        rows: dict[str, list[dict[str, Any]]] = {"noisette": [], "diffusers": []}
        for _ in range(LOADS):
            for library, told in rows.items():
                command = [sys.executable, "-c", MEMORY, library, str(full[kept]), wanted]
                done = subprocess.run(
                    command, check=True, env=_environment(threads), capture_output=True, text=True
                )
                told.append(json.loads(done.stdout.splitlines()[-1]))
        yield {"kept": kept, "wanted": wanted, **{name: _median(told) for name, told in rows.items()}}


def _median(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Of all and of the process's own memory, while loading and when used: the increase over the imports."""
    names = {"VmRSS": "all", "RssAnon": "own"}
    found = {
        f"{when}_{name}": round(statistics.median(row[when][key] - row["before"][key] for row in rows), 3)
        for when in ("loading", "used")
        for key, name in names.items()
    }
    return {**found, "seconds": round(statistics.median(row["seconds"] for row in rows), 2)}


def _calls(folder: Path) -> Iterator[dict[str, Any]]:
    """One call at 512 px, alone and with both lanes of guidance; the two networks hold one set of weights."""
    from diffusers import UNet2DConditionModel

    for name, dtype in PRECISIONS.items():
        whole: Any = Model.load(folder, dtype=dtype).denoiser.net
        ours, theirs = whole.net, UNet2DConditionModel.from_pretrained(folder / "unet", torch_dtype=dtype)
        for lanes in (1, 2):
            x, tokens = torch.randn(lanes, 4, 64, 64, dtype=dtype), torch.randn(lanes, 77, 768, dtype=dtype)
            time_ = torch.full((lanes,), 500.0)
            tasks: dict[str, Callable[[], Tensor]] = {
                "noisette": partial(ours, x, time_, {"tokens": tokens}),
                "diffusers": partial(_asked, theirs, x, time_, encoder_hidden_states=tokens),
            }
            yield {"precision": name, "lanes": lanes, **_compared(tasks, CALLS, dtype)}


def _pixels(batches: tuple[int, ...], repeats: int) -> Iterator[dict[str, Any]]:
    """Small U-Nets on 32 x 32 pixels."""
    from diffusers import UNet2DModel

    for widths in WIDTHS:
        torch.manual_seed(0)
        theirs = UNet2DModel(
            sample_size=32,
            block_out_channels=widths,
            down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        ).eval()
        config = pixel_unet_config(dict(theirs.config))
        ours = UNet(config).eval()
        state = renamed(theirs.state_dict(), unet_names(config), "diffusers", "ours")
        ours.load_state_dict(fitted(state, {key: value.shape for key, value in ours.state_dict().items()}))
        for batch in batches:
            x, time_ = torch.randn(batch, 3, 32, 32), torch.full((batch,), 500.0)
            tasks: dict[str, Callable[[], Tensor]] = {
                "noisette": partial(ours, x, time_),
                "diffusers": partial(_asked, theirs, x, time_),
            }
            size = sum(weight.numel() for weight in ours.parameters())
            found = _compared(tasks, repeats * max(1, 16 // batch), torch.float32)
            yield {"parameters": size, "batch": batch, **found}


def _asked(theirs: Any, *told: Tensor, **more: Tensor) -> Tensor:
    return theirs(*told, **more, return_dict=False)[0]


@torch.inference_mode()
def _compared(tasks: Mapping[str, Callable[[], Tensor]], repeats: int, dtype: torch.dtype) -> dict[str, Any]:
    """Seconds of each, the median ratio of their turns, and the floor: RuntimeError if they disagree."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        ours = tasks["noisette"]()
    theirs = tasks["diffusers"]()
    error = float((ours - theirs).abs().max() / theirs.abs().max())
    if error > (1e-4 if dtype == torch.float32 else 0.1):
        raise RuntimeError(f"the networks disagree by {error:.1e}")
    seconds = in_turns(tasks, repeats)
    pairs = zip(seconds["diffusers"], seconds["noisette"], strict=True)
    rate = _matmul_rate(dtype)
    return {
        "seconds": seconds,
        "ratio": round(statistics.median(peer / own for peer, own in pairs), 3),
        "flops": counter.get_total_flops(),
        "matmul_flops_per_second": rate,
        "floor_seconds": round(counter.get_total_flops() / rate, 4),
    }


def _matmul_rate(dtype: torch.dtype, side: int = 2048) -> float:
    """Operations a second of a large product of matrices, the best of a few."""
    a, b = torch.randn(side, side, dtype=dtype), torch.randn(side, side, dtype=dtype)
    best = float("inf")
    for _ in range(6):
        start = time.perf_counter()
        a @ b
        best = min(best, time.perf_counter() - start)
    return 2 * side**3 / best


if __name__ == "__main__":
    main()

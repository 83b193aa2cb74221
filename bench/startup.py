"""Seconds before anything happens: `python -m bench.startup [--threads N]`.

`import noisette` over `import torch`, in fresh processes that take turns. `import noisette` alone puts off
torch until something is used; `from noisette import load` needs it, and is the import that counts. And
from the start of a process to a PNG of 16 digits in 20 steps, beside the same by diffusers from a local
folder with a network of as many parameters.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench import hf, machine, nets, ours, stub
from bench.turns import commands_in_turns

IMPORTS, COLD, STEPS, DIGITS = 15, 7, 20, 16

DECLARED = """
from bench import stub
stub.declare()
"""

# What a diffusers user writes to draw from a saved folder in as many steps and keep one picture.
PIPELINE = """
import sys
from diffusers import DDIMScheduler, DDPMPipeline
from diffusers.utils import make_image_grid
pipe = DDPMPipeline.from_pretrained(sys.argv[1])
pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
images = pipe(batch_size=16, num_inference_steps=20).images
make_image_grid(images, 4, 4).save(sys.argv[2])
"""


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.startup", description=__doc__)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--model", default="digits", help="a model that ships, or its folder")
    parser.add_argument("--quick", action="store_true", help="two of each, nothing is written")
    asked = parser.parse_args(arguments)
    environment = {**os.environ, "OMP_NUM_THREADS": str(asked.threads)}
    imports, cold = (2, 2) if asked.quick else (IMPORTS, COLD)
    with tempfile.TemporaryDirectory() as folder:
        result: dict[str, Any] = {"imports": _imports(imports, environment)}
        result["cold"] = _cold(asked.model, Path(folder), cold, environment)
    result |= {"steps": STEPS, "digits": DIGITS, "threads": asked.threads, "machine": machine.facts()}
    print(*(f"{name}: {row}" for part in ("imports", "cold") for name, row in result[part].items()), sep="\n")
    if not asked.quick:
        machine.write("startup", result)


def _imports(repeats: int, environment: dict[str, str]) -> dict[str, Any]:
    lines = ("import torch", "import noisette", "from noisette import load", "import diffusers")
    commands = {line: [sys.executable, "-c", line] for line in lines}
    rows = commands_in_turns(commands, repeats, environment)
    base = rows["import torch"]["seconds"]
    for row in rows.values():
        pairs = zip(row["seconds"], base, strict=True)
        row["over_torch"] = round(statistics.median(mine - torch for mine, torch in pairs), 4)
    return rows


def _cold(model: str, folder: Path, repeats: int, environment: dict[str, str]) -> dict[str, Any]:
    program = Path(sys.executable).with_name("noisette")
    draw = [str(program), "sample", model, "-n", str(DIGITS), "--steps", str(STEPS), "--seed", "0"]
    draw += ["--label", "7", "--overwrite", "-o", str(folder / "ours.png")]
    peer = _saved_pipeline(folder / "pipeline")
    script = (DECLARED if stub.torchvision_transforms() else "") + PIPELINE
    commands = {
        "noisette": draw,
        "noisette unguided": [*draw, "--guidance-scale", "1"],
        "diffusers": [sys.executable, "-c", script, str(peer), str(folder / "theirs.png")],
    }
    return commands_in_turns(commands, repeats, environment)


def _saved_pipeline(folder: Path) -> Path:
    stub.torchvision_transforms()
    from diffusers import DDPMPipeline, DDPMScheduler

    target = nets.parameters(ours.recipe(64).spec.build())
    DDPMPipeline(unet=hf.equal_net(target), scheduler=DDPMScheduler(1000)).save_pretrained(folder)
    return folder


if __name__ == "__main__":
    main()

"""Measure and write RESULTS.md: `python -m bench.run [part ...]`.

The parts are startup, throughput, quality, scenes, text_to_image, stable_diffusion, equal_error, choices and
report; without one, all in this order.

`quality` trains one library after the other and takes hours; each of its runs goes on where it was cut, and
those that are finished stay, so that it may also be started piece by piece through `bench.quality`.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from bench.data import work_folder

PARTS = (
    "startup",
    "throughput",
    "quality",
    "scenes",
    "text_to_image",
    "stable_diffusion",
    "equal_error",
    "choices",
    "report",
)
RUNS = {
    "noisette": ["noisette"],
    "denoising-diffusion-pytorch": ["denoising-diffusion-pytorch"],
    "smalldiffusion": ["smalldiffusion"],
    "smalldiffusion-dit": ["smalldiffusion-dit"],
    "diffusers": ["diffusers"],
    "denoising-diffusion-pytorch-small": ["denoising-diffusion-pytorch", "--small"],
    "smalldiffusion-small": ["smalldiffusion", "--small"],
    "diffusers-small": ["diffusers", "--small"],
}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.run", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", metavar="part", help=", ".join(PARTS))
    parser.add_argument("--data", type=Path, help="folder of the MNIST files")
    parser.add_argument("--minutes", type=float, default=20, help="of training each")
    parser.add_argument("--threads", type=int, help="how many each part uses; torch decides by default")
    asked = parser.parse_args(arguments)
    if unknown := set(asked.parts) - set(PARTS):
        parser.error(f"there is no part {', '.join(sorted(unknown))}: take {', '.join(PARTS)}")
    threads = ["--threads", str(asked.threads)] if asked.threads else []
    data = ["--data", str(asked.data)] if asked.data else []
    for part in asked.parts or PARTS:
        if part == "quality":
            _quality([*threads, *data], asked.minutes)
        elif part in ("scenes", "choices", "equal_error", "report"):  # these choose their own threads
            _python(f"bench.{part}")
        else:
            _python(f"bench.{part}", *threads, *(data if part == "throughput" else []))


def _quality(common: list[str], minutes: float) -> None:
    runs = work_folder() / "quality"
    for name, who in RUNS.items():
        out = str(runs / name)
        _python("bench.quality", "train", *who, "--minutes", str(minutes), "--out", out, *common)
        _python("bench.quality", "sample", out, *common)
    _python("bench.quality", "score", *(str(runs / name) for name in RUNS), *common)


def _python(module: str, *arguments: str) -> None:
    """A part in a process of its own, so that none inherits another's state."""
    subprocess.run([sys.executable, "-m", module, *arguments], check=True)


if __name__ == "__main__":
    main()

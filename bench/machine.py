"""Where numbers were taken: what a reader needs to judge them."""

from __future__ import annotations

import json
import os
import platform
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from noisette.files import atomic_write

RESULTS = Path(__file__).parent / "results"
PACKAGES = (
    "noisette",
    "torch",
    "torchvision",
    "denoising-diffusion-pytorch",
    "ema-pytorch",
    "smalldiffusion",
    "transformers",
    "torch-ema",
    "diffusers",
    "accelerate",
    "numpy",
)


def facts() -> dict[str, Any]:
    """Processor, cores this process may use, threads, load, versions, the day."""
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "cores_used": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "versions": {name: found for name in PACKAGES if (found := _version(name))},
    }


def write(name: str, content: dict[str, Any]) -> Path:
    """Put `content` into results/NAME.json."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return path


def read(name: str) -> dict[str, Any] | None:
    """What results/NAME.json holds, None where that part has not run."""
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    flags = next((line for line in lines if line.startswith("flags")), "")
    bf16 = " with bf16 instructions" if "avx512_bf16" in flags or "amx_bf16" in flags else ""
    return (names[0] if names else platform.processor() or platform.machine()) + bf16


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None

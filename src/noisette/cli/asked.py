"""Pictures to be measured, each drawn for a prompt or label of its own."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from noisette.cli.terminal import progress

if TYPE_CHECKING:
    from torch import Tensor

    from noisette.models import Generator, Model

AT_ONCE = 50
SETTINGS = ("num_inference_steps", "solver", "grid", "guidance_scale", "guidance_rescale", "temperature")


def drawn_as_asked(
    model: Model | Generator,
    n: int,
    asked: Mapping[str, Sequence[Any]],
    seed: int,
    options: Mapping[str, Any],
) -> tuple[Tensor, dict[str, Any]]:
    """n pictures [n, C, H, W], by seeds from ``seed`` on, and how they were drawn, and how fast.

    asked: n values each of what `Model.generate` takes as a list, "prompt" or "label"; {} asks for nothing.
    """
    import torch

    parts: list[Tensor] = []
    settings: dict[str, Any] = {}
    start = time.perf_counter()
    with progress("drawing", n) as advance:
        for first in range(0, n, AT_ONCE):
            count = min(AT_ONCE, n - first)
            told = {name: list(values[first : first + count]) for name, values in asked.items()}
            call: Any = {**(told or {"num_images_per_prompt": count}), **options}
            output = model.generate(**call, seed=seed + first, output_type="torch")
            parts.append(output.images)
            settings = output.settings
            for _ in range(count):
                advance()
    rate = n / (time.perf_counter() - start)
    return torch.cat(parts), {
        **{key: settings[key] for key in SETTINGS if key in settings},
        "pictures_per_second": rate,
    }

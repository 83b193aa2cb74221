"""Pictures in batches that are the same whoever draws them, with all that makes them again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from noisette.cli.request import Request
from noisette.cli.terminal import progress

if TYPE_CHECKING:
    from PIL.Image import Image

    from noisette.core import Step
    from noisette.models import Model, Output

__all__ = ["Batch", "Job", "Picture", "batches_of"]

PREVIEW_EVERY = 5


@dataclass(frozen=True)
class Picture:
    """One picture of a run: its place in it, its prompt and its seed."""

    number: int
    prompt: str
    seed: int


@dataclass(frozen=True)
class Batch:
    """Pictures that are drawn together, and which of them are wanted; ``share`` is whose work it is."""

    pictures: tuple[Picture, ...]
    wanted: tuple[int, ...]
    share: int = 0


def batches_of(pictures: Sequence[Picture], n: int, size: int) -> Iterator[Batch]:
    """At most ``size`` pictures at a time, out of one prompt with its ``n``, or out of several whole ones.

    So batches depend on nothing but the list of prompts: not on which are done, nor on who draws them.
    """
    stride = max(1, size // n) * n
    for share, start in enumerate(range(0, len(pictures), stride)):
        together = pictures[start : start + stride]
        for first in range(0, len(together), size):
            rows = tuple(together[first : first + size])
            yield Batch(rows, tuple(range(len(rows))), share)


@dataclass(frozen=True)
class Job:
    """A model, and a request that leaves nothing open, with the pictures that it names."""

    model: Model
    request: Request
    image: Image | None = None
    mask: Image | None = None

    def batches(self, pictures: Sequence[Picture], n: int) -> list[Batch]:
        """The pictures in batches; one that was among others is in the place where it was."""
        asked = self.request
        if asked.batch_index is not None and len(pictures) == 1:
            return [Batch(tuple(pictures) * (asked.batch_size or 1), (asked.batch_index,))]
        return list(batches_of(pictures, n, asked.batch_size or 1))

    def settings_of(self, batch: Batch, row: int) -> dict[str, Any]:
        """What is known of a picture before it is drawn."""
        asked, picture = self.request, batch.pictures[row]
        return {
            "prompt": picture.prompt,
            "negative_prompt": asked.negative_prompt,
            "seed": picture.seed,
            **self._settings(len(batch.pictures)),
            "batch_index": row,
        }

    def sheet_settings(self, pictures: Sequence[Picture], columns: int) -> dict[str, Any]:
        """What is known of a sheet of pictures of one prompt."""
        asked = self.request
        return {
            "prompt": pictures[0].prompt,
            "negative_prompt": asked.negative_prompt,
            "seed": pictures[0].seed,
            "seeds": [picture.seed for picture in pictures],
            "columns": columns,
            **self._settings(asked.batch_size or 1),
        }

    def _settings(self, batch_size: int) -> dict[str, Any]:
        asked = self.request
        drawing = asked.drawing()
        return {
            **asked.pictures(),
            **{name: value for name, value in drawing.items() if name not in ("width", "height")},
            "clip_skip": asked.clip_skip or None,
            "size": f"{asked.width}x{asked.height}",
            "weights": asked.model,
            "variant": asked.variant,
            "revision": asked.revision,
            "lora": list(asked.lora) or None,
            "model_hash": asked.model_hash,
            "cache_every": asked.cache_every,
            "device": asked.device,
            "precision": asked.precision,
            "compile": asked.compile,
            "batch_size": batch_size,
        }

    def draw(
        self, batches: Sequence[Batch], output_type: str, preview: Path | None
    ) -> Iterator[tuple[Batch, Output]]:
        """Draw one batch after another, with a bar on the terminal; ``preview`` shows the first of each."""
        from noisette.models.starting import steps_taken

        model, asked = self.model, self.request
        steps = len(model.levels(asked.num_inference_steps, asked.grid)) - 1
        steps = steps if asked.strength is None else steps_taken(steps, asked.strength)
        with progress("drawing", steps * len(batches)) as advance, _previewing(model, preview) as show:
            for batch in batches:
                # What a cache holds belongs to one batch, so each has its own.
                drawer = model if asked.cache_every is None else model.cached(asked.cache_every)
                output = drawer.generate(
                    [picture.prompt for picture in batch.pictures],
                    negative_prompt=[asked.negative_prompt] * len(batch.pictures),
                    image=self.image,
                    mask_image=self.mask,
                    seed=[picture.seed for picture in batch.pictures],
                    batch_size=len(batch.pictures),
                    output_type=output_type,  # pyright: ignore[reportArgumentType]
                    callback=lambda step: (advance(), show(step))[1],
                    **asked.drawing(),
                )
                yield batch, replace(output, settings={**output.settings, **asked.pictures()})


@contextmanager
def _previewing(model: Model, path: Path | None) -> Iterator[Callable[[Step], None]]:
    """Every few steps the x0 of a batch's first picture in a file, which is gone at the end."""
    if path is None:
        yield lambda step: None
        return
    from noisette.data.images import to_pil
    from noisette.files import atomic_write

    def show(step: Step) -> None:
        if (step.index + 1) % PREVIEW_EVERY == 0 and step.index + 1 < step.total:
            image = to_pil(model.decode(step.prediction.x0[:1])[0].nan_to_num().clamp(-1, 1))
            with atomic_write(path) as temporary:
                image.save(temporary, format="PNG")  # pyright: ignore[reportAttributeAccessIssue]

    try:
        yield show
    finally:
        path.unlink(missing_ok=True)

"""Train the judge of digits: `python -m noisette.training.judge DATA_DIR OUT`.

Generated digits may sit a little off, lean, swell, blur or keep noise. The judge is therefore trained on
digits so disturbed, each disturbance small enough that a person's reading would not change.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from noisette.data import open_dataset
from noisette.errors import UserError
from noisette.files import atomic_write, ensure_writable
from noisette.metrics.features import collect
from noisette.metrics.frechet import Statistics, frechet_distance
from noisette.metrics.judge import Judge, accuracy

EPOCHS, BATCH, PEAK_RATE, WEIGHT_DECAY, EMA_DECAY, SMOOTHING, SEED = 10, 128, 4e-3, 1e-2, 0.997, 0.02, 0


def uniform(low: float, high: float, shape: tuple[int, ...], rng: torch.Generator) -> Tensor:
    return torch.rand(shape, generator=rng) * (high - low) + low


def warp(x: Tensor, rng: torch.Generator) -> Tensor:
    """Shift images [B, C, H, W] up to 2.5 pixels, turn 12 degrees, scale 15 %, shear and bend them."""
    n, size = len(x), x.shape[-1]
    angle = uniform(-0.21, 0.21, (n,), rng)
    scale, aspect = uniform(0.87, 1.18, (n,), rng), uniform(0.93, 1.07, (n,), rng)
    shear = uniform(-0.15, 0.15, (n,), rng)
    shift = uniform(-2.5, 2.5, (n, 2), rng) * (2 / size)
    cos, sin = angle.cos() * scale, angle.sin() * scale
    rows = [cos * aspect, shear - sin * aspect, shift[:, 0], sin / aspect, cos / aspect, shift[:, 1]]
    grid = F.affine_grid(torch.stack(rows, 1).reshape(n, 2, 3), list(x.shape), align_corners=False)
    bend = torch.randn((n, 2, 5, 5), generator=rng) * uniform(0, 1.0, (n, 1, 1, 1), rng) * (2 / size)
    bend = F.interpolate(bend, size=x.shape[-2:], mode="bicubic", align_corners=True).permute(0, 2, 3, 1)
    return F.grid_sample(x + 1, grid + bend, align_corners=False) - 1


def soften(x: Tensor, rng: torch.Generator) -> Tensor:
    """Blend images with a 3x3 binomial blur of themselves, by 0 to 1, every second image."""
    line = torch.tensor([0.25, 0.5, 0.25])
    kernel = torch.outer(line, line).expand(x.shape[1], 1, 3, 3)
    blurred = F.conv2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), kernel, groups=x.shape[1])
    amount = uniform(-1, 1, (len(x), 1, 1, 1), rng).clamp(min=0)
    return torch.lerp(x, blurred, amount)


def disturb(x: Tensor, rng: torch.Generator) -> Tensor:
    """Warp, soften, dim and add noise (up to 0.3 in [-1, 1], every second image)."""
    x = soften(warp(x, rng), rng)
    x = (x + 1) * uniform(0.7, 1.1, (len(x), 1, 1, 1), rng) - 1
    noise = torch.randn(x.shape, generator=rng) * uniform(-0.3, 0.3, (len(x), 1, 1, 1), rng).clamp(min=0)
    return (x + noise).clamp(-1, 1)


def digits(data: Path, split: str) -> tuple[Tensor, Tensor]:
    """MNIST images [N, 1, 32, 32] in [-1, 1] (28x28 padded by 2) and labels [N]."""
    batch = (d := open_dataset(data, size=32, channels=1, fit="pad", split=split)).fetch(range(len(d)))
    return batch["image"], batch["label"]


def train(judge: Judge, images: Tensor, labels: Tensor, epochs: int) -> Iterator[float]:
    """Train the judge in place, yielding the loss after every step."""
    rng = torch.Generator().manual_seed(SEED)
    steps = epochs * (len(images) // BATCH)
    optimizer = torch.optim.AdamW(judge.parameters(), lr=PEAK_RATE, weight_decay=WEIGHT_DECAY)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_RATE, total_steps=steps, pct_start=0.2)
    judge.train()
    for _ in range(epochs):
        order = torch.randperm(len(images), generator=rng)
        for pick in order[: len(order) // BATCH * BATCH].split(BATCH):
            logits = judge(disturb(images[pick], rng))
            loss = F.cross_entropy(logits, labels[pick], label_smoothing=SMOOTHING)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            rate.step()
            yield loss.item()


def half(value: Tensor) -> Tensor:
    return value.half() if value.is_floating_point() else value


def fit(images: Tensor, labels: Tensor, epochs: int) -> Judge:
    """Train under a progress bar; return a judge of the averaged weights, rounded to float16."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    torch.manual_seed(SEED)
    judge = Judge()
    average = AveragedModel(judge, multi_avg_fn=get_ema_multi_avg_fn(EMA_DECAY), use_buffers=True)
    columns = (TextColumn("training the judge"), BarColumn(), TextColumn("loss {task.fields[loss]:.3f}"))
    with Progress(*columns, TimeRemainingColumn()) as progress:
        task = progress.add_task("", total=epochs * (len(images) // BATCH), loss=float("nan"))
        for loss in train(judge, images, labels, epochs):
            average.update_parameters(judge)
            progress.update(task, advance=1, loss=loss)
    kept = Judge()
    kept.load_state_dict({name: half(value) for name, value in average.module.state_dict().items()})
    return kept.eval().requires_grad_(False)


def measure(judge: Judge, data: Path, features: Tensor) -> dict[str, float]:
    """Test accuracy, clean and disturbed, and the Frechet distances between real digits.

    features: [60000, 64] of the training digits.
    """
    images, labels = digits(data, "test")
    rng = torch.Generator().manual_seed(SEED + 1)

    def some(rows: Tensor, count: int) -> Tensor:
        return rows[torch.randperm(len(rows), generator=rng)[:count]]

    a, b = map(Statistics.of, some(features, 10_000).chunk(2))
    test = Statistics.of(some(collect(judge.features, images), 5_000))
    return {
        "accuracy": accuracy(judge, images, labels),
        "disturbed": accuracy(judge, disturb(images, rng), labels),
        "floor": frechet_distance(a, b),
        "floor_test": frechet_distance(a, test),
        "reference_test": frechet_distance(Statistics.of(features), test),
        "trace": Statistics.of(features).covariance.trace().item(),
    }


CARD = """# digits-judge

A convolutional classifier of 32x32 one-channel digits. Its 64 penultimate features carry the Frechet
distance of the digits world. It judges generated digits; it is not meant for reading handwriting in earnest.

- Data: MNIST, the 60,000 training digits, padded with background from 28x28 to 32x32, values in [-1, 1].
- Recipe: `python -m noisette.training.judge DATA_DIR OUT`. {epochs} epochs, batches of {batch}, AdamW
  on a one-cycle rate up to {rate}, weight decay {decay}, label smoothing {smoothing}, moving average of the
  weights {ema}, seed {seed}. Every digit is shifted, turned, scaled, sheared, bent and dimmed; every second
  one is blurred, every second one made noisy. No choice was made on the test digits.
- Commit: see history.
- Weights: {weights:,} numbers, kept in float16. The figures were measured on the rounded weights.

| measured | value |
| --- | --- |
| accuracy, 10,000 test digits | {accuracy:.2%} |
| accuracy, the same disturbed as in training | {disturbed:.2%} |
| Frechet distance, 5,000 training digits to 5,000 other training digits | {floor:.4f} |
| Frechet distance, 5,000 training digits to 5,000 test digits | {floor_test:.4f} |
| Frechet distance, the shipped reference (60,000) to 5,000 test digits | {reference_test:.4f} |
| total variance of the features, for scale | {trace:.2f} |

The distances between real digits are the floor for generated ones. A distance depends on the number of
images: compare equal numbers only. `digits-reference.safetensors` holds the count, mean and scatter (sum of
squared deviations) of the features of all 60,000 training digits, in float64.

Licence: Apache-2.0, as the rest of the package. MNIST is by Yann LeCun and Corinna Cortes and commonly given
as CC BY-SA 3.0; these files contain no digit of it.
"""


def card(judge: Judge, epochs: int, measured: dict[str, float]) -> str:
    weights = sum(value.numel() for value in judge.state_dict().values())
    recipe = {"batch": BATCH, "rate": PEAK_RATE, "decay": WEIGHT_DECAY, "smoothing": SMOOTHING}
    return CARD.format(epochs=epochs, weights=weights, ema=EMA_DECAY, seed=SEED, **recipe, **measured)


def main(arguments: list[str] | None = None) -> None:
    from safetensors.torch import save

    parser = argparse.ArgumentParser(prog="python -m noisette.training.judge", description=__doc__)
    parser.add_argument("data", type=Path, metavar="DATA_DIR", help="folder with the four MNIST files (IDX)")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder for the weights, card and reference")
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--overwrite", action="store_true", help="replace files of the same names")
    options = parser.parse_args(arguments)
    names = ("digits-judge.safetensors", "digits-reference.safetensors", "digits-judge.md")
    try:
        files = [ensure_writable(options.out / name, overwrite=options.overwrite) for name in names]
        images, labels = digits(options.data, "train")
    except UserError as error:
        parser.error(str(error))
    judge = fit(images, labels, options.epochs)
    features = collect(judge.features, images)
    text = card(judge, options.epochs, measure(judge, options.data, features))
    weights = save({name: half(value) for name, value in judge.state_dict().items()})
    reference = save(vars(Statistics.of(features)))
    for file, content in zip(files, (weights, reference, text.encode()), strict=True):
        with atomic_write(file) as part:
            part.write_bytes(content)
    print(text)


if __name__ == "__main__":
    main()

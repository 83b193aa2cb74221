"""MNIST as every library here is given it: 28x28 digits, padded by 2 to 32x32, values in [-1, 1]."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from torch import Tensor
from torch.utils.data import Dataset

from noisette.data import open_dataset, to_pil
from noisette.errors import UserError

__all__ = ["Images", "data_folder", "digits", "png_folder", "work_folder"]


def data_folder(given: Path | None = None) -> Path:
    """The folder of the IDX files: as given, or `mnist` in $NOISETTE_DATA or in ../shared/data."""
    folder = given or Path(os.environ.get("NOISETTE_DATA", "../shared/data")) / "mnist"
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder: give the one with the MNIST files, or set NOISETTE_DATA")
    return folder


def work_folder() -> Path:
    """Where runs and copies of the data lie: $NOISETTE_BENCH, or a folder for temporary files."""
    return Path(os.environ.get("NOISETTE_BENCH", Path(tempfile.gettempdir()) / "noisette-bench"))


def digits(data: Path, split: str) -> tuple[Tensor, Tensor]:
    """Images [N, 1, 32, 32] and labels [N] of a split."""
    dataset = open_dataset(data, size=32, channels=1, fit="pad", split=split)
    batch = dataset.fetch(range(len(dataset)))
    return batch["image"], batch["label"]


class Images(Dataset[Tensor]):
    """The rows of a tensor [N, ...], one at a time, as the peers' data loaders want them."""

    def __init__(self, rows: Tensor) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Tensor:
        return self.rows[index]


def png_folder(images: Tensor, folder: Path) -> Path:
    """The images as PNG files, written once; the form in which denoising-diffusion-pytorch reads data."""
    done = folder / ".complete"
    if not done.exists():
        folder.mkdir(parents=True, exist_ok=True)
        for index, image in enumerate(images):
            to_pil(image).save(folder / f"{index:05d}.png")
        done.touch()
    return folder

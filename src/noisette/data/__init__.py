"""From a path to batches: every common layout of images, labels and captions, with exact resume."""

from noisette.data.dataset import ImageDataset, open_dataset
from noisette.data.idx import read_idx
from noisette.data.images import to_pil
from noisette.data.loading import Images, Loader, Order, loader

__all__ = [
    "ImageDataset",
    "Images",
    "Loader",
    "Order",
    "loader",
    "open_dataset",
    "read_idx",
    "to_pil",
]

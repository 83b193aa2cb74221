"""Emoji from their names, 64 x 64, on white. Data: a folder with names in metadata.jsonl, such as Noto's.

A few thousand pictures are few: by the end the network has seen each many times, and its samples must be held
against them (`noisette.metrics.copies`).
"""

from __future__ import annotations

from dataclasses import replace

from noisette.recipes.text_to_image import recipe as text_to_image

recipe = replace(
    text_to_image,
    spec=replace(text_to_image.spec, name="emoji"),
    fit="pad",
    steps=5_000,
    batch_size=32,
)

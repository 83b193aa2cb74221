"""The reader's model card: what it is, how it was made, and its tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from noisette.scenes.reader.net import SURROUNDINGS, WORDS, Reader
from noisette.training.reader.fitting import BATCH, EMA_DECAY, PEAK_RATE, SEED, WEIGHT_DECAY
from noisette.training.reader.measure import CLEAR_PART, CLEAR_PIXELS, NOTHING

ROWS = {
    "found": "clearly visible objects found",
    "shape": "shape",
    "color": "color",
    "shape and color": "shape and color both",
    "size": "size",
    "material": "material",
    "pose": "pose, of figures",
    "relation": "relation between two clearly visible objects",
    "left of": "- left of",
    "right of": "- right of",
    "in front of": "- in front of",
    "behind": "- behind",
    "on top of": "- on top of",
    "style": "style",
    "light": "light",
    "floor_color": "color of the floor",
    "floor_pattern": "pattern of the floor",
    "count": "number of objects exact, of all scenes",
    "no object too many": "no object seen that is not there, of all scenes",
    "one object holds": "`score`: first object, light and style of a scene hold",
    "description holds": "`score`: shapes, colors, all relations, light and style of a scene all hold",
    "wrong word refused": "`score`: the same with one shape or color changed does not hold",
}

CARD = """# scenes-reader

A small U-Net that reads 64 px pictures of the scenes world: where its objects are, what they are, how they
stand to each other, the floor, the light and the style. Its 128 pooled features carry the Frechet distance of
this world. It reads this world and what imitates it; of photographs it knows nothing.

- Recipe: `python -m noisette.training.reader OUT --scenes {scenes} {budget}`. {steps:,} steps of {batch}
  pictures in {minutes:.0f} minutes on a CPU in bfloat16, AdamW on a warmed-up cosine from {rate}, weight
  decay {decay}, moving average of the weights {ema}, seed {seed}. One picture in eight shows nothing and
  is to be read as nothing; the others are mirrored, softened, dimmed, tinted and made noisy, mildly.
- Data: {scenes:,} scenes of the split "all" (held-out combinations too: the reader has to know everything),
  a quarter of them in motion, an eighth seen from unusual cameras.
- Commit: see history.
- Weights: {weights:,} numbers, kept in float16. The figures were measured on the rounded weights.

The ceiling, against which every later score is read: pictures rendered from seeds that training never saw.
Clearly visible is an object of which at least {pixels} of the 64 x 64 pixels show and at least {part:.0%} of
what would show if nothing stood before it. An object that is not found, or whose mask overlaps the true one
by less than half (intersection over union), counts as wrong in every line.

{table}

Pictures that show nothing (noise, clouds, plain color, strong blur, late diffusion, overlays, shuffled
tiles): no object is seen in {silence:.2%} of them.

| noise added (standard deviation, pictures in [-1, 1]) | {amounts} |
| --- | {rule} |
| objects found with shape and color right | {steady} |

Frechet distance of the features between two halves of the test pictures ({half} each): {floor:.4f}; to as
many pictures of held-out combinations: {novel:.4f}; total variance, for scale: {trace:.2f}. Compare equal
numbers of pictures only.

{confusions}

Licence: Apache-2.0, as the rest of the package.
"""


def results(reports: Mapping[str, Mapping[str, Any]]) -> str:
    """One table of the shares of several exams, by their titles."""
    lines = ["| measured | " + " | ".join(reports) + " |", "| --- |" + " --- |" * len(reports)]
    for name, title in ROWS.items():
        values = [report["shares"].get(name) for report in reports.values()]
        counts = next(iter(reports.values()))["counts"].get(name, 0)
        cells = " | ".join("" if value is None else f"{value:.2%}" for value in values)
        lines.append(f"| {title} ({counts:,}) | {cells} |")
    return "\n".join(lines)


def confusion(name: str, table: Sequence[Sequence[int]]) -> str:
    """A confusion table: rows are true, columns are read."""
    words = (WORDS | SURROUNDINGS)[name]
    head = f"| {name}: true, read | " + " | ".join((*words, NOTHING)) + " |"
    rows = [
        f"| {word} | " + " | ".join(f"**{n}**" if i == k else str(n or "") for k, n in enumerate(row)) + " |"
        for i, (word, row) in enumerate(zip(words, table, strict=True))
    ]
    return "\n".join([head, "| --- |" + " --- |" * (len(words) + 1), *rows])


def card(reader: Reader, run: Mapping[str, Any], figures: Mapping[str, Any]) -> str:
    """The model card, of the facts of the run and what was measured."""
    steady: Mapping[str, float] = figures["noise"]
    tables = figures["exams"]["test"]["confusion"]
    return CARD.format(
        weights=sum(value.numel() for value in reader.state_dict().values()),
        batch=BATCH,
        rate=PEAK_RATE,
        decay=WEIGHT_DECAY,
        ema=EMA_DECAY,
        seed=SEED,
        pixels=CLEAR_PIXELS,
        part=CLEAR_PART,
        table=results(figures["exams"]),
        silence=figures["silence"],
        amounts=" | ".join(steady),
        rule=" | ".join("---" for _ in steady),
        steady=" | ".join(f"{value:.1%}" for value in steady.values()),
        confusions="\n\n".join(confusion(name, table) for name, table in tables.items()),
        **figures["frechet"],
        **run,
    )

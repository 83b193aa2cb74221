"""``noisette evaluate`` of a text-to-image model: asked for scenes, and marked by their reader."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from noisette.cli.asked import AT_ONCE, drawn_as_asked
from noisette.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from noisette.models import Model
    from noisette.scenes.quiz import Mark, Question

SPLITS = {"test": "seen", "novel": "held out"}
"""Of combinations of shape and color, and of how two such objects stand."""

ELSEWHERE = 3_000_000
"""The seed from which the true pictures are taken that give the distance its floor."""


def scenes_figures(model: Model, n: int, seed: int, options: dict[str, Any]) -> dict[str, Any]:
    """Marks of n pictures for captions of each split, beside those of the true pictures; Frechet distances.

    The distance is that of the pictures for "test" to the true pictures of the same captions, in the features
    of the reader; its floor is that of as many other true pictures. Raises UserError for a model that does
    not know the words of scenes.
    """
    from noisette.metrics import Statistics, collect, frechet_distance
    from noisette.scenes.quiz import mark, quiz, true_pictures
    from noisette.scenes.reader import Reader

    reader, size = Reader.load(), model.spec.image_size
    figures: dict[str, Any] = {"pictures": n}
    statistics: dict[str, Statistics] = {}
    for split in SPLITS:
        questions = quiz(split, n)
        _check_words(model, questions)
        drawn, asked = drawn_as_asked(model, n, {"prompt": [q.text for q in questions]}, seed, options)
        figures |= asked
        real = true_pictures(questions, size)
        figures[split] = _compared(mark(drawn, questions, reader), mark(real, questions, reader))
        statistics |= {f"{split} drawn": Statistics.of(collect(reader.features, drawn))}
        statistics |= {f"{split} true": Statistics.of(collect(reader.features, real))}
    others = Statistics.of(collect(reader.features, true_pictures(quiz("test", n, ELSEWHERE), size)))
    figures["frechet"] = frechet_distance(statistics["test true"], statistics["test drawn"])
    figures["frechet_floor"] = frechet_distance(statistics["test true"], others)
    if model.codec is not None:
        figures["autoencoder"] = rebuilt_figures(lambda x: model.decode(model.encode(x)), n, size)
    return figures


def rebuilt_figures(rebuild: Callable[[Tensor], Tensor], n: int, size: int) -> dict[str, Any]:
    """What an autoencoder loses of n true pictures of unseen scenes: PSNR in dB, SSIM, the reader's marks."""
    import torch

    from noisette.metrics import Statistics, collect, frechet_distance, psnr, ssim
    from noisette.scenes.quiz import mark, quiz, true_pictures
    from noisette.scenes.reader import Reader

    reader, questions = Reader.load(), quiz("test", n)
    real = true_pictures(questions, size)
    back = torch.cat([rebuild(part).clamp(-1, 1).cpu() for part in real.split(AT_ONCE)])
    features = [Statistics.of(collect(reader.features, images)) for images in (real, back)]
    return {
        "psnr": float(psnr(back, real).mean()),
        "ssim": float(ssim(back, real).mean()),
        "frechet": frechet_distance(*features),
        "marks": _compared(mark(back, questions, reader), mark(real, questions, reader)),
    }


def show_rebuilt(name: str, figures: dict[str, Any]) -> None:
    """The figures of an autoencoder."""
    from rich.console import Console
    from rich.table import Table

    table = Table(name, "rebuilt", "true", box=None)
    for kind, marks in figures["marks"].items():
        table.add_row(f"{kind} ({marks['count']})", f"{marks['right']:.1%}", f"{marks['ceiling']:.1%}")
    console = Console()
    console.print(table)
    console.print(
        f"PSNR {figures['psnr']:.2f} dB, SSIM {figures['ssim']:.4f}, frechet {figures['frechet']:.3g}"
    )


def show_scenes(name: str, figures: dict[str, Any]) -> None:
    """The table of marks, and the other figures under it."""
    from rich.console import Console
    from rich.table import Table

    console, marks = Console(), [figures[split] for split in SPLITS]
    titles = [word for title in SPLITS.values() for word in (title, "ceiling", "of it")]
    table = Table(name, *titles, box=None)
    for kind in marks[0]:
        cells = (
            f"{mark[kind][column]:.1%}" for mark in marks for column in ("right", "ceiling", "of_ceiling")
        )
        table.add_row(f"{kind} ({marks[0][kind]['count']})", *cells)
    console.print(table)
    rest = {key: value for key, value in figures.items() if key not in (*SPLITS, "autoencoder")}
    words = (f"{value:.4g}" if isinstance(value, float) else value for value in rest.values())
    console.print(", ".join(f"{key.replace('_', ' ')} {word}" for key, word in zip(rest, words, strict=True)))
    if "autoencoder" in figures:
        show_rebuilt("the autoencoder alone", figures["autoencoder"])


def _compared(drawn: dict[str, Mark], true: dict[str, Mark]) -> dict[str, dict[str, float]]:
    return {
        kind: {
            "count": mark.total,
            "right": mark.share,
            "ceiling": true[kind].share,
            "of_ceiling": mark.share / true[kind].share if true[kind].right else 0.0,
        }
        for kind, mark in drawn.items()
    }


def _check_words(model: Model, questions: Sequence[Question]) -> None:
    """Raises UserError where most captions hold words that the model has never seen."""
    assert model.texts is not None
    strange = [question for question in questions if model.texts.unknown(question.text)]
    if 2 * len(strange) > len(questions):
        raise UserError(f"{model.spec.name} does not know the words of scenes, which this table asks for")

"""``noisette atlas``: a claim of the field, run and drawn."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

EPILOG = """\b
Examples:
  noisette atlas ddim -o atlas/ --quick
  noisette atlas ddim -o atlas/ --model runs/digits --data mnist/
  noisette atlas scenes -o atlas/ --count 500
  noisette atlas guidance -o atlas/ --encoders runs/encoders
  noisette atlas collapse -o atlas/ --data mnist/
"""


def atlas(
    name: Annotated[str, typer.Argument(help="The page: collapse, ddim, guidance or scenes.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder for the page and its numbers.")],
    quick: Annotated[bool, typer.Option("--quick", help="A fraction of the work, to see the page.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of everything that is drawn.")] = 0,
    model: Annotated[str | None, typer.Option(help="Another model than the page's own.")] = None,
    data: Annotated[Path | None, typer.Option("--data", help="Real images, if the page asks.")] = None,
    count: Annotated[int | None, typer.Option(min=1, help="Pictures behind each measured number.")] = None,
    encoders: Annotated[
        Path | None, typer.Option(help="Of guidance: the folder of models with other text encoders.")
    ] = None,
) -> None:
    """Run one experiment and write its page. Stopped and started again, it goes on where it was."""
    from noisette.atlas import page_named
    from noisette.errors import UserError

    page = page_named(name)
    if encoders is not None and name != "guidance":
        raise UserError(f"the page {name} compares no text encoders: leave --encoders out")
    options: dict[str, Any] = {"model": model, "data": data, "count": count, "encoders": encoders}
    chosen = {key: value for key, value in options.items() if value is not None}
    print(page.run(out, quick=quick, seed=seed, **chosen))

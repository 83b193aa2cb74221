"""The command line: ``noisette generate | sample | train | distill | evaluate | models | atlas | ...``.

Each command is a file of this folder. Whatever a person does wrong costs one line on stderr and exit code 2;
a traceback is always a mistake of ours.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from noisette.cli import atlas, convert, distill, evaluate, generate, listing, sample, scenes, train
from noisette.errors import UserError

# Typer carries click inside itself or beside itself, by version; the base of all usage errors is the same.
ClickException: type[Exception] = typer.BadParameter.__mro__[2]

app = typer.Typer(
    name="noisette",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Diffusion models: train them, sample them fast, guide them, measure them.",
    epilog="Example:  noisette sample digits --label 7 -n 16 -o sevens.png",
)
app.command(epilog=generate.EPILOG)(generate.generate)
app.command(epilog=sample.EPILOG)(sample.sample)
app.command(epilog=convert.EPILOG)(convert.convert)
app.command(epilog=train.EPILOG)(train.train)
app.add_typer(distill.app, epilog=distill.EPILOG)
app.command(epilog=evaluate.EPILOG)(evaluate.evaluate)
app.command(epilog=listing.EPILOG)(listing.models)
app.command(epilog=atlas.EPILOG)(atlas.atlas)
app.add_typer(scenes.app, epilog=scenes.EPILOG)


def _version(asked: bool) -> None:
    if asked:
        from noisette import __version__

        print(f"noisette {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        print(context.get_help())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0, 2 for what the person can mend, 130 for Ctrl-C."""
    # Read when torch is loaded: threads that spin while they wait make a busy machine a hundred times slower,
    # those that never do a quiet one by a third. So libgomp's spin for some microseconds, and then sleep.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")
    try:
        code = app(args=arguments, prog_name="noisette", standalone_mode=False)
    except UserError as error:
        return _fail(str(error))
    except ClickException as error:
        return _fail(getattr(error, "format_message", error.__str__)())
    except KeyboardInterrupt:
        code = 130
    except typer.Abort:
        return _fail("stopped")
    except OSError as error:
        if error.errno == errno.EPIPE:
            return _pipe_closed()
        return _fail(_os_error(error))
    except (MemoryError, RuntimeError) as error:
        if not _out_of_memory(error):
            raise
        return _fail("not enough memory: ask for fewer or smaller pictures, or see --precision and --offload")
    if code == 130:
        print("noisette: interrupted", file=sys.stderr)
    return code if isinstance(code, int) else 0


def _fail(message: str) -> int:
    print(f"noisette: {' '.join(message.split())}", file=sys.stderr)
    return 2


def _out_of_memory(error: Exception) -> bool:
    """Whether memory is what lacks, of the machine or of its graphics card."""
    # torch is not imported for this, and calls it by several names.
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or "can't allocate memory" in str(error)
    )


def _os_error(error: OSError) -> str:
    reason = error.strerror or str(error) or type(error).__name__
    if error.errno == errno.ENOSPC:
        reason = "the disk is full"
    names = [str(name) for name in (error.filename, error.filename2) if name is not None]
    return f"{': '.join(names)}: {reason}" if names else reason


def _pipe_closed() -> int:
    # The reader of our output has left, as `head` does; Python would complain once more when it flushes.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0

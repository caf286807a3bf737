"""The command line: puts the commands together; `main` maps errors to exit codes.

Nothing heavy is imported above: `emoclim --help` and a match of indexed files start in tenths of a second.
"""

from __future__ import annotations

import io
import signal
import sys
from typing import Annotated, Any

import typer

from emoclim_cli import __version__, console
from emoclim_cli.commands.evaluation import evaluate
from emoclim_cli.commands.library import errors, forget, index, match, status
from emoclim_cli.commands.models import doctor, models_app, spaces_app
from emoclim_cli.commands.shows import gallery, slideshow, soundtrack
from emoclim_cli.commands.tagging import tagging
from emoclim_cli.commands.training import train
from emoclim_cli.errors import EmoclimError

app = typer.Typer(
    name="emoclim",
    help="Finds the music that feels like a photo, and the photos that feel like a song, in your own files, offline.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for command in (index, match, soundtrack, slideshow, gallery, status, errors, forget, train, evaluate, tagging, doctor):
    app.command()(command)
app.add_typer(models_app)
app.add_typer(spaces_app)


def _print_version(wanted: bool) -> None:
    if wanted:
        console.write_bytes(f"emoclim {__version__}\n".encode())
        raise typer.Exit


@app.callback()
def _options(
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Errors only.")] = False,
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="Every skipped file, and tracebacks.")] = False,
    version: Annotated[bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")] = False,  # noqa: ARG001
) -> None:
    console.quiet = quiet
    console.verbose = verbose


# Typer brings its own click; these are the classes it raises, reached through what it exports.
_CLICK_ERROR: Any = next(cls for cls in typer.BadParameter.__mro__ if cls.__name__ == "ClickException")


INTERRUPTED = 130


def _terminate(number: int, _frame: object) -> None:
    """As Ctrl-C does: what is half written is cleared away."""
    sys.exit(128 + number)


def _interrupt(_number: int, _frame: object) -> None:
    """The first Ctrl-C ends what is done in good order, which takes seconds; another would break that off half way."""
    signal.signal(signal.SIGINT, _insist)
    raise KeyboardInterrupt


def _insist(_number: int, _frame: object) -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    console.note("stopping; once more ends it at once")


def main() -> None:
    signal.signal(signal.SIGTERM, _terminate)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # or it is ignored, as in the background of a shell
        signal.signal(signal.SIGINT, _interrupt)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # None where it is closed
            stream.reconfigure(errors="backslashreplace")  # a terminal of another encoding costs a few letters, not the answer
    try:
        code = app(standalone_mode=False, prog_name="emoclim")
        console.write_bytes(b"")
    except EmoclimError as error:
        if console.verbose:
            import traceback

            traceback.print_exception(error)
        console.show_error(error)
        code = error.exit_code
    except _CLICK_ERROR as error:
        error.show()
        code = error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    if code == INTERRUPTED:  # which typer may have made of a Ctrl-C before us
        console.note("interrupted")
    sys.exit(code if isinstance(code, int) else 0)

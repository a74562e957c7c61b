"""The command line: one file per command. A command parses, calls the library and prints."""

from __future__ import annotations

import gc
import os
import sys
import traceback
import warnings

from tailorbird.errors import TailorbirdError


def main() -> None:
    """Run the command line.

    Exit codes: 0 success, 1 failed run, 2 invalid input, 3 findings or unusable photos, 130 Ctrl-C.
    """
    # What the modules define lives until the end, so that most collections find nothing: with
    # Python's own thresholds they take a fifth of the time that a command needs to start.
    gc.set_threshold(100_000, 50, 100)
    from tailorbird.cli.app import app
    from tailorbird.cli.output import STATE, print_error

    # File names that are not valid UTF-8 exist and must be printable.
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    warnings.showwarning = _show_warning
    try:
        app()
    except SystemExit as stop:
        # Commands exit with 0, 2 or 3 and raise errors; typer and rich exit with 1 for a broken
        # pipe, as with `| head`, which is not a failure.
        if stop.code != 1:
            raise
        _discard_output()
        sys.exit(0)
    except BrokenPipeError:
        _discard_output()
        sys.exit(0)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        if STATE.debug:
            traceback.print_exc()
        if isinstance(error, TailorbirdError):
            print_error(str(error))
            sys.exit(error.exit_code)
        print_error(
            f"unexpected {type(error).__name__}: {error}; run again with --debug for the "
            "traceback, and please report it"
        )
        sys.exit(1)


def _show_warning(
    message: Warning | str, category: type[Warning], *place: object, **named: object
) -> None:
    """Print a warning of this package as a line for the user; drop those of other packages."""
    from tailorbird.cli.output import STATE, print_error

    if category.__module__.startswith("tailorbird.") or STATE.debug:
        print_error(f"warning: {message}")


def _discard_output() -> None:
    """Redirect standard output to the null device, so that the last flush does not fail again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

"""The command line: one file per command. A command parses, calls one library function and prints."""

from __future__ import annotations

import os
import sys
import traceback

from tailorbird.errors import TailorbirdError


def main() -> None:
    """Run the command line. Exit codes: 0 done, 1 failed run, 2 bad input, 3 findings or bad photos, 130 Ctrl-C."""
    from tailorbird.cli.app import app
    from tailorbird.cli.output import STATE, complain

    # Names that are not valid UTF-8 exist on disk and must be printable.
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        app()
    except SystemExit as stop:
        # The commands exit with 0, 2 or 3 and errors are raised: 1 is typer's word, and rich's, for a broken pipe. Whoever read
        # our output has seen enough (`| head`), which is no failure.
        if stop.code != 1:
            raise
        _forget_output()
        sys.exit(0)
    except BrokenPipeError:
        _forget_output()
        sys.exit(0)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        if STATE.debug:
            traceback.print_exc()
        if isinstance(error, TailorbirdError):
            complain(str(error))
            sys.exit(error.exit_code)
        complain(
            f"unexpected {type(error).__name__}: {error}; run again with --debug for the traceback, and please report it"
        )
        sys.exit(1)


def _forget_output() -> None:
    """Let the interpreter's last flush of standard output go nowhere, rather than complain about the broken pipe again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

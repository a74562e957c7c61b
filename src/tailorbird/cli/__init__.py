"""The command line: one file per command. A command parses, calls one library function and prints."""

from __future__ import annotations

import sys

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
    except TailorbirdError as error:
        if STATE.debug:
            raise
        complain(str(error))
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        # Whoever read our output has seen enough (`| head`): that is not a failure.
        sys.stderr.close()
        sys.exit(0)
    except Exception as error:
        if STATE.debug:
            raise
        complain(
            f"unexpected {type(error).__name__}: {error}; run again with --debug for the traceback, and please report it"
        )
        sys.exit(1)

"""Write docs/reference.md from the commands: `python docs/make_reference.py`.

A test fails when the page is out of date. Typer's own generator is not used: it has no tables,
omits `-h`, and repeats the options that every command has.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from typer.main import get_command

from tailorbird.cli.app import app

HEAD = """# Reference of every command

Made from the commands' `--help` by `docs/make_reference.py`; a test compares the two. Results go to
standard output, everything else to standard error. Exit codes: 0 success, 1 failed run, 2 invalid
input, 3 findings or unusable photos, 130 Ctrl-C. With `--json` a command prints
[one object for programs](json.md).

Every command also takes `--quiet` or `-q` (results and errors only), `--verbose` or `-v` (more
details), `--debug` (tracebacks and log messages) and `--help` or `-h`.
"""
EVERYWHERE = {"help", "quiet", "verbose", "debug"}
"""Options that every command has; a test in test_layers.py checks it."""


def commands() -> list[tuple[str, Any]]:
    """Return (name, command) of every command, in the order of `tailorbird --help`."""
    found = []
    for name, command in get_command(app).commands.items():  # type: ignore[attr-defined]
        inner = getattr(command, "commands", {})
        if not inner or getattr(command, "invoke_without_command", False):
            found.append((name, command))
        found.extend((f"{name} {key}", value) for key, value in inner.items())
    return found


def reference() -> str:
    """Return the whole page."""
    return HEAD + "".join(section(name, command) for name, command in commands())


def section(name: str, command: Any) -> str:
    """Return the section of one command: description, arguments and options."""
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    options = [
        p for p in command.params if p.param_type_name == "option" and p.name not in EVERYWHERE
    ]
    shown = " ".join(argument_name(p) for p in arguments)
    lines = [
        f"\n## tailorbird {name}\n",
        f"    tailorbird {name}{' ' + shown if shown else ''}{' [OPTIONS]' if options else ''}\n",
        plain(command.help),
        "",
    ]
    if arguments:
        lines += [
            "| argument | |",
            "| --- | --- |",
            *(f"| `{argument_name(p)}` | {said(p)} |" for p in arguments),
            "",
        ]
    if options:
        lines += [
            "| option | | default |",
            "| --- | --- | --- |",
            *(option_row(p) for p in options),
            "",
        ]
    return "\n".join(lines)


def argument_name(parameter: Any) -> str:
    name = (parameter.metavar or parameter.name).upper().strip("[]")
    name = f"{name}..." if parameter.nargs == -1 else name
    return name if parameter.required else f"[{name}]"


def option_row(parameter: Any) -> str:
    names = ", ".join(f"`{name}`" for name in [*parameter.opts, *parameter.secondary_opts])
    kind = "" if parameter.is_flag else f" {kind_of(parameter)}"
    default = parameter.default
    is_shown = not (
        callable(default) or default is None or default is False or default in ((), [], "")
    )
    shown = f"`{'on' if default is True else default}`" if is_shown else ""
    return f"| {names}{kind} | {said(parameter)} | {shown} |"


def kind_of(parameter: Any) -> str:
    """Return TEXT, INTEGER, FLOAT or PATH; versions of typer keep it in two places."""
    descriptor = getattr(parameter, "type_descriptor", None)
    words = str(descriptor.annotation if descriptor is not None else parameter.type.name).lower()
    kinds = {"int": "INTEGER", "float": "FLOAT", "path": "PATH"}
    return next((kind for word, kind in kinds.items() if word in words), "TEXT")


def said(parameter: Any) -> str:
    envvar = getattr(parameter, "envvar", None)
    more = f" Also `{envvar}`." if envvar else ""
    return (plain(parameter.help) + more).replace("|", "\\|")


def plain(text: str | None) -> str:
    """Return help text on one line."""
    return re.sub(r"\s+", " ", text or "").strip()


if __name__ == "__main__":
    (Path(__file__).parent / "reference.md").write_text(reference(), encoding="utf-8")

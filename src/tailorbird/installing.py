"""How tailorbird is installed here: what to type to install an extra, and to run a command.

Every message about installing comes from this module, so that the command works as printed: in
this interpreter, and from where tailorbird itself was installed.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from urllib.parse import unquote, urlsplit
from urllib.request import url2pathname

PACKAGE = "tailorbird"


def install(extra: str) -> str:
    """Return the shell command that installs an extra, such as `serve`, into this interpreter."""
    try:
        record = distribution(PACKAGE)
    except PackageNotFoundError:
        record = None
    source = Path(__file__).resolve().parents[2]
    checkout = source if (source / "pyproject.toml").is_file() else None
    return shown([sys.executable, "-m", "pip", "install", *_target(record, checkout, extra)])


def program() -> str:
    """Return what to type to run this installation's command line.

    `tailorbird` if a shell finds this installation under that name, else the path of its program,
    else `PYTHON -m tailorbird`.
    """
    own = Path(sys.executable).with_name(PACKAGE + (".exe" if os.name == "nt" else ""))
    if not own.is_file():
        return shown([sys.executable, "-m", PACKAGE])
    known = shutil.which(PACKAGE)
    if known is not None and Path(known).resolve() == own.resolve():
        return PACKAGE
    here = Path.cwd()
    below = here != own.parent and own.is_relative_to(here)
    return shown([str(own.relative_to(here) if below else own)])


def runnable(command: str) -> str:
    """Return a command such as `tailorbird train photos/`, or several with &&, to be typed here."""
    return re.sub(rf"(^|&& ){PACKAGE}(?= |$)", lambda found: found[1] + program(), command)


def _target(record: Distribution | None, checkout: Path | None, extra: str) -> list[str]:
    """Return pip's arguments after `install`.

    record: the installed distribution. pip notes in it from which folder, file or repository it
        was installed, unless it came from a package index (PEP 610, direct_url.json).
    checkout: the folder of the sources, for a package that runs from there without being installed.
    """
    noted = json.loads((record and record.read_text("direct_url.json")) or "{}")
    url = noted.get("url", "")
    if url.startswith("file:"):
        place = url2pathname(unquote(urlsplit(url).path))
        editable = ["--editable"] if noted.get("dir_info", {}).get("editable") else []
        return [*editable, f"{place}[{extra}]"]
    if url:
        kind = noted.get("vcs_info", {}).get("vcs")
        return [f"{PACKAGE}[{extra}] @ {kind}+{url}" if kind else f"{PACKAGE}[{extra}] @ {url}"]
    if record is None and checkout is not None:
        return [f"{checkout}[{extra}]"]
    return [f"{PACKAGE}[{extra}]"]


def shown(words: list[str]) -> str:
    """Return a command as a shell reads it."""
    return subprocess.list2cmdline(words) if os.name == "nt" else shlex.join(words)

"""What to type to install an extra and to run a command: it works as printed, wherever printed."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from tailorbird import installing
from tailorbird.images import FORMATS

ROOT = Path(__file__).resolve().parents[1]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
EXTRAS = set(PROJECT["project"]["optional-dependencies"])
DOCUMENTS = [
    path
    for pattern in ("*.md", "docs/*.md", "examples/**/*.md", "benchmarks/**/*.md")
    for path in ROOT.glob(pattern)
    if path.name != "CHANGELOG.md"
]
CODE = [path for folder in ("src", "examples") for path in (ROOT / folder).rglob("*.py")]


class Record:
    """An installed distribution with what pip noted of its source."""

    def __init__(self, noted: dict[str, Any] | None) -> None:
        self.noted = noted

    def read_text(self, name: str) -> str | None:
        assert name == "direct_url.json"
        return None if self.noted is None else json.dumps(self.noted)


@pytest.mark.parametrize(
    ("noted", "checkout", "expected"),
    [
        ({"url": "file:///home/a%20b/src", "dir_info": {}}, None, ["/home/a b/src[serve]"]),
        (
            {"url": "file:///home/src", "dir_info": {"editable": True}},
            None,
            ["--editable", "/home/src[serve]"],
        ),
        (
            {"url": "file:///tmp/tailorbird-0.1.0-py3-none-any.whl", "archive_info": {}},
            None,
            ["/tmp/tailorbird-0.1.0-py3-none-any.whl[serve]"],
        ),
        (
            {"url": "https://git.example/t.git", "vcs_info": {"vcs": "git"}},
            None,
            ["tailorbird[serve] @ git+https://git.example/t.git"],
        ),
        (
            {"url": "https://shop.example/t.whl", "archive_info": {}},
            None,
            ["tailorbird[serve] @ https://shop.example/t.whl"],
        ),
        (None, Path("/home/src"), ["tailorbird[serve]"]),  # from an index: its name is enough there
    ],
)
def test_an_extra_is_installed_from_where_tailorbird_came(
    noted: dict[str, Any] | None, checkout: Path | None, expected: list[str]
) -> None:
    record: Any = Record(noted)
    assert installing._target(record, checkout, "serve") == expected


def test_a_checkout_that_is_not_installed_is_named() -> None:
    assert installing._target(None, Path("/home/src"), "heic") == ["/home/src[heic]"]


def test_the_command_names_this_interpreter_and_survives_a_shell(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "executable", "/home/my shop/.venv/bin/python")
    words = shlex.split(installing.install("serve"))
    assert words[:4] == ["/home/my shop/.venv/bin/python", "-m", "pip", "install"]
    assert words[-1].endswith("[serve]")


def would_install(*arguments: str, folder: Path = ROOT) -> str:
    """Let pip resolve what a command installs, without a network and without installing it."""
    offline = ("--dry-run", "--no-deps", "--no-index", "--no-build-isolation", "--ignore-installed")
    done = subprocess.run(
        [sys.executable, "-m", "pip", "install", *offline, *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_pip_accepts_the_printed_command(tmp_path: Path) -> None:
    words = [word for word in shlex.split(installing.install("serve")) if word != "--editable"]
    assert "Would install tailorbird" in would_install(*words[4:], folder=tmp_path)


def test_messages_name_extras_that_exist() -> None:
    text = "".join(path.read_text(encoding="utf-8") for path in CODE)
    named = set(re.findall(r"installing\.install\([\"'](\w+)", text))
    assert named and named | {row.extra for row in FORMATS if row.extra} == EXTRAS


def documented() -> list[tuple[str, str]]:
    """Return (document, requirement) of every command that installs tailorbird."""
    found = []
    for page in DOCUMENTS:
        for line in page.read_text(encoding="utf-8").splitlines():
            for words in re.findall(r"pip install ([^#`\n]*)", line):
                found += [
                    (page.name, word)
                    for word in shlex.split(words)
                    if word.startswith(("tailorbird", ".", "/"))
                ]
    return found


def test_documents_install_from_a_checkout_and_name_extras_that_exist() -> None:
    """Nothing is published, so a document may name only the checkout."""
    commands = documented()
    assert {page for page, _ in commands} >= {"README.md", "index.md", "serving.md", "deploy.md"}
    for page, requirement in commands:
        assert (form := re.fullmatch(r"\.(?:\[([\w,]+)\])?", requirement)), f"{page}: {requirement}"
        assert set((form[1] or "serve").split(",")) <= EXTRAS, f"{page}: {requirement}"
    for requirement in {requirement for _, requirement in commands}:
        assert "Would install tailorbird" in would_install(requirement)
    listed = re.findall(r"^\| `(\w+)` \|", (ROOT / "docs/index.md").read_text("utf-8"), re.M)
    assert set(listed) == EXTRAS, "docs/index.md lists every extra"


def test_no_other_code_says_how_to_install_tailorbird() -> None:
    for path in CODE:
        text = path.read_text(encoding="utf-8")
        assert path.name == "installing.py" or "tailorbird[" not in text, path
        for rest in re.findall(r"pip install ([^\"'\n]*)", text):
            assert not re.match(r"(--\w+ )*(tailorbird|\.)", rest), f"{path}: {rest}"


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of a Python environment with the program in it."""
    folder = tmp_path / ".venv" / "bin"
    folder.mkdir(parents=True)
    for name in ("python", "tailorbird"):
        (folder / name).write_text("#!/bin/sh\n")
        (folder / name).chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(folder / "python"))
    monkeypatch.chdir(tmp_path)
    return folder


@pytest.mark.skipif(sys.platform == "win32", reason="programs of Windows end in .exe")
def test_a_printed_command_can_be_typed_where_it_is_printed(
    environment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(environment))
    assert installing.runnable("tailorbird train a -o b") == "tailorbird train a -o b"
    monkeypatch.setenv("PATH", "/usr/bin")
    assert installing.runnable("tailorbird train") == ".venv/bin/tailorbird train"
    both = installing.runnable("tailorbird scan tailorbird && tailorbird train a")
    assert both == ".venv/bin/tailorbird scan tailorbird && .venv/bin/tailorbird train a"
    for folder in ("/usr", environment):
        monkeypatch.chdir(folder)
        assert installing.program() == str(environment / "tailorbird")
    assert installing.runnable("ls") == "ls"
    (environment / "tailorbird").unlink()
    assert installing.program() == f"{environment / 'python'} -m tailorbird"


def test_the_program_really_runs() -> None:
    done = subprocess.run(
        [*shlex.split(installing.program()), "--version"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("tailorbird ")

"""The commands that work in partitions: what they print, and how they exit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from support.data import encoded, picture
from support.documented_json import problems, schemas
from tailorbird.cli.app import app
from tailorbird.errors import SettingsError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Return three photos, one of which is none."""
    folder = tmp_path / "my photos"
    folder.mkdir()
    for number in range(2):
        (folder / f"{number}.jpg").write_bytes(encoded(picture("disc", number), "JPEG"))
    (folder / "x.jpg").write_bytes(b"nothing")
    return folder


@pytest.mark.parametrize("command", ["predict", "features"])
def test_json_is_as_documented(command: str, photos: Path, trained: Path, tmp_path: Path) -> None:
    documented = schemas((ROOT / "docs" / "json.md").read_text(encoding="utf-8"))
    words = [command, *([str(trained)] if command == "predict" else ["--backbone", "pocket"])]
    words += [str(photos), "-o", str(tmp_path / "out"), "--partition-rows", "2", "--json", "-q"]
    for resumed in (0, 2):
        done = CliRunner().invoke(app, words)
        assert done.exit_code == 3, done.output
        found = json.loads(done.stdout)
        assert not problems(found, documented["tailorbird features"], documented)
        assert (found["photos"], found["failures"], found["partitions"]) == (3, 1, 2)
        assert found["resumed"] == resumed


def test_text_says_where_the_answers_are(photos: Path, trained: Path, tmp_path: Path) -> None:
    (photos / "x.jpg").unlink()
    words = ["predict", str(trained), str(photos), "-o", str(tmp_path / "out")]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert f"wrote {tmp_path / 'out'}: 2 photos in 1 partitions" in done.stdout
    again = CliRunner().invoke(app, words)
    assert "1 of 1 partitions were there already" in again.output


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--ray"], "need a folder to be written to"),
        (["--workers", "2"], "add --ray"),
        (["--csv", "-o", "out"], "--output and --csv were both given"),
        (["--ray=nowhere", "-o", "out"], "must be local, auto, or HOST:PORT"),
    ],
)
def test_options_that_do_not_fit_are_refused(
    photos: Path, trained: Path, options: list[str], message: str
) -> None:
    done = CliRunner().invoke(app, ["predict", str(trained), str(photos), *options])
    assert isinstance(done.exception, SettingsError), done.output
    assert message in str(done.exception)

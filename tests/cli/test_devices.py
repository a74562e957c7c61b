"""--device and --half: which commands have them, and what is said of a device that is not here."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.main import get_command

from support.cli import run

RUN_A_NETWORK = {
    "compare", "evaluate", "explain", "features", "find-lr", "import", "label", "learning-curve",
    "predict", "retrain", "review", "scan", "serve", "sweep", "train",
}  # fmt: skip


def test_every_command_that_runs_a_network_takes_a_device() -> None:
    from tailorbird.cli.app import app

    commands = get_command(app).commands  # type: ignore[attr-defined]
    found = {
        name
        for name, command in commands.items()
        if {"--device", "--half"} <= {option for one in command.params for option in one.opts}
    }
    assert found == RUN_A_NETWORK


def test_the_cpu_by_name_says_what_it_says_without(trained: Path, shapes: Path) -> None:
    photo = shapes / "disc" / "disc-001.jpg"
    plain = run("predict", trained, photo)
    named = run("predict", trained, photo, "--device", "cpu", "-v")
    assert named.stdout == plain.stdout
    assert "runs on the device cpu, as asked for" in named.stderr
    assert "runs on" not in plain.stderr


@pytest.mark.parametrize(
    ("options", "environment", "said"),
    [
        (["--device", "GPU"], {}, "device is 'GPU'; it must be auto, cpu, or a kind such as cuda"),
        (["--device", "nowhere"], {}, "the device nowhere is not available here; available: cpu"),
        ([], {"TAILORBIRD_DEVICE": "GPU"}, "TAILORBIRD_DEVICE: device is 'GPU'"),
        (["--device", "cpu", "--half"], {}, "half (--half) is given with the device cpu"),
    ],
)
def test_a_device_that_cannot_be_used_exits_2_with_one_line(
    options: list[str],
    environment: dict[str, str],
    said: str,
    trained: Path,
    shapes: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    photo = shapes / "disc" / "disc-001.jpg"
    done = run("predict", trained, photo, *options, code=2)
    assert said in done.stderr and done.stdout == ""
    assert len(done.stderr.splitlines()) == 1

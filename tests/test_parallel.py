"""The number of cores: CPU affinity, container quota and the environment variable."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tailorbird import parallel
from tailorbird.errors import SettingsError


@pytest.fixture(autouse=True)
def four_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TAILORBIRD_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3}, raising=False)


@pytest.mark.parametrize(
    ("said", "cores"),
    [
        ("max 100000\n", 4),
        ("200000 100000\n", 2),
        ("150000 100000\n", 2),
        ("20000 100000\n", 1),
        ("900000 100000\n", 4),
        ("nonsense", 4),
        ("1 0", 4),
    ],
)
def test_a_container_quota_caps_the_cores(
    said: str, cores: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    share = tmp_path / "cpu.max"
    share.write_text(said)
    monkeypatch.setattr(parallel, "_QUOTA", share)
    assert parallel.cores() == cores


def test_without_a_quota_affinity_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "_QUOTA", tmp_path / "missing")
    assert parallel.cores() == 4


def test_the_environment_variable_takes_precedence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TAILORBIRD_THREADS", "7")
    assert parallel.cores() == 7
    for wrong in ("0", "-1", "two", "1025"):
        monkeypatch.setenv("TAILORBIRD_THREADS", wrong)
        with pytest.raises(SettingsError, match="TAILORBIRD_THREADS"):
            parallel.cores()

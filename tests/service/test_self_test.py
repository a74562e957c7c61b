"""A model that gives other answers on this device: the service warns, or does not start."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path

import pytest

from support.cli import run
from support.server import serve
from support.small_models import with_other_answers
from tailorbird.errors import ModelFileError, RunError
from tailorbird.service.probe import wait_until_ready
from tailorbird.service.served import Slot


def test_the_service_and_health_warn_of_a_failed_self_test(trained: Path, tmp_path: Path) -> None:
    model = with_other_answers(trained, tmp_path / "other.onnx")
    with serve(model) as server:
        said = server.get("/readyz").json()
        assert said["status"] == "ready"
        assert "other gives other answers on the device cpu" in said["warning"]
        logged = [json.loads(line) for line in server.text().splitlines() if line.startswith("{")]
        assert any("gives other answers" in line.get("message", "") for line in logged)
        assert wait_until_ready(server.url) == said["warning"]
        done = run("health", server.url, "--json")
        assert json.loads(done.stdout)["warning"] == said["warning"]
        assert f"warning: {said['warning']}" in done.stderr
        with pytest.raises(RunError, match="gives other answers"):
            wait_until_ready(server.url, strict=True)
        assert "gives other answers" in run("health", server.url, "--strict", code=1).stderr


def test_strict_refuses_to_start(trained: Path, tmp_path: Path) -> None:
    model = with_other_answers(trained, tmp_path / "other.onnx")
    done = run("serve", model, "--port", "0", "--strict", code=2)
    assert "gives other answers on the device cpu" in done.stderr and done.stdout == ""


async def reload(slot: Slot) -> bool:
    return await slot.reload()


def test_strict_refuses_a_reload_and_keeps_the_model(trained: Path, tmp_path: Path) -> None:
    model = Path(shutil.copy(trained, tmp_path / "shop.onnx"))
    slot = Slot(model, strict=True)
    serving = slot.current.sha256
    with_other_answers(trained, model)
    with pytest.raises(ModelFileError, match="gives other answers"):
        asyncio.run(reload(slot))
    assert slot.current.sha256 == serving and slot.current.warning is None
    lenient = Slot(model)
    assert lenient.current.warning is not None
    shutil.copy(trained, model)
    assert asyncio.run(reload(lenient)) and lenient.current.warning is None

"""No command contacts another host or leaves a file in the home folder."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from typer.main import get_command

from support import timm_networks
from support.data import encoded, picture
from support.hub_server import Hub, Repository
from tailorbird import privacy

WATCH = """
import json, os, sys

def note(event, arguments):
    if event in ("socket.connect", "socket.sendto", "socket.getaddrinfo", "socket.gethostbyname"):
        address = arguments[0] if event.startswith("socket.get") else arguments[1]
        host = address[0] if isinstance(address, tuple) else address
        with open(os.environ["SOCKET_LOG"], "a") as log:
            log.write(json.dumps(str(host)) + "\\n")
    if event == "import" and arguments[0] == "onnxruntime":
        assert os.environ.get("ORT_DISABLE_TELEMETRY") == "1", "imported with telemetry enabled"

sys.addaudithook(note)
"""
"""A sitecustomize module: log every host that Python code connects to or looks up."""


pytestmark = pytest.mark.process


@dataclass(frozen=True)
class Watched:
    """A process environment with an empty home folder and a log of contacted hosts."""

    home: Path
    work: Path
    environment: dict[str, str]

    def run(self, *arguments: object, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run one command to its end; it must succeed."""
        done = subprocess.run(
            [sys.executable, "-m", "tailorbird", *map(str, arguments)],
            env=self.environment | variables,
            cwd=self.work,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        return done

    @contextmanager
    def running(self, *arguments: object) -> Iterator[str]:
        """Run a command that serves a page; its address. Ends it with SIGINT."""
        with subprocess.Popen(
            [sys.executable, "-m", "tailorbird", *map(str, arguments)],
            env=self.environment,
            cwd=self.work,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        ) as process:
            assert process.stdout is not None
            try:
                yield process.stdout.readline().strip()
            finally:
                process.send_signal(signal.SIGINT)
                process.wait(30)

    def hosts(self) -> set[str]:
        """Return the hosts contacted or looked up so far."""
        log = Path(self.environment["SOCKET_LOG"])
        return (
            {json.loads(line) for line in log.read_text().splitlines()} if log.exists() else set()
        )

    def left(self) -> list[str]:
        """Return the files in the home folder."""
        return [str(path.relative_to(self.home)) for path in self.home.rglob("*")]


@pytest.fixture
def watched(tmp_path: Path) -> Watched:
    home, work, hook = (tmp_path / name for name in ("home", "work", "hook"))
    for folder in (home, work, hook):
        folder.mkdir()
    (hook / "sitecustomize.py").write_text(WATCH)
    hidden = ("XDG_", "MPL", "KERAS_HOME", "HF_", *privacy.TELEMETRY, privacy.ALLOW)
    environment = {k: v for k, v in os.environ.items() if not k.startswith(hidden)}
    environment |= {
        "HOME": str(home),
        "USERPROFILE": str(home),
        "PYTHONPATH": os.pathsep.join([str(hook), *filter(None, sys.path)]),
        "TAILORBIRD_CACHE": str(tmp_path / "cache"),
        "SOCKET_LOG": str(tmp_path / "hosts.txt"),
    }
    return Watched(home, work, environment)


COMMANDS = {
    "demo": "demo clothes --per-class 12",
    "scan": "scan {photos} --suspects",
    "find-lr": "find-lr {photos}",
    "sweep": "sweep {photos} --learning-rate 0.01 --folds 2 --seeds 1",
    "learning-curve": "learning-curve {photos}",
    "train": "train {photos} -o shop.onnx",
    "evaluate": "evaluate {model} {photos} --report scores.html",
    "compare": "compare {model} {model} {photos}",
    "retrain": "retrain {model} {photos} --no-replace",
    "predict": "predict {model} {photo}",
    "explain": "explain {model} {photo}",
    "report": "report {model}",
    "backbones": "backbones",
    "backbones quantize": "backbones quantize pocket --photos {photos}",
    "cache": "cache",
    "doctor": "doctor",
    "cache clear": "cache clear",
}
"""Commands that run to their end without a service or a deep-learning framework."""

ELSEWHERE = {"serve", "health", "review", "label", "import", "export", "backbones pull",
             "corrections", "corrections stats", "corrections export",
             "corrections forget", "features"}  # fmt: skip
"""Commands that other tests of this file run."""


def test_every_command_is_covered() -> None:
    from tailorbird.cli.app import app

    names = set()
    for name, command in get_command(app).commands.items():  # type: ignore[attr-defined]
        names.add(name)
        names.update(f"{name} {inner}" for inner in getattr(command, "commands", {}))
    assert names == COMMANDS.keys() | ELSEWHERE


@pytest.mark.parametrize("line", COMMANDS.values(), ids=COMMANDS)
def test_a_command_contacts_nobody_and_leaves_no_file(
    line: str, watched: Watched, shapes: Path, trained: Path
) -> None:
    photo = shapes / "disc" / "disc-000.jpg"
    words = line.format(photos=shapes, model=trained, photo=photo)
    watched.run(*words.split())
    assert (watched.hosts(), watched.left()) == (set(), [])


def test_the_service_and_its_commands_contact_nobody_and_leave_no_file(
    watched: Watched, trained: Path
) -> None:
    with watched.running("serve", trained, "--port", "0", "--corrections", "shop.db") as address:
        content = encoded(picture("disc", 1))
        body = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.jpg"\r\n\r\n'
        request = urllib.request.Request(
            f"{address}/v1/predict",
            body + content + b"\r\n--x--\r\n",
            {"Content-Type": "multipart/form-data; boundary=x"},
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            assert answer.status == 200
        watched.run("health", address)
    watched.run("corrections", "stats", "shop.db")
    watched.run("corrections", "export", "shop.db", "-o", "answers.csv")
    digest = hashlib.sha256(content).hexdigest()
    with pytest.raises(AssertionError, match="SHA-256"):
        watched.run("corrections", "forget", "shop.db", digest)
    assert watched.hosts() <= {"127.0.0.1"}
    assert watched.left() == []


def test_a_review_contacts_nobody_and_leaves_no_file(watched: Watched, shapes: Path) -> None:
    with watched.running("review", shapes, "-o", "reviewed.csv", "--no-browser", "--port", "0"):
        pass
    assert (watched.hosts(), watched.left()) == (set(), [])


def test_labelling_contacts_nobody_and_leaves_no_file(watched: Watched, shapes: Path) -> None:
    with watched.running("label", shapes, "-o", "labels.csv", "--no-browser", "--port", "0"):
        pass
    assert (watched.hosts(), watched.left()) == (set(), [])


def test_pulling_a_backbone_contacts_the_hub_and_nobody_else(watched: Watched) -> None:
    with Hub({}) as hub:
        with pytest.raises(AssertionError, match="has no repository"):
            watched.run("backbones", "pull", "hf:someone/network", HF_ENDPOINT=hub.url)
        assert hub.requests
    assert watched.hosts() == {"127.0.0.1"}


@pytest.mark.keras
@pytest.mark.slow
def test_keras_contacts_nobody_and_leaves_no_file(watched: Watched, shapes: Path) -> None:
    pytest.importorskip("keras")
    watched.run("train", shapes, "--backbone", "cnn", "--epochs", "1", "-o", "own.onnx")
    watched.run("export", "own.onnx", "-o", "own.keras")
    watched.run(
        "import",
        "own.keras",
        "-o",
        "again.onnx",
        "--classes",
        "box,cross,disc",
        "--preprocess",
        "unit",
    )
    assert (watched.hosts(), watched.left()) == (set(), [])


@pytest.mark.torch
@pytest.mark.slow
def test_pytorch_contacts_nobody_but_the_hub_and_leaves_no_file(
    watched: Watched, tmp_path: Path
) -> None:
    weights = timm_networks.save_weights(timm_networks.network(), tmp_path / "w.safetensors")
    watched.run("backbones", "pull", "timm:test_efficientnet", "--weights", weights)
    assert (watched.hosts(), watched.left()) == (set(), [])
    safe = timm_networks.save_weights(
        timm_networks.network("test_vit", classes=1000), tmp_path / "v.safetensors"
    )
    files = {"timm/test_vit.r160_in1k": Repository({"model.safetensors": safe.read_bytes()})}
    with Hub(files) as hub:
        watched.run("backbones", "pull", "timm:test_vit", HF_ENDPOINT=hub.url)
        assert hub.requests
    assert watched.hosts() == {"127.0.0.1"}


@pytest.mark.ray
def test_a_local_cluster_contacts_nobody_and_leaves_no_file(
    watched: Watched, shapes: Path, trained: Path
) -> None:
    watched.run("features", shapes, "--backbone", "pocket", "-o", "features")
    watched.run("predict", trained, shapes, "-o", "answers", "--ray")
    assert watched.hosts() <= {"127.0.0.1"} | {one for one in watched.hosts() if one[:1] == "/"}
    assert watched.left() == []


def test_telemetry_can_be_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    def variables() -> dict[str, str | None]:
        code = "import json, os, tailorbird; print(json.dumps(dict(os.environ)))"
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        )
        found = json.loads(done.stdout)
        return {name: found.get(name) for name in privacy.TELEMETRY}

    for name in privacy.TELEMETRY:
        monkeypatch.delenv(name, raising=False)
    assert variables() == privacy.TELEMETRY
    monkeypatch.setenv(privacy.ALLOW, "1")
    assert variables() == dict.fromkeys(privacy.TELEMETRY)
    monkeypatch.delenv(privacy.ALLOW)
    monkeypatch.setenv("ORT_DISABLE_TELEMETRY", "0")
    assert variables()["ORT_DISABLE_TELEMETRY"] == "0"


@pytest.mark.parametrize("library", ["matplotlib", "keras"])
def test_a_library_keeps_its_files_where_the_user_has_them(
    library: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    variable, (usual, *_) = privacy._FOLDERS[library]
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    monkeypatch.delitem(sys.modules, library, raising=False)
    monkeypatch.setenv(variable, "chosen")
    privacy.redirect_files(library)
    assert os.environ[variable] == "chosen"
    monkeypatch.delenv(variable)
    Path(usual).expanduser().mkdir(parents=True)
    privacy.redirect_files(library)
    assert variable not in os.environ
    Path(usual).expanduser().rmdir()
    privacy.redirect_files(library)
    assert Path(os.environ[variable]).parts[-2:] == ("libraries", library)


@pytest.mark.parametrize("closed", [False, True])
def test_what_libraries_write_while_they_start_is_discarded(closed: bool) -> None:
    program = (
        "import os, sys\n"
        "from tailorbird.privacy import stderr_discarded\n"
        "with stderr_discarded():\n"
        "    closed = sys.argv[1] == 'True'\n"
        "    closed or os.write(2, b'from a library')\n"
        "closed or os.write(2, b'afterwards')\n"
        "print('done')\n"
    )
    command = [sys.executable, "-c", program, str(closed)]
    if closed:
        command = ["sh", "-c", '"$@" 2>&-', "sh", *command]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout == "done\n"
    assert done.stderr == ("" if closed else "afterwards")

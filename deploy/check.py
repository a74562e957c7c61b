#!/usr/bin/env python3
"""Runs what the Dockerfile runs, without Docker: its RUN commands, then its entrypoint as its user
on a read-only root filesystem.

    sudo python3.13 deploy/check.py [MODEL.onnx]

Needs root (for the mounts and the user), Linux, util-linux and a package index; draws and trains a
model of its own where none is given. Takes a minute or two, prints seconds, sizes and memory, and
exits 1 at the first thing that is not as it should be.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))
from support import dockerfile  # noqa: E402

UNWANTED = re.compile(
    r"^(pip|setuptools|wheel|torch|tensorflow|keras|timm|ray|pytest|hatchling)-", re.I
)
"""Distributions that have no place in the image."""


def main() -> None:
    """Build, look, run, end."""
    if os.geteuid() != 0 or not shutil.which("unshare") or not shutil.which("setpriv"):
        sys.exit("needs root, and unshare and setpriv of util-linux")
    work = Path(
        tempfile.mkdtemp(prefix="tailorbird-check-", dir="/var/tmp")
    )  # not /tmp, which becomes a tmpfs
    work.chmod(0o755)
    try:
        check(work, Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else None)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def check(work: Path, model: Path | None) -> None:
    """All of it, in folders under `work` that stand for the image's."""
    instructions = dockerfile.read(ROOT / "deploy" / "Dockerfile")
    places = {
        "/opt/tailorbird": work / "opt",
        "/source": work / "source",
        "/data": work / "data",
        "/models": work / "models",
    }

    def moved(text: str) -> str:
        return re.sub("|".join(places), lambda found: str(places[found[0]]), text)

    # COPY, with .dockerignore's choice; then RUN.
    source = places["/source"]
    shutil.copytree(ROOT / "src", source / "src", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(ROOT / name, source)
    for each in instructions:
        if each.name == "RUN":
            command = re.sub(r"--mount=\S+ ", "", each.value)
            if each.stage == "service":
                # This machine keeps its pip.
                command = re.sub(r"python -m pip uninstall .*? && ", "", command)
            command = re.sub(r"\bpython -m\b", f"{sys.executable} -m", moved(command))
            timed(f"RUN of stage {each.stage}", ["sh", "-c", command], source)
    environment = {
        name: moved(value)
        for name, value in dockerfile.environment(instructions, "service").items()
    }
    environment["PATH"] = f"{places['/opt/tailorbird']}/bin:{os.environ['PATH']}"
    (work / "data").stat().st_uid == 10001 or fail("/data is not the service's own")
    installed = sorted(path.name for path in (work / "opt").rglob("*.dist-info"))
    if found := [name for name in installed if UNWANTED.match(name)]:
        fail(f"the environment holds {found}")
    size = sum(path.lstat().st_size for path in (work / "opt").rglob("*")) / 2**20
    print(
        f"{len(installed)} distributions, {size:.0f} MB: "
        f"{', '.join(name.removesuffix('.dist-info') for name in installed)}"
    )

    shown = work / "models" / "model.onnx"
    own = environment | {"TAILORBIRD_CACHE": str(work / "cache")}
    if model is None:
        timed(
            "a model to serve: tailorbird demo",
            ["tailorbird", "demo", "-q", str(work / "demo")],
            work,
            own,
        )
        model = next((work / "demo").glob("*.onnx"))
    shutil.copy(model, shown)
    token = work / "token"
    token.write_text("a token of the check\n")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment |= {
        "TAILORBIRD_PORT": str(port),
        "TAILORBIRD_TOKEN_FILE": str(token),
        "TAILORBIRD_WORKERS": "2",
    }
    (user,) = (each.value for each in instructions if each.name == "USER")
    serve(instructions, work, user, environment, f"http://127.0.0.1:{port}", shown)
    print("everything is as it should be")


def serve(
    instructions: list[dockerfile.Instruction],
    work: Path,
    user: str,
    environment: dict[str, str],
    url: str,
    model: Path,
) -> None:
    """Start the entrypoint, ask, put a new model in place, end it with the Dockerfile's signal."""
    words = {
        each.name: each.words()
        for each in instructions
        if each.name in ("ENTRYPOINT", "CMD", "HEALTHCHECK")
    }
    uid, _, gid = user.partition(":")
    # Every filesystem but /data and /tmp is read-only; no capability, no way to a new privilege.
    script = (
        f"set -e; mount --make-rprivate /; {reachable(Path(sys.base_prefix))}"
        'mount --bind "$0/data" "$0/data"; mount -t tmpfs tmpfs /tmp; '
        'mount -o remount,bind,ro /; if touch "$0/here" 2>/dev/null; then exit 99; fi; cd '
        '"$0/data"; '
        f"exec setpriv --reuid={uid} --regid={gid} --clear-groups --no-new-privs "
        '--bounding-set=-all --inh-caps=-all "$@"'
    )
    command = [
        "unshare",
        "--mount",
        "sh",
        "-c",
        script,
        str(work),
        *words["ENTRYPOINT"],
        *words["CMD"],
    ]
    started = time.monotonic()
    log = (work / "log").open("wb")
    process = subprocess.Popen(command, env=environment, stderr=log, stdout=log)
    health = [
        shutil.which(words["HEALTHCHECK"][0], path=environment["PATH"]) or "",
        *words["HEALTHCHECK"][1:],
    ]
    try:
        while subprocess.run(health, env=environment, capture_output=True).returncode:
            if process.poll() is not None or time.monotonic() - started > 30:
                fail(f"not healthy within the start period: {(work / 'log').read_text()}")
        print(f"healthy after {time.monotonic() - started:.1f} s, two workers")
        began = time.monotonic()
        subprocess.run(health, env=environment, check=True)
        print(f"one health check {time.monotonic() - began:.2f} s")
        before = ask(f"{url}/v1/model")["sha256"]
        answer = ask(f"{url}/v1/predict", picture(environment))
        print(
            f"answered: {answer['results'][0]['label']}, receipt "
            f"{'given' if answer['results'][0]['receipt'] else 'missing'}"
        )
        fresh = model.with_name("new.onnx")
        shutil.copy(model, fresh)
        subprocess.run(
            [shutil.which("python", path=environment["PATH"]) or "", "-c", TOUCH_MODEL, str(fresh)],
            check=True,
        )
        fresh.replace(model)
        process.send_signal(signal.SIGHUP)
        until = time.monotonic() + 15
        while {ask(f"{url}/v1/model")["sha256"] for _ in range(8)} & {before}:
            if time.monotonic() > until:
                fail("SIGHUP did not bring the new model")
            time.sleep(0.2)
        print("a model renamed into place is served after SIGHUP")
        print(f"memory: {', '.join(memory(process.pid))}")
        began = time.monotonic()
        (stop,) = (each.value for each in instructions if each.name == "STOPSIGNAL")
        process.send_signal(getattr(signal, stop))
        status = process.wait(60)
        print(f"ended {time.monotonic() - began:.1f} s after {stop}, exit status {status}")
        status == 0 or fail((work / "log").read_text())
        subprocess.run(health, env=environment, capture_output=True).returncode == 1 or fail(
            "a dead service is healthy"
        )
    finally:
        if process.poll() is None:
            process.kill()
        log.close()


def reachable(python: Path) -> str:
    """Shell commands that let any user run this Python, which may lie in a home folder that is
    closed to others.
    """
    closed = next(
        (folder for folder in reversed(python.parents) if not folder.stat().st_mode & 0o001), None
    )
    if closed is None:
        return ""
    return (
        f'mkdir "$0/python"; mount --bind "{python}" "$0/python"; mount -t tmpfs -o mode=0755 '
        f'tmpfs "{closed}"; '
        f'mkdir -p "{python}"; mount --bind "$0/python" "{python}"; '
    )


TOUCH_MODEL = """
import sys, onnx
model = onnx.load(sys.argv[1])
model.doc_string = "the same model in another file"
onnx.save(model, sys.argv[1])
"""
DRAW = (
    "import io, sys; from PIL import Image; Image.new('RGB', (640, 480), "
    "'teal').save(sys.stdout.buffer, 'JPEG')"
)


def picture(environment: dict[str, str]) -> bytes:
    """A JPEG."""
    return subprocess.check_output(
        [shutil.which("python", path=environment["PATH"]) or "", "-c", DRAW]
    )


def ask(url: str, body: bytes | None = None) -> dict:
    """The service's JSON; each question on a connection of its own."""
    headers = {"Authorization": "Bearer a token of the check", "Content-Type": "image/jpeg"}
    with urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=30) as answer:
        return json.load(answer)


def memory(pid: int) -> list[str]:
    """Peak resident memory of a process and its children."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            status = dict(
                line.split(":\t", 1)
                for line in (folder / "status").read_text().splitlines()
                if ":\t" in line
            )
        except OSError:
            continue
        if str(pid) in (folder.name, status.get("PPid")) and "VmHWM" in status:
            found.append(f"{status['Name']} {int(status['VmHWM'].split()[0]) / 1024:.0f} MB")
    return found


def timed(
    what: str, command: list[str], folder: Path, environment: dict[str, str] | None = None
) -> None:
    """Run a command that must succeed and say how long it took."""
    began = time.monotonic()
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode:
        fail(f"{what} exited {done.returncode}: {done.stdout[-2000:]}{done.stderr[-2000:]}")
    print(f"{what}: {time.monotonic() - began:.1f} s")


def fail(why: str) -> None:
    """End with exit status 1."""
    sys.exit(f"check: {why}")


if __name__ == "__main__":
    main()

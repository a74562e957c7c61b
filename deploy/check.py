#!/usr/bin/env python3
"""Check the Dockerfile without Docker: run its commands, then the service as in the image.

    sudo python3.13 deploy/check.py [MODEL.onnx]

The RUN commands build the environment in a temporary folder. The entrypoint then runs as the user
of the image on a read-only root filesystem.

Needs root (for mounts and the user), Linux, util-linux and a package index; trains a model on
drawn photos if none is given. Takes one to two minutes, prints durations, sizes and memory, and
exits 1 at the first check that fails.
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
"""Distributions that must not be in the image."""


def main() -> None:
    """Run all checks in a temporary folder, which is removed afterwards."""
    if os.geteuid() != 0 or not shutil.which("unshare") or not shutil.which("setpriv"):
        sys.exit("check: run it as root, on a machine with unshare and setpriv (util-linux)")
    # Not in /tmp, over which a tmpfs is mounted.
    work = Path(tempfile.mkdtemp(prefix="tailorbird-check-", dir="/var/tmp"))
    work.chmod(0o755)
    try:
        check(work, Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else None)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def check(work: Path, model: Path | None) -> None:
    """Build the environment and run the service in folders under `work` instead of the image's.

    Args:
        work: An empty folder.
        model: The model to serve; None trains one on drawn photos.
    """
    instructions = dockerfile.read(ROOT / "deploy" / "Dockerfile")
    places = {
        "/opt/tailorbird": work / "opt",
        "/source": work / "source",
        "/data": work / "data",
        "/models": work / "models",
    }

    def moved(text: str) -> str:
        return re.sub("|".join(places), lambda found: str(places[found[0]]), text)

    # COPY, with the files that .dockerignore permits; then RUN.
    source = places["/source"]
    shutil.copytree(ROOT / "src", source / "src", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(ROOT / name, source)
    for each in instructions:
        if each.name == "RUN":
            command = re.sub(r"--mount=\S+ ", "", each.value)
            if each.stage == "service":
                # Do not uninstall the pip of this machine.
                command = re.sub(r"python -m pip uninstall .*? && ", "", command)
            command = re.sub(r"\bpython -m\b", f"{sys.executable} -m", moved(command))
            timed(f"RUN of stage {each.stage}", ["sh", "-c", command], source)
    environment = {
        name: moved(value)
        for name, value in dockerfile.environment(instructions, "service").items()
    }
    environment["PATH"] = f"{places['/opt/tailorbird']}/bin:{os.environ['PATH']}"
    (work / "data").stat().st_uid == 10001 or fail(
        "/data is not owned by the user of the service, 10001"
    )
    installed = sorted(path.name for path in (work / "opt").rglob("*.dist-info"))
    if found := [name for name in installed if UNWANTED.match(name)]:
        fail(f"the environment contains distributions that are not needed: {found}")
    size = sum(path.lstat().st_size for path in (work / "opt").rglob("*")) / 2**20
    print(
        f"{len(installed)} distributions, {size:.0f} MB: "
        f"{', '.join(name.removesuffix('.dist-info') for name in installed)}"
    )

    shown = work / "models" / "model.onnx"
    own = environment | {"TAILORBIRD_CACHE": str(work / "cache")}
    if model is None:
        timed(
            "tailorbird demo, for a model to serve",
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
    print("all checks passed")


def serve(
    instructions: list[dockerfile.Instruction],
    work: Path,
    user: str,
    environment: dict[str, str],
    url: str,
    model: Path,
) -> None:
    """Start the entrypoint, predict, replace the model, and stop it with the image's STOPSIGNAL.

    Args:
        instructions: Of the Dockerfile.
        work: The folder that stands for the root of the image.
        user: The user and group of the image, as UID:GID.
        environment: Variables of the service.
        url: Address of the service.
        model: The model file that is served and then replaced.
    """
    words = {
        each.name: each.words()
        for each in instructions
        if each.name in ("ENTRYPOINT", "CMD", "HEALTHCHECK")
    }
    uid, _, gid = user.partition(":")
    # Only /data and /tmp are writable; no capabilities, no new privileges.
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
                fail(f"the service was not healthy after 30 s: {(work / 'log').read_text()}")
        print(f"healthy after {time.monotonic() - started:.1f} s, two workers")
        began = time.monotonic()
        subprocess.run(health, env=environment, check=True)
        print(f"one health check took {time.monotonic() - began:.2f} s")
        before = ask(f"{url}/v1/model")["sha256"]
        answer = ask(f"{url}/v1/predict", picture(environment))
        print(
            f"predicted: {answer['results'][0]['label']}, receipt "
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
                fail("the new model was not served within 15 s after SIGHUP")
            time.sleep(0.2)
        print("the replaced model is served after SIGHUP")
        print(f"memory: {', '.join(memory(process.pid))}")
        began = time.monotonic()
        (stop,) = (each.value for each in instructions if each.name == "STOPSIGNAL")
        process.send_signal(getattr(signal, stop))
        status = process.wait(60)
        print(f"stopped {time.monotonic() - began:.1f} s after {stop}, exit status {status}")
        status == 0 or fail((work / "log").read_text())
        subprocess.run(health, env=environment, capture_output=True).returncode == 1 or fail(
            "the health check succeeds although the service has stopped"
        )
    finally:
        if process.poll() is None:
            process.kill()
        log.close()


def reachable(python: Path) -> str:
    """Return shell commands that let every user run the Python at `python`.

    It may be in a home folder that other users cannot enter. Empty if nothing is needed.
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
    """Return a JPEG of 640 x 480 pixels, drawn with the environment of the image."""
    return subprocess.check_output(
        [shutil.which("python", path=environment["PATH"]) or "", "-c", DRAW]
    )


def ask(url: str, body: bytes | None = None) -> dict:
    """Return the JSON response of the service to GET, or to POST with a body.

    Each request has its own connection, so that all workers are reached.
    """
    headers = {"Authorization": "Bearer a token of the check", "Content-Type": "image/jpeg"}
    with urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=30) as answer:
        return json.load(answer)


def memory(pid: int) -> list[str]:
    """Return the peak resident memory of a process and its children, as "NAME N MB"."""
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
    """Run a command that must succeed, and print how long it took."""
    began = time.monotonic()
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode:
        fail(f"{what} exited {done.returncode}: {done.stdout[-2000:]}{done.stderr[-2000:]}")
    print(f"{what}: {time.monotonic() - began:.1f} s")


def fail(why: str) -> None:
    """Print the reason and exit with status 1."""
    sys.exit(f"check: {why}")


if __name__ == "__main__":
    main()

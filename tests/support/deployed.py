"""A real service and real proxies in front of it, as deploy/ sets them up, on ports of 127.0.0.1
that are free."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
TOKEN = "a token of the tests"

# Under prctl(PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN), which is what systemd's
# MemoryDenyWriteExecute= asks of a new kernel.
_NO_WRITE_EXECUTE = """
import ctypes, mmap, os, sys
if ctypes.CDLL(None, use_errno=True).prctl(65, 1, 0, 0, 0):
    os._exit(77)
try:
    mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
except PermissionError:
    os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
os._exit(78)
"""


def program(name: str, package: str) -> str:
    """A program's path; installs its Debian package when it is missing and this is root. Fails
    the test where it cannot be had."""
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    if shutil.which(name, path=path) is None and os.geteuid() == 0 and shutil.which("apt-get"):
        # policy-rc.d's job, in a variable: the package must not start a server of its own.
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
        install = ["apt-get", "install", "-y", "--no-install-recommends", package]
        if subprocess.run(install, env=environment, capture_output=True, timeout=300).returncode:
            subprocess.run(["apt-get", "update"], env=environment, capture_output=True, timeout=300)
            subprocess.run(install, env=environment, capture_output=True, timeout=300)
    found = shutil.which(name, path=path)
    assert found, (
        f"this test needs {name} and could not install it: run `apt-get install {package}` as root "
        f"(on other systems: its {package})"
    )
    return found


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


class Service:
    """`tailorbird serve` as a process; `log` reads its JSON lines."""

    def __init__(
        self,
        folder: Path,
        model: Path,
        *options: str,
        deny_write_execute: bool = False,
        **environment: str,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._log = folder / "service.log"
        token = folder / "token"
        token.write_text(TOKEN + "\n")
        launcher = ["-c", _NO_WRITE_EXECUTE] if deny_write_execute else []
        command = [
            sys.executable,
            *launcher,
            "-m",
            "tailorbird",
            "serve",
            str(model),
            "--port",
            "0",
        ]
        kept = [] if "--corrections" in options else ["--corrections", "off"]
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [*command, "--token-file", str(token), *kept, *options],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env={**os.environ, **environment},
            )
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().strip()
        assert self.url or self.process.wait(10) == 77, self._log.read_text()

    def log(self) -> list[dict[str, Any]]:
        return [
            json.loads(line) for line in self._log.read_text().splitlines() if line.startswith("{")
        ]

    def stop(self) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(30)
        finally:
            if self.process.poll() is None:
                self.process.kill()
                self.process.wait()
            if self.process.stdout:
                self.process.stdout.close()


class Proxy:
    """nginx or Caddy with the file of deploy/ but other addresses, names and certificates."""

    def __init__(self, kind: str, folder: Path, upstream: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.port, self.plain_port = free_port(), free_port()
        self.url = f"https://localhost:{self.port}"
        environment = {
            **os.environ,
            "HOME": str(folder),
            "XDG_DATA_HOME": str(folder),
            "XDG_CONFIG_HOME": str(folder),
        }
        address = upstream.removeprefix("http://")
        if kind == "nginx":
            self._authority = _certificate(folder)
            config = _nginx(folder, address, self.port, self.plain_port)
            command = [program("nginx", "nginx-light"), "-p", str(folder), "-c", str(config)]
            tested = subprocess.run([*command, "-t"], capture_output=True, text=True)
            assert tested.returncode == 0 and "warn" not in tested.stderr, tested.stderr
        else:
            self._authority = folder / "caddy" / "pki" / "authorities" / "local" / "root.crt"
            environment |= {"TAILORBIRD_SITE": self.url, "TAILORBIRD_UPSTREAM": address}
            environment["TAILORBIRD_HTTP_PORT"] = str(self.plain_port)
            options = ["--config", str(DEPLOY / "Caddyfile"), "--adapter", "caddyfile"]
            caddy = program("caddy", "caddy")
            tested = subprocess.run(
                [caddy, "validate", *options], env=environment, capture_output=True, text=True
            )
            assert tested.returncode == 0, tested.stderr
            command = [caddy, "run", *options]
        self._log = folder / "proxy.log"
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        self.context = self._wait()

    def _wait(self) -> ssl.SSLContext:
        """Until it answers with a certificate that is trusted."""
        until = time.monotonic() + 20
        while True:
            try:
                context = ssl.create_default_context(cafile=str(self._authority))
                with socket.create_connection(("127.0.0.1", self.port), timeout=2) as raw:
                    context.wrap_socket(raw, server_hostname="localhost").close()
                return context
            except OSError:
                if self.process.poll() is not None or time.monotonic() > until:
                    self.stop()
                    raise AssertionError(self._log.read_text()) from None
                time.sleep(0.05)

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def _certificate(folder: Path) -> Path:
    command = [
        program("openssl", "openssl"),
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
        "-days",
        "2",
        "-subj",
        "/CN=localhost",
        "-addext",
        "subjectAltName=DNS:localhost,IP:127.0.0.1",
        "-keyout",
        str(folder / "privkey.pem"),
        "-out",
        str(folder / "fullchain.pem"),
    ]
    subprocess.run(command, check=True, capture_output=True)
    return folder / "fullchain.pem"


def _nginx(folder: Path, upstream: str, port: int, plain_port: int) -> Path:
    site = (DEPLOY / "nginx.conf").read_text(encoding="utf-8")
    site, count = re.subn(r"(?m)^ *listen \[::\]:.*\n", "", site)
    assert count == 2
    for old, new in (
        ("server 127.0.0.1:8000;", f"server {upstream};"),
        ("listen 80;", f"listen 127.0.0.1:{plain_port};"),
        ("listen 443 ssl", f"listen 127.0.0.1:{port} ssl"),
        ("/etc/letsencrypt/live/photos.example.org", str(folder)),
        ("photos.example.org", "localhost"),
    ):
        assert old in site
        site = site.replace(old, new)
    temporary = "".join(
        f"{name}_temp_path {folder}/{name};\n"
        for name in ("client_body", "proxy", "fastcgi", "scgi", "uwsgi")
    )
    user = "user root;\n" if os.geteuid() == 0 else ""
    config = folder / "nginx.conf"
    config.write_text(
        f"{user}daemon off;\nworker_processes 1;\npid {folder}/pid;\nerror_log stderr "
        f"warn;\nevents {{}}\n"
        f"http {{\naccess_log off;\n{temporary}{site}\n}}\n"
    )
    return config

"""Start a local Ray cluster, or connect to one: with a token, and without telemetry.

A local cluster listens on the loopback interface only, has a random token of its own, and ends with
the block that started it. A cluster of several machines is started by whoever runs it
(`ray start`); a command connects to it from one of its machines (docs/scale.md).
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import ipaddress
import logging
import os
import re
import secrets
import shutil
import socket
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from tailorbird import installing, parallel, privacy
from tailorbird.errors import ClusterError, MissingExtra, SettingsError

LOCAL: Final = "local"
"""Address that starts a cluster on this machine for the duration of the command."""

AUTO: Final = "auto"
"""Address of the cluster that runs on this machine already."""

_OBJECT_STORE_BYTES: Final = 512 * 2**20
"""Shared memory of a local cluster for results on their way between processes."""

_DEFAULTS: Final = {
    "RAY_NUM_REDIS_GET_RETRIES": "120",  # seconds that a busy machine has to start the cluster
    "RAY_raylet_start_wait_time_s": "120",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_AIR_NEW_OUTPUT": "0",  # Ray Tune's, which prints even where it is told not to
    "RAY_BACKEND_LOG_LEVEL": "fatal",  # what fails arrives as exceptions
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # the announcement of a future default
    "RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS": "0",
}
_AUTHENTICATION: Final = "RAY_AUTH_MODE"
_TOKEN: Final = "RAY_AUTH_TOKEN"
_OWN_TOKEN: Final = secrets.token_hex(32)
"""Of the local clusters of this process: Ray reads a token once and keeps it."""

_LOCAL_ONLY: Final = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
"""Ray's switch, on every system, between the loopback and the network's interface."""


@contextlib.contextmanager
def connected(address: str = LOCAL, *, cores: int | None = None) -> Iterator[Any]:
    """Yield the module `ray`, connected to a cluster.

    Where this process is connected already, that connection is used and left open.

    Args:
        address: `local` starts a cluster on this machine that ends with the block; `auto` is the
            one that runs on this machine already; or HOST:PORT of one this machine belongs to.
        cores: of a local cluster; None: those that this process may use.

    Raises:
        MissingExtra: Ray is not installed.
        SettingsError: the address is invalid.
        ClusterError: the cluster cannot be started or reached, or refuses the token.
    """
    check_address(address)
    known = sys.modules.get("ray")
    if known is not None and known.is_initialized():
        yield known
        return
    with contextlib.ExitStack() as stack:
        if address == LOCAL:
            token = os.environ.get(_TOKEN) or _OWN_TOKEN
            wanted = {**_LOCAL_ONLY, _AUTHENTICATION: "token", _TOKEN: token}
        else:
            wanted = {_AUTHENTICATION: os.environ.get(_AUTHENTICATION) or "token"}
        if wanted[_AUTHENTICATION].lower() == "disabled":
            raise ClusterError(
                "RAY_AUTH_MODE is 'disabled': whoever reaches such a cluster can run programs on "
                "its machines; start every machine of it with RAY_AUTH_MODE=token, and unset it "
                "here"
            )
        stack.enter_context(_variables(wanted))
        ray = load()
        _read_environment(local=address == LOCAL)
        if address == LOCAL:
            _start(ray, cores or parallel.cores(), stack)
        else:
            _join(ray, address)
        stack.callback(ray.shutdown)
        yield ray


def require() -> None:
    """Raise MissingExtra if Ray is not installed; does not import it."""
    if importlib.util.find_spec("ray") is None:
        raise MissingExtra(f"Ray is not installed; to install it: {installing.install('ray')}")


def load() -> Any:
    """Return the module `ray`, imported on first use. Raises MissingExtra."""
    require()
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import ray
    return ray


def _read_environment(*, local: bool) -> None:
    """Make Ray see the variables that were set: it reads some when it is imported.

    local: whether to listen on the loopback interface only.
    """
    importlib.import_module("ray._raylet").Config.initialize("")
    constants: Any = importlib.import_module("ray._private.ray_constants")
    constants.ENABLE_RAY_CLUSTER = not local


def check_address(address: str) -> None:
    """Raise SettingsError unless an address is `local`, `auto` or HOST:PORT."""
    if address in (LOCAL, AUTO):
        return
    if address.startswith("ray://"):
        raise SettingsError(
            f"the Ray address is {address!r}, a Ray Client; run the command on a machine of the "
            "cluster and give auto, or the HOST:PORT of its head"
        )
    if not is_address(address):
        raise SettingsError(
            f"the Ray address is {address!r}; it must be local, auto, or HOST:PORT such as "
            "10.0.0.5:6379"
        )


def is_address(text: str) -> bool:
    """Return whether this is the address of a cluster, and not, say, a file."""
    host, colon, port = text.rpartition(":")
    return text in (LOCAL, AUTO) or bool(
        colon and re.fullmatch(r"[\w.\-]+|\[[0-9a-fA-F:]+\]", host) and _is_port(port)
    )


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdecimal() and 0 < int(text) < 65536


def _start(ray: Any, cores: int, stack: contextlib.ExitStack) -> None:
    """Start a cluster of this machine alone."""
    folder = tempfile.mkdtemp(prefix="tailorbird-ray-", dir=_short_folder())
    stack.callback(shutil.rmtree, folder, ignore_errors=True)
    try:
        with privacy.stderr_discarded(), _without_api_server():
            ray.init(
                address="local",
                num_cpus=cores,
                include_dashboard=False,
                object_store_memory=_OBJECT_STORE_BYTES,
                logging_level=logging.ERROR,
                log_to_driver=False,
                _temp_dir=folder,
            )
    except Exception as error:  # the exceptions of its many parts share no base class
        raise ClusterError(f"a local Ray cluster could not be started: {_reason(error)}") from error
    host = ray.util.get_node_ip_address()
    if not ipaddress.ip_address(host).is_loopback:
        ray.shutdown()
        raise ClusterError(
            f"this version of Ray would listen on {host}, not on the loopback interface; call "
            "ray.init() in your own program, and that cluster is used"
        )


@contextlib.contextmanager
def _without_api_server() -> Iterator[None]:
    """Keep Ray from starting its API server, which `include_dashboard=False` only makes smaller.

    What is left of it reports usage; even switched off it asks cloud providers' metadata services
    where it runs. A start without it takes half the time.
    """
    node = importlib.import_module("ray._private.node").Node
    before = node.start_api_server
    node.start_api_server = lambda *_, **__: None
    try:
        yield
    finally:
        node.start_api_server = before


def _short_folder() -> str | None:
    """Return where a local cluster keeps its sockets, whose paths may have about 100 bytes."""
    longest = 40
    short = Path("/tmp")
    return str(short) if len(tempfile.gettempdir()) > longest and short.is_dir() else None


def _join(ray: Any, address: str) -> None:
    """Connect to a running cluster, as one of its machines."""
    _check_port(address)
    try:
        with privacy.stderr_discarded():
            ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False)
    except Exception as error:  # the exceptions of its many parts share no base class
        raise ClusterError(
            f"the Ray cluster {address} cannot be used: {_reason(error)}; this machine must belong "
            "to it (ray start --address), and the token must be its own (RAY_AUTH_TOKEN, "
            "RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token)"
        ) from error


def _check_port(address: str) -> None:
    """Raise ClusterError at once where nothing listens; Ray itself tries for a minute."""
    if address == AUTO:
        return
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except OSError as error:
        raise ClusterError(
            f"the Ray cluster {address} cannot be reached: {error.strerror or error}; check the "
            "address, and that the cluster runs (ray status)"
        ) from None


def _reason(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


@contextlib.contextmanager
def _variables(values: dict[str, str]) -> Iterator[None]:
    """Set environment variables during the block."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value

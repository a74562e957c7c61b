"""Connections to Ray: tokens, the loopback interface, telemetry, and errors."""

from __future__ import annotations

import importlib
import importlib.util
import ipaddress
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tailorbird.cluster.connection import check_address, connected, is_address, load
from tailorbird.errors import ClusterError, MissingExtra, SettingsError

STARTED = """
import json, os, sys
from tailorbird.cluster.connection import connected

with connected(cores=1) as ray:
    @ray.remote
    def double(number):
        return 2 * number, os.environ.get("RAY_USAGE_STATS_ENABLED")

    answer, telemetry = ray.get(double.remote(21))
    host = ray.util.get_node_ip_address()
    context = ray.get_runtime_context()
    gcs = context.gcs_address
    other = dict(os.environ, RAY_AUTH_TOKEN="0" * 64, RAY_NUM_REDIS_GET_RETRIES="2")
    import subprocess
    code = f"import ray; ray.init(address={gcs!r}, logging_level='critical'); print('inside')"
    stranger = subprocess.run(
        [sys.executable, "-c", code], env=other, capture_output=True, text=True, timeout=100
    )
with connected(cores=1) as ray:
    again = ray.get(ray.remote(lambda: 1).options(num_cpus=1).remote())
print(json.dumps([answer, telemetry, host, stranger.returncode, stranger.stdout, again,
                  "RAY_AUTH_TOKEN" in os.environ, ray.is_initialized()]))
"""


def test_a_local_cluster_is_private_and_ends_with_the_block(tmp_path: Path) -> None:
    hidden = ("RAY_", "TAILORBIRD_")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(hidden)}
    environment |= {"HOME": str(tmp_path), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, "-c", STARTED],
        env=environment,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    import json

    answer, telemetry, host, code, inside, again, token, open_still = json.loads(done.stdout)
    assert (answer, again, telemetry) == (42, 1, "0")
    assert ipaddress.ip_address(host).is_loopback
    assert code != 0 and "inside" not in inside, "another token was accepted"
    assert not token and not open_still
    assert list(tmp_path.iterdir()) == [], "something was left in the home folder"


@pytest.mark.parametrize("address", ["local", "auto", "10.0.0.5:6379", "head:1", "[::1]:6379"])
def test_valid_addresses(address: str) -> None:
    check_address(address)
    assert is_address(address)


@pytest.mark.parametrize("address", ["", "10.0.0.5", "head:", "head:0", "head:70000", "a b:1"])
def test_invalid_addresses_are_refused(address: str) -> None:
    assert not is_address(address)
    with pytest.raises(SettingsError, match="must be local, auto, or HOST:PORT"):
        check_address(address)


def test_a_ray_client_is_refused() -> None:
    with pytest.raises(SettingsError, match="run the command on a machine of the cluster"):
        check_address("ray://head:10001")


def test_missing_ray_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    def find(name: str) -> Any:
        return None

    monkeypatch.setattr(importlib.util, "find_spec", find)
    with pytest.raises(MissingExtra, match=r"Ray is not installed; to install it: .*\[ray\]"):
        load()


def test_a_cluster_without_authentication_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    importlib.import_module("ray._raylet").Config.initialize("")  # as if imported just now
    with pytest.raises(ClusterError, match="RAY_AUTH_MODE=token"), connected("127.0.0.1:1"):
        pass


def test_a_cluster_that_is_not_there_is_reported_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "0" * 64)
    with pytest.raises(ClusterError, match="cannot be reached"), connected("127.0.0.1:1"):
        pass

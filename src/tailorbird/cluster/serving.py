"""Serve a model from replicas on a Ray cluster: `service` as a deployment of Ray Serve.

Ray Serve starts as many replicas as the requests need, and ends them again. Each runs the same
application on one core, or on a GPU. Accepted requests survive a reload, as the model is replaced
within each replica, and the end, for which Ray waits.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import shutil
import signal
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from tailorbird.cluster.connection import LOCAL, check_address, connected, require
from tailorbird.cluster.replica import METRICS, Application, Board, Replica, files_of
from tailorbird.cluster.resources import place_all
from tailorbird.corrections.database import locate
from tailorbird.errors import ClusterError
from tailorbird.inference import DeviceChoice
from tailorbird.service import ServeSettings, need_extra
from tailorbird.validation import Problems

NAME: Final = "tailorbird"
"""Name of the application on the cluster; one is served on each."""
BATCH: Final = 2
"""Photos that a replica works on at once, as on the CPU; more are started above twice as many."""
MOST_REPLICAS: Final = 10_000
FOLLOW_SECONDS: Final = 5.0
"""Time between two health checks, after which all replicas serve a reloaded model."""
POLL_SECONDS: Final = 0.2


@dataclass(frozen=True)
class Replicas:
    """Where replicas serve, and how many, depending on the requests.

    address: of the cluster; see `connected`.
    lowest: number of replicas, 1 or more.
    highest: number of replicas; None: one per core of the cluster, or per GPU.
    """

    address: str | None = LOCAL
    lowest: int = 1
    highest: int | None = None

    def __post_init__(self) -> None:
        """Raise one SettingsError that names every problem."""
        with Problems() as problems:
            address = self.address
            if address is None:
                problems.add("replicas are of a cluster; add --ray, or use --workers here")
            else:
                problems.attempt(lambda: check_address(address))
            problems.whole("min_replicas", self.lowest, 1, MOST_REPLICAS)
            if self.highest is not None:
                problems.whole("max_replicas", self.highest, 1, MOST_REPLICAS)
                problems.need(
                    self.lowest <= self.highest,
                    f"min_replicas is {self.lowest} and max_replicas {self.highest}; the lowest "
                    "number cannot be above the highest",
                )


def serve(
    settings: ServeSettings,
    replicas: Replicas | None = None,
    *,
    announce: Callable[[str], None] = print,
    quiet: bool = False,
) -> None:
    """Serve on a Ray cluster until SIGTERM or Ctrl-C; both let accepted requests finish.

    Args:
        settings: as for one process; corrections are in PostgreSQL or off, `workers` is 1.
        replicas: where and how many; None: on a cluster of this machine alone, 1 to the number of
            cores.
        announce: called with the service's address once it accepts requests.
        quiet: log problems only.

    Raises:
        MissingExtra: Ray or a package of `serve` is not installed.
        SettingsError: corrections in a file, or several processes.
        ModelFileError, StorageError: as for one process.
        ClusterError: the cluster cannot be used, or serves something already.
    """
    require()
    need_extra()
    check(settings)
    replicas = replicas or Replicas()
    from tailorbird.service.web.logs import configure_logging
    from tailorbird.service.web.server import address as url
    from tailorbird.service.web.server import listen

    _try(settings)
    bound = listen(settings)  # that the port is free
    shown, port = url(settings, bound), bound.getsockname()[1]
    bound.close()
    choice = settings.choice  # of this process's environment; a replica has another
    settings = replace(settings, device=choice.name, half=choice.half)
    if settings.photos is not None:
        settings = replace(settings, photos=settings.photos.absolute())
    assert replicas.address is not None
    with connected(replicas.address) as ray:
        configure_logging(quiet=quiet)
        try:
            with _deployed(ray, settings, port, replicas, quiet=quiet) as board:
                announce(shown)
                _wait(ray, board, settings)
        except ray.exceptions.RayError as error:
            raise ClusterError(
                f"the Ray cluster that serves was lost: {str(error).splitlines()[0][:300]}"
            ) from error


def check(settings: ServeSettings) -> None:
    """Raise SettingsError for what several machines cannot share."""
    with Problems() as problems:
        problems.need(
            settings.workers == 1,
            f"workers is {settings.workers}, but Ray decides how many processes serve; leave it "
            "out and use min_replicas and max_replicas (--min-replicas, --max-replicas)",
        )
        if settings.corrections and locate(settings.corrections).path is not None:
            problems.add(
                f"corrections would be stored in {locate(settings.corrections).shown}, a file that "
                "replicas on several machines cannot share; give a PostgreSQL database "
                "(--corrections postgresql://...) or store none (--corrections off)"
            )


def _try(settings: ServeSettings) -> None:
    """Open what each replica will open, so that an error is reported here, once."""
    from tailorbird.service.app import open_corrections
    from tailorbird.service.served import open_served

    for path in filter(None, (settings.model, settings.candidate)):
        served = open_served(path, strict=settings.strict, device=DeviceChoice("cpu"))
        if path == settings.model:
            settings.page.check_classes(served.classifier.classes)
    store = open_corrections(settings)
    if store is not None:
        store.close()


@contextlib.contextmanager
def _deployed(
    ray: Any, settings: ServeSettings, port: int, replicas: Replicas, *, quiet: bool
) -> Iterator[Any]:
    """Deploy the service for the duration of the block; yields the board."""
    import ray.serve as serving

    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    _refuse_others(serving)
    board = _board(ray, settings)
    share = place_all(ray, settings.choice)
    counters = Path(tempfile.gettempdir()) / f"tailorbird-counters-{uuid.uuid4().hex}"
    deployment = serving.deployment(
        serving.ingress(Application(settings, board, quiet=quiet))(Replica)
    ).options(
        name=NAME,
        max_ongoing_requests=settings.connections,  # the application's own limits decide
        autoscaling_config={
            "min_replicas": replicas.lowest,
            "max_replicas": replicas.highest or max(replicas.lowest, share.workers),
            "target_ongoing_requests": 2 * (settings.batch or BATCH),
        },
        ray_actor_options={
            "num_cpus": share.cores,
            "num_gpus": int(share.gpu),
            "runtime_env": {
                "env_vars": {METRICS: str(counters), "TAILORBIRD_THREADS": str(share.cores)}
            },
        },
        health_check_period_s=FOLLOW_SECONDS,
        graceful_shutdown_timeout_s=settings.deadline + 5,
        graceful_shutdown_wait_loop_s=0.5,
    )
    try:
        _run(serving, deployment, settings, port, lambda: ray.get(board.take_lines.remote()))
        yield board
    finally:
        with contextlib.suppress(Exception):  # the cluster may be gone
            serving.shutdown()
        shutil.rmtree(counters, ignore_errors=True)


def _board(ray: Any, settings: ServeSettings) -> Any:
    """Start the board on this machine."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    kind = ray.remote(Board).options(
        num_cpus=0, max_restarts=-1, max_task_retries=-1, scheduling_strategy=here
    )
    paths = {name: str(path.absolute()) for name, path in files_of(settings).items()}
    return kind.remote(paths, strict=settings.strict)


def _run(
    serving: Any, deployment: Any, settings: ServeSettings, port: int, said: Callable[[], str]
) -> None:
    """Start Ray's proxy and the replicas. Raises ClusterError with what the last one said."""
    logs = {"log_level": "ERROR", "enable_access_log": False}
    try:
        serving.start(
            proxy_location="HeadOnly" if settings.is_loopback else "EveryNode",
            http_options={"host": settings.host, "port": port},
            logging_config=logs,
        )
        serving.run(deployment.bind(), name=NAME, logging_config=logs)
    except Exception as error:  # Ray's exceptions share no base class
        lines = said().strip().splitlines()
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
        raise ClusterError(
            f"the service could not be started on the Ray cluster: {reason}"
            + (f"; a replica said: {lines[-1][:500]}" if lines else "")
        ) from error


def _refuse_others(serving: Any) -> None:
    """Raise ClusterError where the cluster serves something: its proxy and port are shared."""
    try:
        running = list(serving.status().applications)
    except Exception:  # nothing was ever served there
        running = []
    if running:
        raise ClusterError(
            f"the Ray cluster serves {', '.join(running)} already; end that first (Ctrl-C where it "
            "was started, or `serve shutdown`), or use another cluster"
        )


def _wait(ray: Any, board: Any, settings: ServeSettings) -> None:
    """Pass on log lines until a signal ends the service; SIGHUP reloads the model."""
    from tailorbird.service.web.logs import log
    from tailorbird.service.web.terminal import Terminal

    wanted: list[int] = []
    terminal = Terminal()
    with _signals(wanted):
        while True:
            time.sleep(POLL_SECONDS)
            _print_lines(ray, board)
            if signal.SIGTERM in wanted or signal.SIGINT in wanted:
                break
            if wanted:
                wanted.clear()
                if terminal.is_gone:
                    break
                _reload(ray, board)
        log("draining", seconds=settings.drain)
        ray.get(board.drain.remote())
        time.sleep(settings.drain)
        _print_lines(ray, board)


def _print_lines(ray: Any, board: Any) -> None:
    lines = ray.get(board.take_lines.remote())
    if lines:
        sys.stderr.write(lines)
        sys.stderr.flush()


def _reload(ray: Any, board: Any) -> None:
    """Publish the model file's present content if it works."""
    from tailorbird.service.web.logs import log

    found = ray.get(board.read_again.remote())
    if isinstance(found, str):
        log("reload-refused", level="error", message=found, told_by="signal")
        return
    ray.get(board.publish.remote())
    sha256 = hashlib.sha256(found["model"]).hexdigest()
    log("reload-published", sha256=sha256, told_by="signal")


@contextlib.contextmanager
def _signals(wanted: list[int]) -> Iterator[None]:
    """Note signals during the block."""
    numbers = [
        signal.SIGTERM,
        signal.SIGINT,
        *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else []),
    ]
    before = {n: signal.signal(n, lambda number, _: wanted.append(number)) for n in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

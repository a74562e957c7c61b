"""Fine-tune on a cluster: Ray Train runs the loop of `engines.finetune` in several workers.

    driver    sends the task to Ray's object store, starts Ray Train, passes on notes and Ctrl-C
    workers   run the same loop together (PyTorch's DistributedDataParallel), each in a folder of
              its own; each checkpoint of the first one is copied to Ray's storage
    driver    copies the last checkpoint into the run's folder, as if the run had been here

Where a worker is lost, Ray starts all of them again from the last checkpoint. Ray's storage is in
the folder of the run, beside the model file: several machines must share it, and the photos.
"""

from __future__ import annotations

import os
import queue
import shutil
import tempfile
import threading
import uuid
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import tailorbird
from tailorbird.cluster.connection import load
from tailorbird.cluster.resources import Place, place
from tailorbird.cluster.running import check_version
from tailorbird.engines.finetune.checkpoints import Checkpoints
from tailorbird.engines.finetune.interrupts import deferred_interrupt
from tailorbird.engines.finetune.loop import finetune
from tailorbird.engines.finetune.task import FinetuneTask, Host
from tailorbird.engines.torch import launching
from tailorbird.engines.torch.network import TorchNetwork
from tailorbird.engines.torch.worker import opened_network
from tailorbird.errors import ClusterError, SettingsError, TailorbirdError
from tailorbird.progress import NoProgress, Progress

if TYPE_CHECKING:
    from tailorbird.engines.torch.launching import Call

FOLDER: Final = "ray"
"""Folder in that of the run, for Ray's storage."""
LOSSES: Final = 3
"""Number of times that workers are started again after one was lost."""
POLL_SECONDS: Final = 0.2
FILES: Final = (launching.TASK, launching.ARRAYS, launching.BACKBONE)


def host(ray: Any, workers: int) -> Host:
    """Return what fine-tunes on a cluster in place of this process.

    Raises SettingsError for more workers than the cluster has room for.
    """
    where = place(ray, workers)

    def launch(task: FinetuneTask, progress: Progress) -> None:
        _launch(ray, where, task, progress)

    return Host(launch=launch)


class Messages:
    """An actor between driver and workers: notes one way, the wish to stop the other."""

    def __init__(self) -> None:
        self._calls: list[Call] = []
        self._failure: tuple[str, str] | None = None
        self._stop = False

    def send(self, call: Call) -> None:
        """Keep a call of a Progress for the driver."""
        self._calls.append(call)

    def take(self) -> list[Call]:
        """Return the calls since the last time."""
        taken, self._calls = self._calls, []
        return taken

    def fail(self, name: str, message: str) -> None:
        """Keep an error that ends the run: another attempt would meet it too."""
        self._failure = self._failure or (name, message)

    def failure(self) -> tuple[str, str] | None:
        """Return the error that ended the run."""
        return self._failure

    def stop(self) -> None:
        """Ask the workers to save and stop."""
        self._stop = True

    def stopping(self) -> bool:
        """Return whether the workers are asked to stop."""
        return self._stop


def _launch(ray: Any, where: Place, task: FinetuneTask, progress: Progress) -> None:
    """Train on the cluster up to the run's last checkpoint, which is then in the task's folder.

    Raises what the training loop raises in a worker, ClusterError where workers are lost again and
    again, and KeyboardInterrupt after Ctrl-C, with the state saved.
    """
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    if not isinstance(task.network, TorchNetwork):
        raise SettingsError(
            f"{task.network.name} trains with {task.network.framework}, but only PyTorch trains on "
            "a Ray cluster; use --engine timm with a backbone of timm, or leave --ray out"
        )
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    messages = ray.remote(Messages).options(num_cpus=0, scheduling_strategy=here).remote()
    config = {
        "task": ray.put(_packed(task)),
        "messages": messages,
        "cores": where.cores,
        "version": tailorbird.__version__,
        "name": f"tailorbird-{uuid.uuid4().hex}",
    }
    progress.note(
        f"training with {where.workers} worker{'s' * (where.workers > 1)} on the Ray cluster, each "
        f"with {'a GPU and ' * where.gpu}{where.cores} core{'s' * (where.cores > 1)}"
    )
    outcome: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def fit() -> None:
        try:
            outcome.put(_trainer(where, task.folder, config).fit())
        except BaseException as error:  # raised in the main thread
            outcome.put(error)

    # In the main thread Ray would put a handler of its own on Ctrl-C, and leave it there.
    fitting = threading.Thread(target=fit, name="tailorbird-ray", daemon=True)
    with deferred_interrupt() as interrupt:
        fitting.start()
        try:
            asked = False
            while fitting.is_alive():
                fitting.join(POLL_SECONDS)
                _pass_on(ray.get(messages.take.remote()), progress)
                if interrupt.wanted and not asked:
                    asked = True
                    messages.stop.remote()
            failure = ray.get(messages.failure.remote())
        except ray.exceptions.RayError as error:
            raise _lost(error) from error
    ended = outcome.get()
    checkpoint = None if isinstance(ended, BaseException) else ended.checkpoint
    if checkpoint is not None:
        _receive(checkpoint, task.folder)
    if failure is not None:
        raise launching.error_of(*failure)
    if isinstance(ended, BaseException):
        raise _lost(ended) from ended
    shutil.rmtree(task.folder / FOLDER, ignore_errors=True)


def _pass_on(calls: Sequence[Call], progress: Progress) -> None:
    for name, args, values in calls:
        getattr(progress, name)(*args, **values)


def _lost(error: BaseException) -> ClusterError:
    """Return the error for a run that Ray gave up."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = lines[-1][:300] if lines else type(error).__name__
    return ClusterError(
        f"training on the Ray cluster failed: {said}; its workers are started again up to {LOSSES} "
        "times; the last checkpoint stays: run the same command to resume"
    )


def _trainer(where: Place, folder: Path, config: dict[str, Any]) -> Any:
    """Return Ray's trainer, which resumes a run that it finds in its storage."""
    import ray.train
    from ray.train.torch import TorchConfig, TorchTrainer

    return TorchTrainer(
        work,
        train_loop_config=config,
        torch_config=TorchConfig(backend="cpu:gloo,cuda:nccl" if where.gpu else "gloo"),
        scaling_config=ray.train.ScalingConfig(
            num_workers=where.workers,
            use_gpu=where.gpu,
            resources_per_worker={"CPU": where.cores, **({"GPU": 1} if where.gpu else {})},
        ),
        run_config=ray.train.RunConfig(
            name=FOLDER,
            storage_path=str(folder.absolute()),
            failure_config=ray.train.FailureConfig(max_failures=LOSSES),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=2),
        ),
    )


def _packed(task: FinetuneTask) -> dict[str, bytes]:
    """Return the files of a task, and of its newest checkpoint, by their names."""
    if not task.settings.regularisation.batch_norm:
        task = replace(task, features=None)  # which may not fit in memory, and nothing else needs
    with tempfile.TemporaryDirectory(prefix="tailorbird-") as name:
        launching.write_task(task, Path(name))
        files = {f"task/{part}": (Path(name) / part).read_bytes() for part in FILES}
    begun = Checkpoints(task.folder, writes=False).files()
    return files | {f"run/{path.name}": path.read_bytes() for path in begun}


def _receive(checkpoint: Any, folder: Path) -> None:
    """Put a checkpoint from Ray's storage in the place of those in a run's folder."""
    Checkpoints(folder).clear()
    checkpoint.to_directory(str(folder))


def work(config: dict[str, Any]) -> None:
    """Take part in the training of a task, as one of Ray Train's workers."""
    import ray.train

    ray = load()
    rank, messages = ray.train.get_context().get_world_rank(), config["messages"]
    if ray.get(messages.failure.remote()) is not None:
        return  # the error that ended the attempt before this one would come again
    os.environ["TAILORBIRD_THREADS"] = str(config["cores"])
    place = Path(tempfile.gettempdir()) / f"{config['name']}-{rank}"
    shutil.rmtree(place, ignore_errors=True)  # of a worker that was lost
    try:
        check_version(config["version"])
        for name, content in ray.get(config["task"]).items():
            path = place / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        _train(ray, place, Channel(ray, messages, rank))
    except KeyboardInterrupt as error:
        if not rank:
            ray.get(messages.fail.remote(launching.name_of(error), ""))
    except TailorbirdError as error:
        ray.get(messages.fail.remote(launching.name_of(error), str(error)))
        raise
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _train(ray: Any, place: Path, channel: Channel) -> None:
    """Run the loop from the newest checkpoint: Ray's, else the one that came with the task."""
    checkpoint, folder = ray.train.get_checkpoint(), place / "run"
    if checkpoint is not None:
        shutil.rmtree(folder, ignore_errors=True)
        with checkpoint.as_directory() as found:
            shutil.copytree(found, folder)
    network = opened_network(place / "task")
    task = launching.read_task(place / "task", network)
    finetune(
        replace(task, folder=folder, host=channel.host(place / "saved")),
        progress=channel.progress(),
    )


class Channel:
    """A worker's connection to the driver; only the first worker reports and asks."""

    def __init__(self, ray: Any, messages: Any, rank: int) -> None:
        self._ray = ray
        self._messages = messages
        self._first = rank == 0
        self._question: Any = None
        self._stop = False

    def progress(self) -> Progress:
        """Return what sends notes and metrics to the driver."""
        return launching.Reporter(self._messages.send.remote) if self._first else NoProgress()

    def host(self, folder: Path) -> Host:
        """Return the hooks of this worker; `folder` is for checkpoints on their way to Ray."""
        return Host(stop_wanted=self._stop_wanted, saved=self._keeper(folder))

    def _stop_wanted(self) -> bool:
        """Return the answer of a moment ago: a step does not wait for the network."""
        if not self._first or self._stop:
            return self._stop
        if self._question is None:
            self._question = self._messages.stopping.remote()
        elif self._ray.wait([self._question], timeout=0)[0]:
            self._stop, self._question = self._ray.get(self._question), None
        return self._stop

    def _keeper(self, folder: Path) -> Callable[[Sequence[Path]], None]:
        import ray.train

        def keep(files: Sequence[Path]) -> None:
            if not files:
                ray.train.report({})
                return
            folder.mkdir()
            for path in files:
                os.link(path, folder / path.name)
            try:
                ray.train.report({}, checkpoint=ray.train.Checkpoint.from_directory(str(folder)))
            finally:
                shutil.rmtree(folder)

        return keep

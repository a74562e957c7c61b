"""One of the processes that `launching.launch` starts: `torchrun -m ... FOLDER PARENT`."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from tailorbird import onnx_files
from tailorbird.engines import registry
from tailorbird.engines.finetune.loop import finetune
from tailorbird.engines.protocol import TrainableNetwork
from tailorbird.engines.torch import launching
from tailorbird.engines.torch.processes import leave
from tailorbird.errors import BackboneError
from tailorbird.progress import NoProgress, Progress


def opened_network(folder: Path) -> TrainableNetwork:
    """Return the network of a task in this process, which joins the others."""
    path = folder / launching.BACKBONE
    return registry.open_network(onnx_files.read_audited(path, BackboneError), path)


def main(folder: Path, parent: int) -> int:
    """Take part in the training of a task; return the exit code."""
    process = int(os.environ["RANK"])
    progress: Progress = NoProgress() if process else launching.Reporter()
    if process:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first process says when to stop
    with launching.watched(folder, parent):
        try:
            network = opened_network(folder)
            finetune(launching.read_task(folder, network), progress=progress)
        except BaseException as error:
            launching.report_outcome(folder, process, error)
            if not isinstance(error, KeyboardInterrupt):
                os._exit(1)  # the others wait for this process, so the launcher has to end them
        else:
            launching.report_outcome(folder, process, None)
        leave()
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2])))

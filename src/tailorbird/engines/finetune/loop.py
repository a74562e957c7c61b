"""The fine-tuning loop: run, stage, epoch, step, the same for every framework.

Shapes as in `protocol`; N training and M validation photos. A run lives in a folder and can be
killed at any moment: the same command resumes from the last checkpoint and gives the same weights,
unless a time budget decides how far it goes.

Each stage starts from the best weights of the one before, not from its last: a stage that diverges
costs only its time. The result is the best of all stages, and the initial weights are among the
candidates, so it never has a higher validation log-loss than the frozen backbone. Scored is the
validation log-loss of the EMA weights after fitting one temperature.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from contextlib import closing, nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tailorbird.engines.finetune import activation_cache, schedules
from tailorbird.engines.finetune.checkpoints import Checkpoints
from tailorbird.engines.finetune.interrupts import Interrupt, StopRequested, deferred_interrupt
from tailorbird.engines.finetune.results import Best, Epoch, FinetuneResult, score
from tailorbird.engines.finetune.run import STATE, Run
from tailorbird.engines.finetune.schedules import Plateau
from tailorbird.engines.finetune.task import FinetuneTask, Labels
from tailorbird.engines.finetune.views import Inputs, Rows
from tailorbird.engines.protocol import Arrays, Views
from tailorbird.errors import SettingsError, StorageError, TrainingError
from tailorbird.files import exclusive
from tailorbird.progress import NoProgress, Progress


def finetune(task: FinetuneTask, *, progress: Progress | None = None) -> FinetuneResult:
    """Fine-tune a network from the head found on its frozen features.

    Afterwards the network holds the best weights. `discard` deletes the run's folder.

    Args:
        task: network, photos, initial head and settings.
        progress: receives the stage, steps, notes and metrics.

    Raises:
        SettingsError: settings that do not fit the network, or a run of another framework.
        ImageError: a photo was changed or deleted since it was scanned.
        StorageError: the disk is full, or another process uses the folder; the last checkpoint
            stays.
        TrainingError: weights, activations or loss became NaN or infinite; the last checkpoint
            stays.
        KeyboardInterrupt: after Ctrl-C, with the state saved; a second Ctrl-C does not wait.
    """
    progress = progress or NoProgress()
    task.folder.mkdir(parents=True, exist_ok=True)
    busy = (
        f"another process is fine-tuning in {task.folder}; wait for it to end, or choose another "
        "output"
    )
    network = task.network
    (task.host.launch or network.launch)(task, progress)
    lock = exclusive(task.folder / "lock", busy) if not network.process else nullcontext()
    with lock, deferred_interrupt(network.agree, task.host.stop_wanted) as interrupt:
        run = _opened(task, progress)
        finished = run.position.over
        try:
            _fit(run, interrupt)
        except StopRequested:
            if run.whole:
                run.save()
            saved = "run the same command to resume" if run.saved else "before the first checkpoint"
            progress.note(f"fine-tuning was stopped; {saved}")
            raise
        finally:
            run.close()
        network.load_weights(run.best.weights)
        if not network.process:
            activation_cache.clear(task.folder)
    return FinetuneResult(
        history=tuple(run.history),
        stages=run.stages,
        best=run.best.best,
        start=run.start,
        # Reading a finished run, such as one that other processes trained, is no resuming.
        resumed_from=None if finished else run.resumed_from,
        seconds=run.position.seconds,
        stopped=run.position.stopped(),
    )


def discard(folder: Path) -> None:
    """Delete a run and its folder; other files there, and then the folder, stay.

    Raises StorageError.
    """
    if not folder.is_dir():
        return
    try:
        Checkpoints(folder).clear()
        (folder / "lock").unlink(missing_ok=True)
    except OSError as error:
        raise StorageError(
            f"{error.filename} could not be deleted: {error.strerror}; delete it by hand"
        ) from error
    with contextlib.suppress(OSError):
        folder.rmdir()


def _opened(task: FinetuneTask, progress: Progress) -> Run:
    """Return the run in the folder, or a new one, with the head attached to the network."""
    run = Run(task, progress)
    for number, stage in enumerate(run.stages, start=1):
        progress.note(f"stage {number}/{len(run.stages)}: {stage.sentence()}")
    first = run.stages[0].training(task.settings, task.seed, None)
    for note in task.network.notes(first):
        progress.note(note)
    saved = run.previous()
    if saved is None:
        task.network.attach(task.head, task.settings.regularisation, task.features)
        return run
    run.resume(saved)
    position, best = run.position, run.best.best.score
    if not position.over:
        progress.note(
            f"resuming at stage {position.stage + 1}, epoch {position.epoch + 1}, after step "
            f"{position.step}; best so far: validation log-loss {best.log_loss:.3f}, accuracy "
            f"{100 * best.accuracy:.1f}%"
        )
    return run


def _fit(run: Run, interrupt: Interrupt) -> None:
    """Run all remaining stages."""
    if run.resumed_from is None:
        start = _score_start(run, interrupt)
        run.start = start.score
        run.spend()
        _enter(run, 0, interrupt, start)
    while not run.position.over:
        _train_stage(run, interrupt)
        following = run.position.stage + 1
        if following == len(run.stages) or not _time_left(run):
            _note_improving(run)
            run.position.over = True
            run.save()
        else:
            _enter(run, following, interrupt)
    interrupt.check()  # Ctrl-C after the last step must not be lost


def _note_improving(run: Run) -> None:
    """Say so if the last epoch was the best: validation may not have reached its best yet."""
    position = run.position
    if position.epoch and run.best.best.trained == (position.stage + 1, position.epoch):
        epochs = sum(stage.epochs for stage in run.stages)
        longer = "a longer --budget" if "budget" in position.ends else f"--epochs {2 * epochs}"
        run.progress.note(f"the last epoch was the best: {longer} may help")


def _time_left(run: Run) -> bool:
    budget, position = run.task.settings.budget, run.position
    if budget is None or position.seconds + position.validation_seconds < budget:
        return True
    position.ends.append("budget")
    return False


def _score_start(run: Run, interrupt: Interrupt) -> Best:
    """Score the frozen backbone with the initial head at its own size: the baseline."""
    task = run.task
    cuts = task.network.cuts(task.size)
    pooled = replace(
        run.stages[0],
        size=task.size,
        cut=len(cuts) - 1,
        cut_name=cuts[-1].name,
        augmented=False,
        keep=False,
        keep_validation=False,
    )
    inputs = Inputs(task, pooled, 0, pixels=False)
    width, given = task.head.layers[0].weight.shape[0], math.prod(inputs.shape)
    if given != width:
        raise SettingsError(
            f"the head takes {width} features, but {task.network.name} gives {given}"
        )

    def frozen(rows: Rows) -> NDArray[np.float32]:
        return task.head.logits(rows.reshape(len(rows), -1).astype(np.float32))

    logits = _validate(run, inputs, frozen, interrupt)
    if not np.isfinite(logits).all():
        raise TrainingError(
            f"{task.network.name} with the head found on its features gives logits that are NaN "
            "or infinite; its weights are damaged"
        )
    return Best(0, 0, task.size, score(logits, task.labels["validation"]), logits)


def _enter(run: Run, number: int, interrupt: Interrupt, start: Best | None = None) -> None:
    """Enter a stage; score its initial weights again if they were scored at another size."""
    remaining = run.stages[number:]
    budget = run.task.settings.budget
    if budget is not None:
        share = remaining[0].work / sum(stage.work for stage in remaining)
        budget = max(0.0, budget - run.position.seconds) * share
    run.enter(number, budget, start)
    if run.stage.keep_validation:  # fill the cache now, for a first validation of usual speed
        for _ in run.inputs.validation():
            interrupt.check()
    resized = run.leader.best.size != run.stage.size
    if resized or budget is not None:
        run.spend()
        logits = _validate(run, run.inputs, run.task.network.logits, interrupt)
        run.position.validation_seconds = run.spend()
        if resized:
            _record(run, logits, run.leader.weights, None)
    run.position.plateau = Plateau(best=run.leader.best.score.log_loss)
    run.spend()
    run.position.epoch_seconds = 0.0
    run.whole = True
    run.save()


def _train_stage(run: Run, interrupt: Interrupt) -> None:
    """Train the stage's remaining epochs, until its budget or patience is exhausted."""
    stage, position, settings = run.stage, run.position, run.task.settings
    run.progress.stage("finetune", stage.epochs * run.inputs.steps * run.inputs.batch)
    while position.epoch < stage.epochs:
        if settings.patience is not None and position.stale >= settings.patience:
            run.progress.note(
                f"stage {position.stage + 1} ends early: {position.stale} epochs without a lower "
                "validation log-loss"
            )
            position.ends.append("early")
            return
        if (_out_of_time(run) and position.step == 0) or not _train_epoch(run, interrupt):
            position.ends.append("budget")
            return


def _out_of_time(run: Run) -> bool:
    """Return whether the stage's budget, less the time for validation, is exhausted."""
    position, budget = run.position, run.position.stage_budget
    return budget is not None and position.stage_seconds + position.validation_seconds >= budget


def _train_epoch(run: Run, interrupt: Interrupt) -> bool:
    """Train and validate the rest of an epoch; return whether it was completed in time."""
    position, network = run.position, run.task.network
    with closing(run.inputs.training(position.epoch, position.step)) as batches:
        for inputs, numbers in batches:
            _train_step(run, inputs, numbers)
            run.spend()
            run.settle(network.lag)
            _report(run)
            interrupt.check()
            run.save_when_due()
            if _out_of_time(run):
                break
    run.settle(0)
    run.spend()
    trained, complete = position.epoch_seconds, position.step == run.inputs.steps
    run.check_finite(network.state(), STATE)
    current, averaged = network.weights(), network.averages()
    run.check_finite(averaged, "the averaged weights")
    network.load_weights(averaged or current)
    try:
        logits = _validate(run, run.inputs, network.logits, interrupt)
    finally:
        network.load_weights(current)
    position.validation_seconds = run.spend()
    _record(run, logits, averaged or current, trained)
    position.next_epoch()
    run.save()
    run.spend()
    position.epoch_seconds = 0.0  # saving is not part of the next epoch's speed
    return complete


def _train_step(run: Run, inputs: Rows | Views, numbers: Labels) -> None:
    """Train on one batch; `Run.settle` reads what came of it."""
    position, task = run.position, run.task
    labels, mix = task.labels["train"][numbers], run.mix(len(numbers))
    run.unsettled.append((position.step, task.network.step(inputs, labels, _rate(run), mix)))
    position.step += 1
    position.seen += run.inputs.batch
    if task.settings.ema and (position.epoch * run.inputs.steps + position.step) % run.period == 0:
        task.network.average(run.ema.share())


def _stage_progress(run: Run) -> float:
    """Return the progress of the stage, 0 to 1."""
    position, steps = run.position, run.inputs.steps
    done, total = position.epoch * steps + position.step, run.stage.epochs * steps
    return schedules.progress(done, total, position.stage_seconds, position.stage_budget)


def _rate(run: Run) -> float:
    """Return the head's learning rate in the next step."""
    settings = run.task.settings
    factor = schedules.factor(
        settings.schedule,
        _stage_progress(run),
        warm_up=settings.warm_up,
        plateau=run.position.plateau.factor,
    )
    return run.stage.learning_rate * factor


def _report(run: Run) -> None:
    """Report steps and metrics."""
    position, stage, inputs = run.position, run.stage, run.inputs
    steps = position.epoch * inputs.steps + position.step
    run.progress.advance(steps * inputs.batch, stage.epochs * inputs.steps * inputs.batch)
    done = _stage_progress(run)
    seconds_per_work = position.stage_seconds / max(1e-9, done * stage.work)
    later = sum(following.work for following in run.stages[position.stage + 1 :])
    left = seconds_per_work * ((1 - done) * stage.work + later)
    budget = run.task.settings.budget
    if not run.settled:
        return
    run.progress.metrics(
        loss=position.loss / run.settled,
        accuracy=position.correct / run.settled,
        images_per_second=position.seen / max(1e-9, position.epoch_seconds),
        seconds_left=left if budget is None else max(0.0, min(left, budget - position.seconds)),
    )


def _validate(
    run: Run, inputs: Inputs, logits: Callable[[Rows], NDArray[np.float32]], interrupt: Interrupt
) -> NDArray[np.float32]:
    """Return the logits of the validation photos, float32 (M, C)."""
    rows = []
    with closing(inputs.validation()) as batches:
        for batch in batches:
            rows.append(np.asarray(logits(batch), np.float32))
            interrupt.check()
    network, photos = run.task.network, run.task.photos["validation"]
    mine = np.concatenate(rows)[: math.ceil(photos / network.processes)]
    # Photos were dealt out to the processes in turn.
    return network.gather(mine).swapaxes(0, 1).reshape(-1, mine.shape[1])[:photos]


def _record(run: Run, logits: NDArray[np.float32], weights: Arrays, trained: float | None) -> None:
    """Score the logits of these weights, record the epoch, keep the weights if they are best.

    trained: seconds of training in the epoch; None for the score before a stage. Raises
    TrainingError for logits that are not finite.
    """
    position, stage = run.position, run.stage
    if not np.isfinite(logits).all():
        raise run.diverged("the logits of the validation photos became NaN or infinite")
    found = score(logits, run.task.labels["validation"])
    epoch = 0 if trained is None else position.epoch + 1
    made = run.leader.best.trained if trained is None else (position.stage + 1, epoch)
    better = found.log_loss < run.best.best.score.log_loss
    if trained is None or found.log_loss < run.leader.best.score.log_loss:
        best = Best(position.stage + 1, epoch, stage.size, found, logits, made)
        run.leader = run.keep(best, weights)
        position.stale = 0
    else:
        position.stale += 1
    if better:  # and so the stage's best as well
        run.best = run.leader
    entry = Epoch(
        stage=position.stage + 1,
        size=stage.size,
        cut=stage.cut_name,
        epoch=epoch,
        learning_rate=_rate(run),
        loss=position.loss / position.seen if position.seen else None,
        accuracy=position.correct / position.seen if position.seen else None,
        validation_log_loss=found.log_loss,
        validation_accuracy=found.accuracy,
        images_per_second=position.seen / max(1e-9, trained) if trained is not None else None,
        seconds=position.epoch_seconds,
        best=better,
    )
    run.history.append(entry)
    position.plateau = position.plateau.after(found.log_loss)
    run.progress.note(entry.sentence(len(run.stages), stage.epochs))
    highest = max(run.start.accuracy, *(one.validation_accuracy for one in run.history))
    if run.chooses_mixing and not position.mixing and entry.overfits(len(logits), highest):
        position.mixing = True
        mixup, cutmix = run.task.network.mixing
        run.progress.note(
            "training photos are recognised better than validation photos ever were: photos are "
            f"mixed from now on (mixup {mixup:g}, CutMix {cutmix:g})"
        )

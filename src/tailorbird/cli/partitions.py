"""Work in partitions, on a cluster or here: run a job and print its outcome."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from tailorbird.cli import output

if TYPE_CHECKING:
    from tailorbird.cluster.partitions import Job
    from tailorbird.cluster.running import RaySettings
    from tailorbird.cluster.work import Task

FAILURES_EXIT_CODE = 3


def run_job(job: Job, task: Task, where: RaySettings, *, json: bool) -> None:
    """Compute a job's partitions and print where they are; exit 3 if a photo could not be used."""
    from tailorbird.cluster.running import Done, run

    def show(done: Done) -> None:
        if done.failures:
            output.say(
                f"{done.failures:,} of {done.photos:,} photos could not be used: column error"
            )
        if done.resumed:
            output.say(f"{done.resumed:,} of {done.partitions:,} partitions were there already")
        output.line(
            f"wrote {output.printable(done.output)}: {done.photos:,} photos in "
            f"{done.partitions:,} partitions, {done.seconds:,.1f} s"
        )

    with output.ProgressBar() as progress:
        done = run(job, task, where, progress=progress)
    output.print_json_or_text(done, show, json=json)
    raise typer.Exit(FAILURES_EXIT_CODE if done.failures else 0)

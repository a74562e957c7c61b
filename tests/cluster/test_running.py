"""Partitions computed on a cluster are those of one process, whatever happens to a worker."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from support.cluster_tasks import KilledOnce, Refused
from support.data import encoded, picture
from tailorbird.cluster.partitions import Job
from tailorbird.cluster.running import Done, RaySettings, run, share_of
from tailorbird.cluster.work import Features, Predict
from tailorbird.errors import ClusterError, ModelFileError, SettingsError
from tailorbird.inference import DeviceChoice
from tailorbird.model import Classifier, Failure

TWO = RaySettings("local", 2)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Return a folder of 12 photos, one of which is none; names with spaces and umlauts."""
    folder = tmp_path / "größe 1"
    (folder / "b").mkdir(parents=True)
    for number in range(11):
        place = folder / ("b" if number % 3 else ".") / f"photo {number:02d}.jpg"
        place.write_bytes(encoded(picture("disc", number), "JPEG"))
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 nothing more")
    return folder


def table_of(folder: Path) -> pa.Table:
    parts = sorted(folder.glob("part-*.parquet"))
    return pa.concat_tables([parquet.read_table(part) for part in parts])


def test_a_cluster_gives_the_answers_of_one_process(
    cluster: Any, photos: Path, trained: Path, tmp_path: Path
) -> None:
    task = Predict.of(trained, top=2)
    here = run(Job([str(photos)], str(tmp_path / "here"), rows=5), task)
    there = run(Job([str(photos)], str(tmp_path / "there"), rows=5), task, TWO)
    assert (here.photos, here.failures, here.partitions) == (12, 1, 3)
    assert (there.photos, there.failures, there.workers) == (12, 1, 2)
    found = table_of(tmp_path / "there")
    assert found.equals(table_of(tmp_path / "here"))
    rows = {row["path"]: row for row in found.to_pylist()}
    for answer in Classifier(trained).stream(sorted(photos.rglob("*.jpg"))):
        row = rows[str(answer.path)]
        if isinstance(answer, Failure):
            assert row["error"] == str(answer.error) and row["label"] is None
        else:
            assert row["probability"] == answer.probability
            assert row["label"] == answer.label and row["error"] is None


def test_features_on_a_cluster_are_those_of_one_process(
    cluster: Any, photos: Path, tmp_path: Path
) -> None:
    task = Features.of("pocket", mirror=True)
    run(Job([str(photos)], str(tmp_path / "here"), rows=5), task)
    run(Job([str(photos)], str(tmp_path / "there"), rows=5), task, TWO)
    assert table_of(tmp_path / "there").equals(table_of(tmp_path / "here"))


def test_a_killed_worker_costs_its_partition_only(
    cluster: Any, photos: Path, trained: Path, tmp_path: Path
) -> None:
    task = Predict.of(trained)
    run(Job([str(photos)], str(tmp_path / "here"), rows=1), task)
    mark = tmp_path / "killed"
    killed = KilledOnce(task.model, mark=str(mark))
    done = run(Job([str(photos)], str(tmp_path / "there"), rows=1), killed, TWO)
    assert mark.exists() and done.partitions == 12
    assert table_of(tmp_path / "there").equals(table_of(tmp_path / "here"))


def test_a_second_run_computes_the_missing_partitions_only(
    photos: Path, trained: Path, tmp_path: Path
) -> None:
    job = Job([str(photos)], str(tmp_path / "out"), rows=5)
    task = Predict.of(trained)
    run(job, task)
    whole = table_of(tmp_path / "out")
    kept = (tmp_path / "out" / "part-00000.parquet").stat().st_mtime_ns
    (tmp_path / "out" / "part-00001.parquet").unlink()
    done = run(job, task)
    assert (done.resumed, done.failures, done.partitions) == (2, 1, 3)
    assert (tmp_path / "out" / "part-00000.parquet").stat().st_mtime_ns == kept
    assert table_of(tmp_path / "out").equals(whole)
    again = run(job, task)
    assert (again.resumed, again.failures) == (3, 1)


def test_other_photos_or_settings_are_refused(photos: Path, trained: Path, tmp_path: Path) -> None:
    job = Job([str(photos)], str(tmp_path / "out"), rows=5)
    run(job, Predict.of(trained))
    with pytest.raises(SettingsError, match="top 3, now 2"):
        run(job, Predict.of(trained, top=2))
    with pytest.raises(SettingsError, match="partition_rows 5, now 6"):
        run(Job([str(photos)], job.output, rows=6), Predict.of(trained))
    (photos / "new.jpg").write_bytes(encoded(picture("disc", 99), "JPEG"))
    with pytest.raises(SettingsError, match="photos 12, now 13"):
        run(job, Predict.of(trained))


def test_errors_of_workers_are_raised_here(
    cluster: Any, photos: Path, trained: Path, tmp_path: Path
) -> None:
    model = trained.read_bytes()
    job = Job([str(photos)], str(tmp_path / "out"), rows=5)
    with pytest.raises(ModelFileError, match=r"^no such model here$"):
        run(job, Refused(model), TWO)
    with pytest.raises(ClusterError, match="ZeroDivisionError: a mistake"):
        run(job, Refused(model, mistake=True), TWO)


def test_progress_and_the_summary_count_photos(photos: Path, trained: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []

    class Watching:
        def stage(self, name: str, total: int | None = None) -> None: ...

        def advance(self, done: int, total: int) -> None:
            seen.append((done, total))

        def note(self, text: str) -> None: ...

        def metrics(self, **values: float) -> None: ...

    job = Job([str(photos)], str(tmp_path / "out"), rows=5)
    done = run(job, Predict.of(trained), progress=Watching())
    assert seen == [(0, 12), (5, 12), (10, 12), (12, 12)]
    assert isinstance(done, Done) and json.dumps(done.as_dict())


def test_a_worker_has_a_core_or_a_gpu_with_its_part_of_the_cores() -> None:
    cluster = {"CPU": 16.0, "GPU": 4.0, "memory": 1e9}
    assert share_of(cluster, DeviceChoice("auto")) == (4, 4, 1)
    assert share_of(cluster, DeviceChoice("cuda")) == (4, 4, 1)
    assert share_of(cluster, DeviceChoice("cpu")) == (16, 1, 0)
    assert share_of({"CPU": 3.0}, DeviceChoice("auto")) == (3, 1, 0)
    assert share_of({"CPU": 1.0, "GPU": 2.0}, DeviceChoice("auto")) == (2, 1, 1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"address": "nowhere"}, "must be local, auto, or HOST:PORT"),
        ({"address": "local", "workers": 0}, "workers is 0"),
        ({"workers": 2}, "add --ray"),
    ],
)
def test_invalid_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        RaySettings(**settings)

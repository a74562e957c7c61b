"""Backbones from the Hugging Face hub: download, adapt, keep.

    hf:OWNER/REPO[@REVISION][:PATH/IN/REPO.onnx]

huggingface_hub does the downloading: its cache (HF_HOME), mirrors (HF_ENDPOINT), tokens (HF_TOKEN) and offline mode
(HF_HUB_OFFLINE) work as everywhere else.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path, PurePosixPath
from typing import Any

from tailorbird import onnx_files
from tailorbird.backbone import published
from tailorbird.backbone.adapt import ADAPTER, adapt
from tailorbird.backbone.catalogue import SHIPPED, SUFFIX
from tailorbird.backbone.catalogue import folder as catalogue_folder
from tailorbird.backbone.reference import Reference, choose, parse
from tailorbird.errors import BackboneError, HubError, StorageError, TailorbirdError
from tailorbird.files import sha256_file, write_bytes
from tailorbird.inference import first_line

_SMALL_FILES = ("preprocessor_config.json", "processor_config.json", "config.json", "README.md")


@dataclass(frozen=True)
class _Snapshot:
    """A repository at one commit. `files` maps paths to bytes, None where the size is not known."""

    commit: str
    files: dict[str, int | None]
    offline: bool


def pull(
    reference: str,
    *,
    size: int | None = None,
    file: str | None = None,
    revision: str | None = None,
    folder: Path | None = None,
    say: Callable[[str], None] | None = None,
) -> Path:
    """Download a network, adapt it to a backbone and keep it in `folder` (by default the catalogue); the path of its file.

    reference: `hf:OWNER/REPO[@REVISION][:PATH.onnx]`. size: the side of the square input in pixels; by default the publisher's.
    file, revision: the same as in the reference. say: called with a line on each step. What was pulled before and has not changed
    on the hub is at hand at once, also without a connection.

    Raises SettingsError (reference, size), BackboneError (the network is not understood), HubError (the download failed),
    StorageError (disk full), MissingExtra (timm:).
    """
    wanted, say = parse(reference, file=file, revision=revision), say or (lambda _: None)
    folder = folder or catalogue_folder()
    kept = _kept(folder, wanted, size)
    if kept and kept[1]["revision"] == wanted.revision:  # a commit, which cannot change
        say(f"{kept[0].name} is at hand")
        return kept[0]
    with _translated(wanted, folder):
        try:
            snapshot = _look(wanted)
        except Exception as error:
            if kept is None or not _unreachable(error):
                raise
            snapshot = _Snapshot(kept[1]["revision"], {}, offline=True)
        if kept and kept[1]["revision"] == snapshot.commit:
            say(
                f"{kept[0].name} is at hand"
                + (
                    "; the hub cannot be reached, it may have a newer version"
                    if snapshot.offline
                    else ""
                )
            )
            return kept[0]
        name = choose(wanted, snapshot.files)
        small = {
            entry: _download(wanted, snapshot, entry, say)
            for entry in _SMALL_FILES
            if entry in snapshot.files
        }
        config = _json(small.get("config.json"))
        preprocessor = _preprocessor(wanted, small, config)
        path = _download(wanted, snapshot, name, say)
        for other in published.external_files(path):
            _download(wanted, snapshot, str(PurePosixPath(name).parent / other), say)
    say(f"adapting {name}")
    about = {
        "source": f"hf:{wanted.repo_id}",
        "revision": snapshot.commit,
        "file": name,
        "sha256": sha256_file(path),
        "pulled_as": _request(wanted, size),
        "adapted_by": f"tailorbird {_version()}",
        **_card(small.get("README.md")),
    }
    target = _target(folder, wanted, name, size)
    about["name"] = target.name.removesuffix(SUFFIX)
    model = adapt(path, preprocessor, config=config, size=size, about=about)
    write_bytes(target, model.SerializeToString())
    say(f"{target.name} is at hand; licence: {about['licence']}")
    return target


def _look(wanted: Reference) -> _Snapshot:
    """The commit and the files of a repository: from the hub, or from the download cache when the hub cannot be reached."""
    try:
        info = _api().model_info(wanted.repo_id, revision=wanted.revision, files_metadata=True)
    except Exception as error:
        root = _cached(wanted) if _unreachable(error) else None
        if root is None:
            raise
        names = [path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()]
        return _Snapshot(root.name, dict.fromkeys(names), offline=True)
    return _Snapshot(
        info.sha or "",
        {entry.rfilename: entry.size for entry in info.siblings or []},
        offline=False,
    )


def _cached(wanted: Reference) -> Path | None:
    """The folder of the download cache that holds this revision, if any of its files was downloaded before."""
    import huggingface_hub

    for name in _SMALL_FILES:
        path = huggingface_hub.try_to_load_from_cache(
            wanted.repo_id, name, revision=wanted.revision
        )
        if isinstance(path, str):
            return Path(path).parent
    return None


def _download(
    wanted: Reference, snapshot: _Snapshot, name: str, say: Callable[[str], None]
) -> Path:
    """One file of the repository, from the hub or the download cache."""
    if name not in snapshot.files:
        where = "the download cache has" if snapshot.offline else f"{wanted.repo_id} has"
        raise HubError(
            f"{where} no file {name}, which the network needs; it was published incomplete, or not all of it was downloaded"
        )
    size = snapshot.files[name] or 0
    if size > published.MOST_BYTES:
        raise BackboneError(
            f"{name} is {size / 1e9:.1f} GB; at most {published.MOST_BYTES / 1e9:.1f} GB fit into one backbone file"
        )
    if name not in _SMALL_FILES:
        say(f"downloading {name}" + (f", {size / 1e6:.1f} MB" if size else ""))
    # By the revision's own name, so that the cache knows it again without a connection.
    path = _api().hf_hub_download(
        wanted.repo_id, name, revision=wanted.revision, local_files_only=snapshot.offline
    )
    commit = Path(path).parents[len(PurePosixPath(name).parts) - 1].name
    if commit != snapshot.commit:
        raise HubError(
            f"{wanted.repo_id} changed while it was downloaded ({snapshot.commit[:12]} became {commit[:12]}); run the command again"
        )
    return Path(path)


def _json(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as problem:
        raise BackboneError(f"{path.name} of the repository is not JSON: {problem}") from None
    if not isinstance(read, dict):
        raise BackboneError(f"{path.name} of the repository holds no JSON object")
    return read


def _preprocessor(
    wanted: Reference, small: Mapping[str, Path], config: Mapping[str, Any]
) -> dict[str, Any]:
    """How the publisher prepares pixels. Raises BackboneError when the repository does not say."""
    for name in ("preprocessor_config.json", "processor_config.json"):
        read = _json(small.get(name))
        if (read and name == "preprocessor_config.json") or "image_processor" in read:
            return read
    if "pretrained_cfg" in config:  # timm keeps it in config.json
        return {}
    raise BackboneError(
        f"{wanted.repo_id} has no preprocessor_config.json, so it is not known how its pixels are to be prepared; "
        "take another repository of the same network that has one, for example under onnx-community or Xenova"
    )


def _card(readme: Path | None) -> dict[str, str]:
    """Licence, training data and base model as the model card's header states them."""
    said: dict[str, Any] = {}
    if readme is not None:
        from huggingface_hub import metadata_load

        with contextlib.suppress(Exception):  # a header that is no YAML states nothing
            said = metadata_load(readme) or {}
    licence = said.get("license") or "unknown"
    if licence == "other" and said.get("license_name"):
        licence = said["license_name"]
    if said.get("license_link"):
        licence = f"{licence} ({said['license_link']})"
    card = {
        "licence": _joined(licence),
        "trained_on": _joined(said.get("datasets") or "not stated"),
    }
    if said.get("base_model"):
        card["base_model"] = _joined(said["base_model"])
    return card


def _joined(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _request(wanted: Reference, size: int | None) -> str:
    return str(wanted) + (f" size={size}" if size else "")


def _stem(text: str) -> str:
    """A part of a file name that is safe everywhere."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip(".-") or "backbone"


def _target(folder: Path, wanted: Reference, file: str, size: int | None) -> Path:
    """Where the backbone is kept; the owner is part of the name only when another owner's has the short one."""
    variant = re.sub(r"^(vision_)?model[_.-]?", "", PurePosixPath(file).stem)
    revision = "" if wanted.revision in (None, "main") else str(wanted.revision)
    if re.fullmatch(r"[0-9a-f]{40}", revision):
        revision = revision[:12]
    name = "-".join(
        _stem(part[:60]) for part in (wanted.repo, variant, revision, str(size or "")) if part
    )
    short = folder / f"{name}{SUFFIX}"
    if name != SHIPPED and (
        not short.exists() or _metadata(short).get("source") == f"hf:{wanted.repo_id}"
    ):
        return short
    return folder / f"{_stem(wanted.owner)}--{name}{SUFFIX}"


def _kept(folder: Path, wanted: Reference, size: int | None) -> tuple[Path, dict[str, str]] | None:
    """The file an equal request led to before, and its metadata."""
    for path in sorted(folder.glob(f"*{_stem(wanted.repo[:60])}*{SUFFIX}")):
        said = _metadata(path)
        if (
            said.get("pulled_as") == _request(wanted, size)
            and said.get("adapter") == str(ADAPTER)
            and "revision" in said
        ):
            return path, said
    return None


def _metadata(path: Path) -> dict[str, str]:
    """A kept backbone's metadata; none when the file is damaged, which a new pull then replaces."""
    try:
        return onnx_files.metadata(onnx_files.read_audited(path, BackboneError))
    except BackboneError:
        return {}


def _version() -> str:
    try:
        return metadata.version("tailorbird")
    except metadata.PackageNotFoundError:  # run from a checkout
        return "(not installed)"


def _api() -> Any:
    import huggingface_hub

    return huggingface_hub.HfApi(library_name="tailorbird", library_version=_version())


def _unreachable(error: Exception) -> bool:
    """Whether the hub could not be asked: no connection, offline mode, or the hub itself is down."""
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    if isinstance(error, HfHubHTTPError):
        return bool(error.response.status_code >= 500)
    # Its first base is the HTTP library's own error, whichever library the installed huggingface_hub uses.
    return isinstance(
        error,
        (
            OfflineModeIsEnabled,
            LocalEntryNotFoundError,
            ConnectionError,
            TimeoutError,
            HfHubHTTPError.__bases__[0],
        ),
    )


@contextlib.contextmanager
def _translated(wanted: Reference, folder: Path) -> Iterator[None]:
    """Turn what huggingface_hub raises into errors that say what to do."""
    from huggingface_hub import constants, errors

    try:
        yield
    except TailorbirdError:
        raise
    except errors.GatedRepoError:
        raise HubError(
            f"{wanted.repo_id} is gated: open {constants.ENDPOINT}/{wanted.repo_id} in a browser, accept its terms, then set HF_TOKEN to a "
            "token of that account (or run `hf auth login`) and run the command again"
        ) from None
    except errors.RepositoryNotFoundError:
        raise HubError(
            f"{constants.ENDPOINT} has no repository {wanted.repo_id}, or it is private; check the name, or set HF_TOKEN to a token that may "
            "read it (or run `hf auth login`)"
        ) from None
    except errors.RevisionNotFoundError:
        raise HubError(
            f"{wanted.repo_id} has no revision {wanted.revision!r}; give a branch, a tag or a commit, or leave it out"
        ) from None
    except Exception as error:
        raise _in_words(error, wanted, folder, constants) from error


def _in_words(error: Exception, wanted: Reference, folder: Path, constants: Any) -> TailorbirdError:
    """What else may go wrong in a download."""
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError

    if isinstance(error, LocalEntryNotFoundError) and isinstance(error.__cause__, Exception):
        error = error.__cause__  # "not in the cache" hides why the hub was of no help
    if _unreachable(error):
        if constants.HF_HUB_OFFLINE:
            reason = f"HF_HUB_OFFLINE is set and the download cache {constants.HF_HUB_CACHE} does not hold it: unset it, set HF_HOME"
        else:
            reason = f"{constants.ENDPOINT} cannot be reached ({first_line(error)}): check the connection, set HF_ENDPOINT to a mirror"
        return HubError(
            f"{wanted} could not be downloaded: {reason}, or run the same command on a connected machine and copy the file it makes in "
            f"{folder} here, then use it with --backbone FILE.onnx"
        )
    if isinstance(error, EntryNotFoundError):
        return HubError(
            f"{wanted.repo_id} lists a file that cannot be downloaded: {first_line(error)}; run the command again"
        )
    if isinstance(error, HfHubHTTPError):
        status = error.response.status_code
        advice = (
            "set HF_TOKEN to a token that may read it (or run `hf auth login`)"
            if status in (401, 403)
            else "wait a while, then run again"
        )
        return HubError(
            f"{wanted} could not be downloaded: the hub answered {status} ({first_line(error)}); {advice}"
        )
    if isinstance(error, OSError) and error.errno is not None:
        return StorageError(
            f"{wanted} could not be stored in the download cache {constants.HF_HUB_CACHE}: {error.strerror}; "
            "free some space, or set HF_HOME to another disk, and run again"
        )
    return HubError(
        f"{wanted} could not be downloaded: {type(error).__name__}: {first_line(error)}; run the command again"
    )

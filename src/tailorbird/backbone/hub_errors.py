"""Translate the exceptions of huggingface_hub into errors that say what to do."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from tailorbird.backbone.reference import Reference
from tailorbird.errors import HubError, StorageError, TailorbirdError
from tailorbird.inference import first_line

_LOG_IN = "(or run `hf auth login`)"


def is_unreachable(error: Exception) -> bool:
    """Return whether there is no connection, offline mode is set, or the hub itself is down."""
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    if isinstance(error, HfHubHTTPError):
        return bool(error.response.status_code >= 500)
    # The first base is the HTTP library's own error, whichever one huggingface_hub uses.
    http_error = HfHubHTTPError.__bases__[0]
    offline = (OfflineModeIsEnabled, LocalEntryNotFoundError)
    return isinstance(error, (*offline, ConnectionError, TimeoutError, http_error))


@contextlib.contextmanager
def translated(wanted: Reference, folder: Path) -> Iterator[None]:
    """Raise HubError or StorageError for exceptions of huggingface_hub in the block.

    Args:
        wanted: The network that is pulled.
        folder: Where the backbone will be kept.
    """
    try:
        yield
    except TailorbirdError:
        raise
    except Exception as error:
        raise translate(error, wanted, folder) from error


def translate(error: Exception, wanted: Reference, folder: Path) -> TailorbirdError:
    """Return the error to raise for an exception of huggingface_hub."""
    from huggingface_hub import constants
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError

    repository = _repository_error(error, wanted)
    if repository is not None:
        return repository
    if isinstance(error, LocalEntryNotFoundError) and isinstance(error.__cause__, Exception):
        error = error.__cause__  # "not in the cache" hides why the hub could not be used
    if is_unreachable(error):
        return _unreachable(error, wanted, folder)
    if isinstance(error, EntryNotFoundError):
        return HubError(
            f"{wanted.repo_id} lists a file that cannot be downloaded: {first_line(error)}; "
            "run the command again"
        )
    if isinstance(error, HfHubHTTPError):
        status = error.response.status_code
        advice = "wait a while, then run again"
        if status in (401, 403):
            advice = f"set HF_TOKEN to a token that may read it {_LOG_IN}"
        return HubError(
            f"{wanted} could not be downloaded: the hub answered {status} ({first_line(error)}); "
            f"{advice}"
        )
    if isinstance(error, OSError) and error.errno is not None:
        return StorageError(
            f"{wanted} could not be stored in the download cache {constants.HF_HUB_CACHE}: "
            f"{error.strerror}; free some space, or set HF_HOME to another disk, and run again"
        )
    return HubError(
        f"{wanted} could not be downloaded: {type(error).__name__}: {first_line(error)}; "
        "run the command again"
    )


def _repository_error(error: Exception, wanted: Reference) -> HubError | None:
    """Return the error if the repository is gated, private, or has no such revision."""
    from huggingface_hub import constants, errors

    if isinstance(error, errors.GatedRepoError):
        return HubError(
            f"{wanted.repo_id} is gated: open {constants.ENDPOINT}/{wanted.repo_id} in a browser, "
            f"accept its terms, then set HF_TOKEN to a token of that account {_LOG_IN} and run the "
            "command again"
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return HubError(
            f"{constants.ENDPOINT} has no repository {wanted.repo_id}, or it is private; check the "
            f"name, or set HF_TOKEN to a token that may read it {_LOG_IN}"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return HubError(
            f"{wanted.repo_id} has no revision {wanted.revision!r}; "
            "give a branch, a tag or a commit, or leave it out"
        )
    return None


def _unreachable(error: Exception, wanted: Reference, folder: Path) -> HubError:
    from huggingface_hub import constants

    reason = (
        f"{constants.ENDPOINT} cannot be reached ({first_line(error)}): check the connection, set "
        "HF_ENDPOINT to a mirror"
    )
    if constants.HF_HUB_OFFLINE:
        reason = (
            f"HF_HUB_OFFLINE is set and the download cache {constants.HF_HUB_CACHE} does not hold "
            "it: unset it, set HF_HOME"
        )
    return HubError(
        f"{wanted} could not be downloaded: {reason}, or run the same command on a connected "
        f"machine and copy the file it makes in {folder} here, then use it with "
        "--backbone FILE.onnx"
    )

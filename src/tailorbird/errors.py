"""Every error tailorbird raises on purpose.

    TailorbirdError
    ├── InputError            what was given cannot be used; the command line exits 2
    │   ├── ImageError        one photo cannot be used
    │   │   ├── UnsupportedImage   a format that is not accepted (SVG, TIFF, HEIC, PDF, text, ...)
    │   │   ├── UnreadableImage    an accepted format, but empty, truncated or damaged; or no permission
    │   │   ├── ImageTooLarge      more pixels than the cap, known from the header alone
    │   │   └── NotExplained       no heat map of the class asked for: it is not among the photo's most probable ones
    │   ├── DatasetError      a folder or CSV that holds nothing to learn from
    │   ├── BackboneError     an ONNX file that does not keep the backbone's contract
    │   ├── ModelFileError    a model file that is damaged, unsafe or of an unknown format
    │   └── SettingsError     an option outside its valid range
    └── RunError              the input was fine, the run was not; the command line exits 1
        ├── StorageError      a file could not be written, a database could not be reached
        │   └── StorageFull        the disk, or the database's disk, is full
        ├── HubError          a download failed
        ├── TrainingError     the loss became non-finite, the finished file disagreed with the pipeline
        └── MissingExtra      an optional dependency is not installed

A message says what was wrong, with which value, what would be valid, and the likely fix. This module imports nothing.
"""

from __future__ import annotations


class TailorbirdError(Exception):
    """Base of every error raised on purpose. `exit_code` is what the command line exits with."""

    exit_code = 1


class InputError(TailorbirdError):
    """What was given cannot be used."""

    exit_code = 2


class ImageError(InputError):
    """One photo cannot be used. `kind` is the finding's kind in `scan --json`."""

    kind = "unreadable"


class UnsupportedImage(ImageError):
    """The content is not one of the accepted image formats."""

    kind = "unsupported"


class UnreadableImage(ImageError):
    """The format is accepted, but the file is empty, truncated, damaged or not permitted to be read."""


class ImageTooLarge(ImageError):
    """The header announces more pixels than the cap."""

    kind = "too-large"


class NotExplained(ImageError):
    """The class asked for is not among the photo's three most probable ones, the only ones a model file gives heat maps of."""


class DatasetError(InputError):
    """A folder or CSV that holds nothing to learn from."""


class BackboneError(InputError):
    """An ONNX file that does not keep the backbone's contract."""


class ModelFileError(InputError):
    """A model file that is damaged, unsafe or of an unknown format."""


class SettingsError(InputError):
    """An option outside its valid range. Several problems found together are reported together."""


class RunError(TailorbirdError):
    """The input was fine, the run was not."""


class StorageError(RunError):
    """A file could not be written, or a database could not be reached or stayed locked."""


class StorageFull(StorageError):
    """The disk, a quota or the database's own disk is full. Nothing that was stored before is lost."""


class HubError(RunError):
    """A download failed."""


class TrainingError(RunError):
    """The loss became non-finite, or the finished model file disagreed with the pipeline that made it."""


class MissingExtra(RunError):
    """An optional dependency is not installed; the message names the extra."""

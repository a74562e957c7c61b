"""The exceptions that tailorbird raises on purpose.

    TailorbirdError
    ├── InputError            the input is invalid; the command line exits 2
    │   ├── ImageError        one photo cannot be used
    │   │   ├── UnsupportedImage   the format is not accepted (SVG, PDF, text, ...)
    │   │   ├── UnreadableImage    an accepted format, but empty, damaged or not permitted
    │   │   ├── ImageTooLarge      the header announces more pixels than allowed
    │   │   └── NotExplained       the requested class has no heat map
    │   ├── DatasetError      a folder or CSV is not a usable dataset
    │   ├── BackboneError     an ONNX file does not satisfy the backbone contract
    │   ├── ModelFileError    a model file is damaged, unsafe or of an unknown format
    │   └── SettingsError     an option is outside its valid range
    └── RunError              the input was valid, the run failed; the command line exits 1
        ├── StorageError      a file could not be written, a database could not be reached
        │   └── StorageFull        the disk, or the database's disk, is full
        ├── HubError          a download failed
        ├── ClusterError      a Ray cluster could not be used, or work on it failed
        ├── TrainingError     the loss became non-finite, or the written model disagreed
        └── MissingExtra      an optional dependency is not installed

A message states what was wrong, with which value, what is valid, and what to do. This module
imports nothing.
"""

from __future__ import annotations


class TailorbirdError(Exception):
    """Base of all exceptions raised on purpose. `exit_code` is the command line's exit code."""

    exit_code = 1


class InputError(TailorbirdError):
    """The input is invalid."""

    exit_code = 2


class ImageError(InputError):
    """One photo cannot be used. `kind` is the kind of the finding in `scan --json`."""

    kind = "unreadable"


class UnsupportedImage(ImageError):
    """The content is not one of the accepted image formats."""

    kind = "unsupported"


class UnreadableImage(ImageError):
    """The format is accepted, but the file is empty, damaged or not readable by this user."""


class ImageTooLarge(ImageError):
    """The header announces more pixels than allowed."""

    kind = "too-large"


class NotExplained(ImageError):
    """The requested class has no heat map: it is not among the three most probable ones."""


class DatasetError(InputError):
    """A folder or CSV is not a usable dataset of labelled photos."""


class BackboneError(InputError):
    """An ONNX file does not satisfy the backbone contract."""


class ModelFileError(InputError):
    """A model file is damaged, unsafe or of an unknown format."""


class SettingsError(InputError):
    """Options are invalid. Problems that are found together are reported together."""


class RunError(TailorbirdError):
    """The input was valid, but the run failed."""


class StorageError(RunError):
    """A file could not be written, or a database could not be reached or stayed locked."""


class StorageFull(StorageError):
    """The disk, a quota or the database's disk is full. Nothing stored before is lost."""


class HubError(RunError):
    """A download failed."""


class ClusterError(RunError):
    """A Ray cluster could not be started or reached, or work on it failed."""


class TrainingError(RunError):
    """The loss became non-finite, or the written model file disagreed with the pipeline."""


class MissingExtra(RunError):
    """An optional dependency is not installed; the message names the extra."""

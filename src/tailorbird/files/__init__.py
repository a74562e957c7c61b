"""Atomic writes, hashing, locks, the cache folder and the chunked row store."""

from tailorbird.files.atomic import (
    atomic_path,
    sha256_file,
    storage_error,
    sync_folder,
    write_bytes,
    write_text,
)
from tailorbird.files.cache import cache_folder
from tailorbird.files.lock import exclusive
from tailorbird.files.spreadsheets import csv_text, exact_cell, formula_safe
from tailorbird.files.store import RowStore

__all__ = [
    "RowStore",
    "atomic_path",
    "cache_folder",
    "csv_text",
    "exact_cell",
    "exclusive",
    "formula_safe",
    "sha256_file",
    "storage_error",
    "sync_folder",
    "write_bytes",
    "write_text",
]

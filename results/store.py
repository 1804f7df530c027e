"""Where records are kept: one JSON file each, ``<root>/<table>/<cell id>.json``. The file is the source of truth."""

from __future__ import annotations

import errno
import gc
import json
import logging
import math
import os
import re
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pydantic_core

from qexp.conf.errors import DiskFullError, RunError, UserError
from qexp.results.schema import RECORD_VERSION, Record
from qexp.results.select import check_keys, matches

CELL_ID = re.compile(r"[0-9a-f]{16}")
NOT_TABLES = ("cache", "sweeps", "trained", "wandb")
"""Folders of a results folder that hold no records."""
FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

log = logging.getLogger("qexp")


def to_json(record: Record) -> str:
    """The record as strict JSON text, on which every reader agrees: NaN and infinities are written as ``null``."""
    return json.dumps(_finite(record.to_dict()), indent=1, allow_nan=False, ensure_ascii=False) + "\n"


class OtherVersion(ValueError):
    """A record that another version of qexp wrote. It is no damage, but its figures are not comparable."""


def from_json(content: str | bytes) -> Record:
    """Inverse of :func:`to_json`; a metric's ``null`` is read as NaN.

    pydantic's parser takes half the time of :mod:`json`, and reading is what a table of many records costs most.

    Raises:
        OtherVersion: if the record's version is not this one's. ValueError: if it is no record.
    """
    try:
        data = pydantic_core.from_json(content)
        if data["version"] != RECORD_VERSION:
            raise OtherVersion(f"record version {data['version']}, this qexp reads {RECORD_VERSION}")
        for metric in (m for by_name in data["metrics"].values() for m in by_name.values()):
            metric["value"] = math.nan if metric["value"] is None else float(metric["value"])
    except (TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError(f"not a qexp record: {error!r}") from error
    return Record.from_dict(data)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value


class Store:
    """The records below ``root``. Writing is atomic, so several processes may share a folder without locks.

    What cannot be read is reported through the ``qexp`` logger in one line, and never used.
    """

    def __init__(self, root: Path):
        self.root = Path(root)

    def path(self, table: str, cell_id: str) -> Path:
        return self._folder(table) / f"{_checked(cell_id)}.json"

    def files(self, table: str, cell_id: str) -> Path:
        """The folder for what belongs to a record (pictures), beside its JSON. It is made by whoever writes there."""
        return self._folder(table) / _checked(cell_id)

    def _folder(self, table: str) -> Path:
        if not re.fullmatch(r"[\w][\w.+-]*", table) or table in NOT_TABLES:
            reserved = ", ".join(NOT_TABLES)
            raise UserError(f"table={table} is no folder name: letters, digits, . _ + - and none of {reserved}")
        return self.root / table

    def check_writable(self) -> None:
        """Raise ``UserError`` now if a record could not be saved later: better before the training than after it."""
        probe = self.root / f".{uuid.uuid4().hex}.tmp"
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            _write(probe, "")
        except OSError as error:
            raise cannot_write(self.root, error) from error
        finally:
            _remove(probe)

    def save(self, record: Record) -> Path:
        """Write ``record`` under its table (``config["table"]``) and return its path. The old file stays until the end.

        Raises:
            UserError: if the folder cannot be written. RunError: if the disk is full.
        """
        path = self.path(record.config.get("table", "adhoc"), record.cell_id)
        temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _write(temporary, to_json(record))
            os.replace(temporary, path)
            _sync_folder(path.parent)
        except OSError as error:
            raise cannot_write(path.parent, error) from error
        finally:
            _remove(temporary)
        return path

    def load(self, cell_id: str, table: str | None = None) -> Record | None:
        """The readable record of this id and of this version: ``table``'s if it has it, else whichever table's."""
        paths = sorted(self._paths(f"{_checked(cell_id)}.json"), key=lambda path: path.parent.name != table)
        return next(self._read(paths), None)

    def find(self, prefix: str) -> Record:
        """The one record whose id begins with ``prefix``, as a user types it.

        Raises:
            UserError: if there is none, or more than one.
        """
        found = {path.stem for path in self._paths("*.json") if path.stem.startswith(prefix)}
        if len(found) > 1:
            raise UserError(f"{prefix!r} is the beginning of {len(found)} records: {', '.join(sorted(found)[:4])}")
        record = self.load(found.pop()) if found else None
        if record is None:
            raise UserError(f"no record in {self.root} begins with {prefix!r}; `qexp table` shows what is there")
        return record

    def query(self, where: Mapping[str, Any] | None = None) -> list[Record]:
        """All readable records whose configuration has these values, one a cell, ordered by table and id.

        Keys are dotted (``train.learning_rate``); a group stands for its name (``model``), see
        :func:`qexp.results.select.matches`. Raises ``UserError`` for a key that no record has.
        """
        with collector_paused():
            records = list(self._read(self._paths("*.json")))
        check_keys(records, where or {})
        found: dict[str, Record] = {}
        for record in records:
            if matches(record, where or {}):
                _tell_unlike(found.setdefault(record.cell_id, record), record)
        return list(found.values())

    def _paths(self, pattern: str) -> list[Path]:
        paths = (path for path in self.root.glob(f"*/{pattern}") if path.parent.name not in NOT_TABLES)
        return sorted(path for path in paths if CELL_ID.fullmatch(path.stem))

    def _read(self, paths: list[Path]) -> Iterator[Record]:
        stale = 0
        for path in paths:
            try:
                record = from_json(path.read_bytes())
                if record.cell_id != path.stem:
                    raise ValueError(f"it holds the record of {record.cell_id}")
            except OtherVersion:
                stale += 1
            except ValueError as error:
                _set_aside(path, error)
            except FileNotFoundError:
                pass  # taken away since the folder was listed
            except OSError as error:
                raise UserError(f"cannot read {path}: {error.strerror}") from error
            else:
                yield replace(record, folder=path.parent)
        if stale:
            log.warning("%d record(s) in %s are another qexp version's and not used; run them again", stale, self.root)


@contextmanager
def collector_paused() -> Iterator[None]:
    """For reading many records or composing many cells: they have no cycles, and the search for some takes its time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _tell_unlike(used: Record, other: Record) -> None:
    """Warn of a second record of a cell that has other figures: a copy under another table has the same."""
    if used is not other and _finite(used.to_dict()["metrics"]) != _finite(other.to_dict()["metrics"]):
        tables = [record.config.get("table") for record in (used, other)]
        log.warning("cell %s has unlike figures in tables %s and %s; the first is used", used.cell_id, *tables)


def _checked(cell_id: str) -> str:
    if not CELL_ID.fullmatch(cell_id):
        raise ValueError(f"a cell id is 16 hexadecimal digits, not {cell_id!r}")
    return cell_id


def _write(path: Path, content: str) -> None:
    with path.open("x", encoding="utf-8") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    """Make the rename itself survive a power cut, where the system can (Windows opens no folders)."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(path: Path) -> None:
    with suppress(OSError):
        path.unlink(missing_ok=True)


def cannot_write(folder: Path, error: OSError) -> UserError | RunError:
    """What to raise instead of ``error``, in one line that says what to do about it."""
    if error.errno in FULL_DISK:
        return DiskFullError(
            f"cannot write to {folder}: the disk is full; free some space and run the same command again"
        )
    return UserError(f"cannot write to {folder}: {error.strerror}; choose another folder with results_dir=…")


def _set_aside(path: Path, error: ValueError) -> None:
    aside = path.with_name(f"{path.name}.corrupt")
    try:
        os.replace(path, aside)
    except OSError:
        log.warning("record %s cannot be read and is not used: %s", path, _one_line(error))
    else:
        log.warning("record %s cannot be read and was renamed to %s: %s", path, aside.name, _one_line(error))


def _one_line(error: ValueError) -> str:
    return " ".join(str(error).split())[:200]

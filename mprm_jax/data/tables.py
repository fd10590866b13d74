"""Tables of records, as Hugging Face's datasets keep them, read as JSON lines."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from mprm_jax.records.problems import DataError

TABLES = (".parquet", ".arrow")

# Single precision, as a type prints.
_SINGLE = re.compile(r"\bfloat\b")

# Rows that are decoded together: pictures may lie in them.
_ROWS = 256


def table_lines(path: Path) -> io.RawIOBase:
    """The rows of a table as JSON lines, in a stream that seeks forward.

    Texts and numbers are as they were, single precision as it prints, and bytes that
    are text are text; of others, such as a picture's, only how many there are is said.
    A null that is not a column's is left out.

    Args:
        path: a Parquet file, or an Arrow file or stream.

    Raises:
        DataError: pyarrow is not installed, or the file is no such table.
    """
    try:
        import pyarrow as pa
    except ImportError:
        raise DataError(
            f"{path}: needs the parquet extra: pip install 'mprm-jax[parquet]'"
        ) from None
    try:
        batches = _parquet(path) if path.suffix == ".parquet" else _arrow(path)
        return _Lines(path, _lines(batches))
    except (pa.ArrowException, OSError, OverflowError, ValueError) as error:
        # Damage is an OSError without a number, too, or text that is no UTF-8.
        if getattr(error, "errno", None) is not None:
            raise
        raise _unfit(path, error) from None


def _parquet(path: Path) -> Iterator[Any]:
    import pyarrow.parquet as pq

    table = pq.ParquetFile(path, page_checksum_verification=True)
    return table.iter_batches(_ROWS)


def _arrow(path: Path) -> Iterator[Any]:
    import pyarrow as pa

    source = pa.memory_map(str(path))
    try:
        return iter(pa.ipc.open_stream(source))
    except pa.ArrowInvalid:
        table = pa.ipc.open_file(source)
        return map(table.get_batch, range(table.num_record_batches))


def _lines(batches: Iterator[Any]) -> Iterator[bytes]:
    for batch in batches:
        names = batch.schema.names
        if len(set(names)) < len(names):
            raise ValueError("two columns have one name")
        kinds = {field.name: str(field.type) for field in batch.schema}
        single = {
            name
            for name, kind in kinds.items()
            if _SINGLE.search(kind) and "double" not in kind
        }
        for start in range(0, batch.num_rows, _ROWS):
            for row in batch.slice(start, _ROWS).to_pylist():
                plain = {
                    name: _plain(value, name in single) for name, value in row.items()
                }
                yield msgspec.json.encode(plain, enc_hook=str) + b"\n"


def _plain(value: Any, single: bool) -> Any:
    match value:
        case bytes():
            try:
                return value.decode()
            except UnicodeDecodeError:
                return {"bytes": f"{len(value)} bytes"}
        case float() if single:
            # 0.35, not 0.3499999940395355, which is no multiple of 1/20.
            return float(str(np.float32(value)))
        case dict():
            kept = {
                name: _plain(of, single) for name, of in value.items() if of is not None
            }
            # A picture that lies elsewhere says so by having no bytes.
            return kept | {"bytes": None} if value.get("bytes", 0) is None else kept
        case list():
            return [_plain(of, single) for of in value]
    return value


def _unfit(path: Path, error: Exception) -> DataError:
    return DataError(f"{path}: damaged table ({next(iter(str(error).splitlines()))})")


class _Lines(io.RawIOBase):
    def __init__(self, path: Path, lines: Iterator[bytes]) -> None:
        self._path, self._source, self._rest, self._at = path, lines, b"", 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        if whence == os.SEEK_CUR:
            offset += self._at
        if whence == os.SEEK_END or offset < self._at:
            raise io.UnsupportedOperation("a table is read forward only")
        buffer = bytearray(1 << 16)
        while self._at < offset:
            if not self.readinto(memoryview(buffer)[: offset - self._at]):
                break
        return self._at

    def readinto(self, buffer: Any, /) -> int:
        import pyarrow as pa

        try:
            self._rest = self._rest or next(self._source, b"")
        except (pa.ArrowException, OSError, OverflowError, ValueError) as error:
            raise _unfit(self._path, error) from None
        count = min(len(buffer), len(self._rest))
        buffer[:count] = self._rest[:count]
        self._rest, self._at = self._rest[count:], self._at + count
        return count

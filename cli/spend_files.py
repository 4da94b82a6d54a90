"""Usage records as files: JSON lines, CSV, or Parquet through the extra `archive`; written whole or not at all."""

import csv
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Protocol

from batchmill.cli.errors import OutputError
from batchmill.producer.render import to_json
from batchmill.spend.columns import COLUMNS, values_of
from batchmill.spend.ledger import UsageRecord

_CHUNK = 10_000  # records that are in memory at once
_TEXTS = ("hold", "project", "batch", "custom_id", "asked", "model", "served", "provider", "generation", "outcome",
          "source", "user")  # fmt: skip


class _Writer(Protocol):
    def write(self, records: list[dict[str, Any]]) -> None: ...

    def close(self) -> None: ...


async def write_records(path: Path, records: AsyncIterator[UsageRecord]) -> int:
    """Write all records to a new file of that name, or in place of it; return how many. Raises OutputError."""
    make = _writer_for(path)
    part = path.with_name(f".{path.name}.part")
    count = 0
    try:
        try:
            count = await _write(make(part), records)
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"{path} can't be written: {error.strerror or error}; give another place") from error
    return count


async def _write(writer: _Writer, records: AsyncIterator[UsageRecord]) -> int:
    count = 0
    chunk: list[dict[str, Any]] = []
    try:
        async for record in records:
            chunk.append(values_of(record))
            count += 1
            if len(chunk) >= _CHUNK:
                writer.write(chunk)
                chunk.clear()
        writer.write(chunk)
    finally:
        writer.close()
    return count


def _writer_for(path: Path) -> Callable[[Path], _Writer]:
    kinds: dict[str, Callable[[Path], _Writer]] = {".jsonl": _Lines, ".csv": _Csv, ".parquet": _Parquet}
    try:
        return kinds[path.suffix]
    except KeyError:
        raise OutputError(f"{path}: which kind of file? Give a name that ends in {', '.join(kinds)}") from None


class _Lines:
    def __init__(self, path: Path) -> None:
        self._file = path.open("w", encoding="utf-8")

    def write(self, records: list[dict[str, Any]]) -> None:
        self._file.writelines(to_json(record) + "\n" for record in records)

    def close(self) -> None:
        self._file.close()


class _Csv:
    def __init__(self, path: Path) -> None:
        self._file = path.open("w", encoding="utf-8", newline="")
        self._rows = csv.DictWriter(self._file, COLUMNS)
        self._rows.writeheader()

    def write(self, records: list[dict[str, Any]]) -> None:
        for record in records:
            tags = json.dumps(record["tags"], ensure_ascii=False)
            self._rows.writerow(record | {"at": record["at"].isoformat(), "cost_usd": f"{record['cost_usd']:f}"}
                                | {"tags": tags})  # fmt: skip

    def close(self) -> None:
        self._file.close()


class _Parquet:
    def __init__(self, path: Path) -> None:
        try:
            import pyarrow as pa
            from pyarrow import parquet
        except ImportError:
            raise OutputError(
                "Parquet needs pyarrow: pip install 'batchmill[archive]', or export to .jsonl or .csv"
            ) from None
        self._arrow = pa
        self._schema = pa.schema([(name, self._type_of(name)) for name in COLUMNS])
        self._file = parquet.ParquetWriter(path, self._schema)

    def write(self, records: list[dict[str, Any]]) -> None:
        if records:
            self._file.write_table(self._arrow.Table.from_pylist(records, schema=self._schema))

    def close(self) -> None:
        self._file.close()

    def _type_of(self, name: str) -> Any:
        arrow = self._arrow
        special = {
            "at": arrow.timestamp("ms", "UTC"),
            "cost_usd": arrow.decimal128(19, 9),
            "tags": arrow.list_(arrow.string()),
        }
        return special.get(name) or (arrow.string() if name in _TEXTS else arrow.int64())

"""How the data files of bronze are written, by the Delta engine and by merges."""

from __future__ import annotations

from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import ColumnProperties, WriterProperties

#: Hardly a value comes twice: a dictionary would cost time and space.
_UNREPEATED = frozenset({"ind", "_position", "timestamp", "latitude", "longitude"})
#: Nor here, and the least and the greatest of long texts tell a reader nothing.
_LONG_TEXT = frozenset(
    {"unique_id", "title", "description", "tag_list", "image_src", "raw", "_rescued"}
)
_COMPRESSION: Final = "ZSTD"
_LEVEL = 1

#: For the Delta engine.
WRITER = WriterProperties(
    compression=_COMPRESSION,
    compression_level=_LEVEL,
    column_properties={
        **dict.fromkeys(_UNREPEATED, ColumnProperties(dictionary_enabled=False)),
        **dict.fromkeys(
            _LONG_TEXT, ColumnProperties(dictionary_enabled=False, statistics_enabled="NONE")
        ),
    },
)


def open_writer(sink: Any, schema: pa.Schema) -> pq.ParquetWriter:
    """A writer of a file like the engine's.

    Args:
        sink: where to.
        schema: the file's columns.
    """
    return pq.ParquetWriter(
        sink,
        schema,
        compression=_COMPRESSION,
        compression_level=_LEVEL,
        use_dictionary=[name for name in schema.names if name not in _UNREPEATED | _LONG_TEXT],
        write_statistics=[name for name in schema.names if name not in _LONG_TEXT],
    )

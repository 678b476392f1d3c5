"""Read an offline W&B run back from its files alone."""

import json
import struct

_BLOCK = 32768
_HEADER = 7


def _records(path):
    """Records of a .wandb file: LevelDB's log format (blocks of 32 KiB; crc, length, type) with protobufs inside."""
    from wandb.proto import wandb_internal_pb2

    data, position, record = path.read_bytes(), _HEADER, b""
    while position + _HEADER <= len(data):
        left = _BLOCK - position % _BLOCK
        if left < _HEADER:
            position += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, position)
        position += _HEADER
        record += data[position : position + length]
        position += length
        if kind in (1, 4):
            message = wandb_internal_pb2.Record()
            message.ParseFromString(record)
            record = b""
            yield message


def read_back(results_dir):
    """Configuration, summary and the tables' rows, from the offline run's files alone."""
    (log,) = (results_dir / "wandb").glob("offline-run-*/*.wandb")
    config, summary = {}, {}
    for record in _records(log):
        kind = record.WhichOneof("record_type")
        if kind == "run":
            config |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
        elif kind == "summary":
            summary |= {item.key: json.loads(item.value_json) for item in record.summary.update if item.key}
    media = log.parent / "files" / "media" / "table"
    tables = {
        str(path.relative_to(media)).rpartition("_")[0].rpartition("_")[0]: json.loads(path.read_text())["data"]
        for path in media.rglob("*.table.json")
    }
    return config, summary, tables

"""Read an offline W&B run back from its files alone."""

import json
import struct
from dataclasses import dataclass, field

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


@dataclass
class OfflineRun:
    """What the files of one offline run hold; images: the keys that were logged as images; history: what
    was logged at each step, steps: the metric that each key is drawn over."""

    id: str = ""
    group: str = ""
    config: dict = field(default_factory=dict)
    summary: dict = field(default_factory=dict)
    tables: dict = field(default_factory=dict)
    images: set = field(default_factory=set)
    history: list = field(default_factory=list)
    steps: dict = field(default_factory=dict)


def offline_runs(results_dir):
    """The .wandb files below a results folder, oldest first."""
    return sorted((results_dir / "wandb").glob("offline-run-*/*.wandb"))


def read_run(log):
    """One offline run, from its files alone."""
    run = OfflineRun()
    for record in _records(log):
        kind = record.WhichOneof("record_type")
        if kind == "run":
            run.id, run.group = record.run.run_id, record.run.run_group
            run.config |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
        elif kind == "summary":
            run.summary |= {item.key: json.loads(item.value_json) for item in record.summary.update if item.key}
        elif kind == "history":
            logged = {"/".join(item.nested_key) or item.key: item.value_json for item in record.history.item}
            run.history.append({key: json.loads(value) for key, value in logged.items()})
            run.images |= {key.removesuffix("/_type") for key, value in logged.items() if "image-file" in value}
        elif kind == "metric":
            metric = record.metric
            run.steps[metric.name or metric.glob_name] = metric.step_metric
    media = log.parent / "files" / "media" / "table"
    run.tables = {
        str(path.relative_to(media)).rpartition("_")[0].rpartition("_")[0]: json.loads(path.read_text())["data"]
        for path in media.rglob("*.table.json")
    }
    return run


def read_back(results_dir):
    """Configuration, summary and the tables' rows of the only offline run below a results folder."""
    (log,) = offline_runs(results_dir)
    run = read_run(log)
    return run.config, run.summary, run.tables

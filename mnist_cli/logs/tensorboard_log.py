"""Logs as TensorBoard's event files, by its own record writer: neither TensorFlow nor PyTorch.

TensorBoard's `EventFileWriter` would import TensorFlow where it is installed; its `RecordWriter`
and its protocol buffers do not.
"""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from google.protobuf.struct_pb2 import Value
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
from tensorboard.compat.proto.types_pb2 import DT_STRING
from tensorboard.plugins.hparams import api_pb2, plugin_data_pb2
from tensorboard.plugins.hparams import metadata as hparams
from tensorboard.summary.writer.record_writer import RecordWriter

from mnist_cli.logs.formats import Ending, Point, Run, Values, copy_into

_STATUS = {"finished": api_pb2.STATUS_SUCCESS}  # others have failed, in TensorBoard's words


class Log:
    """Appends events to one file in the folder of the run."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self.place = str(run.folder)
        self._step = 0
        name = f"events.out.tfevents.{time.time():.0f}.{socket.gethostname()}.{os.getpid()}"
        self._writer = RecordWriter((run.folder / name).open("wb"))
        self._write(Event(file_version="brain.Event:2"))
        values = [_text("settings", _table(run.settings))]
        if not run.is_experiment:  # whose settings are not those of one session
            start = plugin_data_pb2.SessionStartInfo(
                hparams={name: _hparam(value) for name, value in run.settings.items()},
                start_time_secs=time.time(),
            )
            values.append(_hparams(hparams.SESSION_START_INFO_TAG, session_start_info=start))
        self._write_values(values)

    def add(self, points: Sequence[Point]) -> None:
        """Write an event per point, a scalar per figure."""
        for point in points:
            self._step = point.step
            self._write_values(_scalars(point.figures), at=point.time)

    def end(self, ending: Ending) -> None:
        """Write figures, texts and pictures; copy what is no picture beside the event file."""
        status = f"{ending.status}: {ending.reason}" if ending.reason else ending.status
        pictures = [path for path in ending.files if path.suffix == ".png"]
        values = [
            *_scalars({f"final/{name}": value for name, value in ending.figures.items()}),
            _text("status", status),
            _text("environment", _table(ending.environment)),
            *map(_picture, pictures),
        ]
        if not self._run.is_experiment:
            end = plugin_data_pb2.SessionEndInfo(
                status=_STATUS.get(ending.status, api_pb2.STATUS_FAILURE),
                end_time_secs=time.time(),
            )
            values.append(_hparams(hparams.SESSION_END_INFO_TAG, session_end_info=end))
        self._write_values(values)
        self._writer.close()
        copy_into(self._run.folder, [path for path in ending.files if path not in pictures])

    def _write_values(self, values: list[Summary.Value], *, at: float | None = None) -> None:
        self._write(Event(step=self._step, summary=Summary(value=values)), at=at)

    def _write(self, event: Event, *, at: float | None = None) -> None:
        event.wall_time = time.time() if at is None else at
        self._writer.write(event.SerializeToString())
        self._writer.flush()


def _scalars(figures: Mapping[str, float]) -> list[Summary.Value]:
    return [Summary.Value(tag=name, simple_value=value) for name, value in figures.items()]


def _text(tag: str, text: str) -> Summary.Value:
    """Return a text in Markdown, as the text plugin reads it."""
    metadata = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name="text"))
    tensor = TensorProto(
        dtype=DT_STRING,
        string_val=[text.encode()],
        tensor_shape=TensorShapeProto(dim=[TensorShapeProto.Dim(size=1)]),
    )
    return Summary.Value(tag=tag, metadata=metadata, tensor=tensor)


def _table(values: Values) -> str:
    rows = (f"| {name} | {str(value).replace('|', '/')} |" for name, value in values.items())
    return "\n".join(["| name | value |", "| --- | --- |", *rows])


def _picture(path: Path) -> Summary.Value:
    content = path.read_bytes()
    width, height = struct.unpack(">II", content[16:24])  # of the header of every PNG file
    image = Summary.Image(width=width, height=height, colorspace=4, encoded_image_string=content)
    return Summary.Value(tag=path.stem, image=image)


def _hparam(value: object) -> Value:
    """Return a setting as a number, a truth value, or else as text."""
    if isinstance(value, bool):
        return Value(bool_value=value)
    if isinstance(value, (int, float)):
        return Value(number_value=value)
    return Value(string_value=str(value))


def _hparams(tag: str, **content: object) -> Summary.Value:
    metadata = hparams.create_summary_metadata(plugin_data_pb2.HParamsPluginData(**content))
    return Summary.Value(tag=tag, metadata=metadata, tensor=hparams.NULL_TENSOR)

"""Training curves: TensorBoard scalars over agent steps, in the run folder."""

import io
import math
import os
import socket
import time

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from metta.run_folder import RunFolder


class CurveWriter:
    """Appends to the run's curves from agent step `resumed_at` on.

    What a killed process logged after the checkpoint it is resumed from is purged (TensorBoard's `purge_step`), and
    each epoch is written at once, so the curve of a resumed run has neither overlap nor gap. SummaryWriter has a thread
    of its own, which meets a full disk with a traceback.
    """

    def __init__(self, run: RunFolder, resumed_at: int):
        run.path.mkdir(parents=True, exist_ok=True)
        part = max((part for part, _ in run.curves), default=0) + 1
        who = f"{time.time():.0f}.{socket.gethostname()}.{os.getpid()}"
        self._path = run.path / f"events.out.tfevents.{who}.part{part}"
        begin = SessionLog(status=SessionLog.START)
        self._append(Event(file_version="brain.Event:2"), Event(session_log=begin, step=resumed_at + 1))

    def add(self, scalars: dict[str, float], agent_steps: int) -> None:
        finite = [(name, value) for name, value in scalars.items() if math.isfinite(value)]
        values = [Summary.Value(tag=name, simple_value=value) for name, value in finite]
        self._append(Event(summary=Summary(value=values), step=agent_steps))

    def _append(self, *events: Event) -> None:
        records = io.BytesIO()
        for event in events:
            event.wall_time = time.time()
            RecordWriter(records).write(event.SerializeToString())
        with open(self._path, "ab") as file:
            file.write(records.getvalue())

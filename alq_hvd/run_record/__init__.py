"""What a run leaves behind for ``alq-hvd report`` and other readers; docs/reference/run-record.md has the format."""

from alq_hvd.run_record.fields import PARTS, RESULT_FILE, STEPS_FILE, VERSION, RunResult
from alq_hvd.run_record.reader import Event, Run, read_run
from alq_hvd.run_record.world import describe_world
from alq_hvd.run_record.writer import RunWriter, write_json

__all__ = [
    "PARTS",
    "RESULT_FILE",
    "STEPS_FILE",
    "VERSION",
    "Event",
    "Run",
    "RunResult",
    "RunWriter",
    "describe_world",
    "read_run",
    "write_json",
]

"""Run on four ranks under horovodrun: the first node is at the end of the program while the second still exchanges.

Usage: nodes_apart.py RESULTS_DIRECTORY
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import horovod.torch as hvd
import numpy as np

from alq_hvd.communicator.horovod import HorovodCommunicator
from alq_hvd.frontends.horovod.nodes import nodes_of

os.environ["HOROVOD_DYNAMIC_PROCESS_SETS"] = "1"
hvd.init()
inside = nodes_of(HorovodCommunicator(), 2, "nodes").inside
if hvd.rank() >= 2:
    time.sleep(3)
parts = inside.allgather(np.full(2, hvd.rank(), np.uint8), "last").wait()
Path(sys.argv[1], f"{hvd.rank()}.json").write_text(json.dumps([part.tolist() for part in parts]))

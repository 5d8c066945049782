"""Run alone under Gloo: make a second world in one process, as elastic Horovod does, and see that it is told apart."""

from __future__ import annotations

import horovod.torch as hvd
import numpy as np

from alq_hvd.communicator.horovod import HorovodCommunicator

hvd.init()
communicator = HorovodCommunicator()
first = communicator.world
communicator.allgather(np.zeros(3, np.uint8), "payload").wait()
print("same" if communicator.world is first else "changed", end=" ")
hvd.shutdown()
hvd.init()
print("same" if communicator.world is first else "changed", end=" ")
communicator.allgather(np.zeros(3, np.uint8), "payload").wait()
print(communicator.size)

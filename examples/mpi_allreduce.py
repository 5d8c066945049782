"""Gradients of a program of one's own, over MPI, in NumPy: ``mpirun -np 4 python examples/mpi_allreduce.py``."""

import numpy as np
from mpi4py import MPI

import alq_hvd

ranks = MPI.COMM_WORLD
truth = np.random.default_rng(0).standard_normal((512, 8))  # the linear map that all ranks look for
weights = np.zeros((512, 8), dtype=np.float32)
average = alq_hvd.Allreduce(ranks, method="optimal", bits=4, schedule=[0, 20])

draws = np.random.default_rng(1 + ranks.rank)  # data that differ between ranks
for step in range(200):
    inputs = draws.standard_normal((256, 512))
    errors = inputs @ weights - inputs @ truth
    gradient = (inputs.T @ errors / len(inputs)).astype(np.float32)
    average([gradient])  # is the mean of all ranks' from here on
    weights -= 0.2 * gradient
    if ranks.rank == 0 and step % 40 == 39:
        loss = float(np.square(errors).mean())
        print(f"step {step + 1}: loss {loss:.2e}, sent {average.metrics()['bytes_per_step']:,} bytes")

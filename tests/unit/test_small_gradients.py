"""A scalar whose gradient is huge does not drown its neighbours, whatever ``min_elements`` is."""

from __future__ import annotations

import numpy as np
import torch

import alq_hvd
from alq_hvd.communicator.loopback import LoopbackCommunicator, LoopbackWorld
from tests.support.stand_in import reduce_gradients

SHAPES = {"weight": (40, 30), "scale": (), "vector": (63,), "unused": (300,), "head": (500,)}


def gradients(rank: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(rank)
    made = {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}
    made["scale"] *= 1e5
    made["vector"] *= 1e4
    made["unused"] *= 0
    return made


def test_scalars_and_short_vectors_stay_exact_and_their_neighbours_near() -> None:
    def program(ranks: LoopbackCommunicator) -> None:
        parameters = {name: torch.nn.Parameter(torch.zeros(shape)) for name, shape in SHAPES.items()}
        for name, gradient in gradients(ranks.rank).items():
            parameters[name].grad = gradient
        compression = alq_hvd.Compression.qsgdinf(
            8, 1024, named_parameters=parameters.items(), communicator=ranks, min_elements=0, exchange="allgather"
        )
        named = [(name, parameter.grad) for name, parameter in parameters.items()]
        reduced = reduce_gradients(ranks, compression, named)
        metrics = compression.metrics()
        assert (metrics["compressed_elements"], metrics["passed_through_elements"]) == (2000, 64)
        for name in SHAPES:
            exact = sum(gradients(rank)[name].double() for rank in range(2)) / 2
            error = float((reduced[name].double() - exact).norm() / max(float(exact.norm()), 1e-30))
            assert error < (1e-6 if name in ("scale", "vector", "unused") else 0.02), name
        assert not np.any(reduced["unused"].numpy())

    LoopbackWorld(2).run(program)

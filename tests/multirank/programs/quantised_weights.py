"""Run on every rank under horovodrun: train with quantised weights through stock Horovod, and write down what came out.

Usage: quantised_weights.py RESULTS_DIRECTORY
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import horovod.torch as hvd
import torch

sys.path.insert(0, str(Path(__file__).parents[3]))  # the program's own folder stands there, not the checkout

import alq_hvd
from alq_hvd.errors import WeightsMismatch
from alq_hvd.weights import QuantizedOptimizer
from tests.support.quantised_training import STEPS, batch, network, quantise


def run(case: str, *, bits: int | None = 3, apart: bool = False, disturb: bool = False) -> dict[str, Any]:
    """Take ``STEPS`` steps, each rank on its own data; ``bits`` of the gradients, ``None`` for exact ones.

    ``apart``: wait for Horovod's averages before ``step()``, as gradient clipping asks for.
    """
    model = network()
    compression = hvd.Compression.none
    if bits is not None:
        compression = alq_hvd.Compression.alq(
            bits=bits,
            exchange="allgather",
            bucket_size=64,
            min_elements=0,
            schedule=[0, 3],
            name=f"{case}.{bits}.{apart}.{disturb}",
            named_parameters=model.named_parameters(),
        )
    inner = [model[2].weight, model[4].weight]
    others = [parameter for parameter in model.parameters() if all(parameter is not each for each in inner)]
    groups = [{"params": inner, "quant_bits": 3}, {"params": others}]
    optimizer = hvd.DistributedOptimizer(
        torch.optim.Adam(groups, lr=0.01), named_parameters=model.named_parameters(), compression=compression
    )
    if case == "optimizer":
        optimizer = QuantizedOptimizer(optimizer, check_every=2)
    else:
        quantized = quantise(model, case, optimizer)
    for step in range(STEPS):
        inputs, labels = batch(step, hvd.rank())
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(inputs), labels).backward()
        if apart:
            optimizer.synchronize()
        if disturb and step == 2 and hvd.rank() == 1:
            with torch.no_grad():
                quantized.layers[1].weight[0, 0] += 1e-4
        if apart and case != "optimizer":
            with optimizer.skip_synchronize():
                optimizer.step()
        else:
            optimizer.step()
    if case == "optimizer":
        optimizer.restore_full_weights()
    held = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    weights = torch.cat([parameter.detach().flatten() for parameter in held])
    found = {"digest": hashlib.sha256(weights.numpy().tobytes()).hexdigest(), "weights": weights.tolist()}
    if case in ("fcgrad", "lstmfc"):
        net = quantized.state_dict()["meta"]["net"]
        found["phi"] = hashlib.sha256(b"".join(part.numpy().tobytes() for part in net.values())).hexdigest()
    return found


def main(results: Path) -> None:
    """Run every case and write this rank's outcome."""
    hvd.init()
    outcome: dict[str, Any] = {}
    for case in ("laq", "optimizer", "fcgrad", "lstmfc"):
        for bits in (3, None):
            for apart in (False, True):
                outcome[f"{case}, {bits}, {apart}"] = run(case, bits=bits, apart=apart)
    try:
        run("laq", apart=True, disturb=True)
    except WeightsMismatch as error:
        outcome["mismatch"] = str(error)
    (results / f"{hvd.rank()}.json").write_text(json.dumps(outcome))


if __name__ == "__main__":
    main(Path(sys.argv[1]))

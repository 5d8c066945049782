"""The change to an FSDP2 training, marked (1) and (2): ``torchrun --nproc-per-node 2 examples/fsdp_minimal.py``."""

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

import alq_hvd  # (1)

dist.init_process_group("gloo")
mesh = init_device_mesh("cpu", (dist.get_world_size(),))
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(64, 256), torch.nn.ReLU(), torch.nn.Linear(256, 10))
teacher = torch.randn(64, 10)  # labels that a linear map gives: the same on all ranks
for layer in (model[0], model[2]):
    fully_shard(layer, mesh=mesh)
fully_shard(model, mesh=mesh)
compression = alq_hvd.fsdp.compress(model, method="optimal", bits=4, schedule=50)  # (2)

optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
torch.manual_seed(1 + dist.get_rank())  # inputs that differ between ranks
for step in range(200):
    inputs = torch.randn(32, 64)
    optimizer.zero_grad()
    loss = torch.nn.functional.cross_entropy(model(inputs), (inputs @ teacher).argmax(dim=1))
    loss.backward()
    optimizer.step()
    if dist.get_rank() == 0 and step % 20 == 19:
        print(f"step {step + 1}: loss {loss.item():.3f}, sent {compression.metrics()['bytes_per_step']:,} bytes")
dist.destroy_process_group()

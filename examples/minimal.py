"""The whole change to a Horovod training, marked (1) to (3): ``horovodrun -np 2 python examples/minimal.py``."""

import horovod.torch as hvd
import torch

import alq_hvd  # (1)

hvd.init()
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(64, 256), torch.nn.ReLU(), torch.nn.Linear(256, 10))
hvd.broadcast_parameters(model.state_dict(), root_rank=0)

optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
compression = alq_hvd.Compression.alq(  # (2)
    bits=3,
    named_parameters=model.named_parameters(),
    break_even=False,  # compress even on one machine, where plain Horovod is faster
)
optimizer = hvd.DistributedOptimizer(
    optimizer,
    named_parameters=model.named_parameters(),
    compression=compression,  # (3) Horovod's own keyword
)

teacher = torch.randn(64, 10)  # labels that a linear map gives: the same on all ranks
torch.manual_seed(1 + hvd.rank())  # inputs that differ between ranks
for step in range(200):
    inputs = torch.randn(32, 64)
    optimizer.zero_grad()
    loss = torch.nn.functional.cross_entropy(model(inputs), (inputs @ teacher).argmax(dim=1))
    loss.backward()
    optimizer.step()
    if hvd.rank() == 0 and step % 20 == 19:
        print(f"step {step + 1}: loss {loss.item():.3f}, sent {compression.metrics()['bytes_per_step']:,} bytes")

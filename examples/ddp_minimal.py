"""The whole change to a DDP training, marked (1) to (3): ``torchrun --nproc-per-node 2 examples/ddp_minimal.py``."""

import torch
import torch.distributed as dist

import alq_hvd  # (1)

dist.init_process_group("gloo")
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(64, 256), torch.nn.ReLU(), torch.nn.Linear(256, 10))
model = torch.nn.parallel.DistributedDataParallel(model)
compression = alq_hvd.ddp.CompressionState(  # (2)
    method="alq",
    bits=3,
    break_even=False,  # compress even on one machine, where plain DDP is faster
)
model.register_comm_hook(compression, alq_hvd.ddp.hook)  # (3) DDP's own call

optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
teacher = torch.randn(64, 10)  # labels that a linear map gives: the same on all ranks
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

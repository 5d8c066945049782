"""DiLoCo-like: ranks meet once in 20 steps. ``torchrun --nproc-per-node 4 examples/outer_gradients.py``."""

import torch
import torch.distributed as dist

import alq_hvd

dist.init_process_group("gloo")
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(64, 256), torch.nn.ReLU(), torch.nn.Linear(256, 10))  # alike on all ranks
teacher = torch.randn(64, 10)
shared = [parameter.detach().clone() for parameter in model.parameters()]
inner = torch.optim.AdamW(model.parameters(), lr=2e-3)
outer = torch.optim.SGD(shared, lr=0.7, momentum=0.9, nesterov=True)
average = alq_hvd.Allreduce(method="optimal", bits=4, schedule=5)  # levels are fitted at every fifth call

torch.manual_seed(1 + dist.get_rank())  # inputs that differ between ranks
for turn in range(15):
    for _ in range(20):
        inputs = torch.randn(32, 64)
        inner.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(inputs), (inputs @ teacher).argmax(dim=1))
        loss.backward()
        inner.step()
    for start, parameter in zip(shared, model.parameters(), strict=True):
        start.grad = start - parameter.detach()  # the outer gradient: how far this worker has come
    average([start.grad for start in shared])
    outer.step()
    for start, parameter in zip(shared, model.parameters(), strict=True):
        parameter.data.copy_(start)
    if dist.get_rank() == 0:
        print(f"turn {turn + 1}: loss {loss.item():.3f}, sent {average.metrics()['bytes_per_step']:,} bytes")
dist.destroy_process_group()

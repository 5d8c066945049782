"""Everything that changes in a training comes back, on each rank its own; what does not fit is refused by name."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from alq_hvd.checkpoint import Checkpoint, random_state
from alq_hvd.checkpoint.plain import pack, unpack
from alq_hvd.communicator.loopback import LoopbackCommunicator, LoopbackWorld
from alq_hvd.errors import CheckpointError, StateError


class Counter:
    """Stand for a codec: a state that differs from rank to rank."""

    def __init__(self, count: int = 0) -> None:
        self.count = count

    def state_dict(self) -> dict[str, Any]:
        return {"count": self.count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.count = state["count"]


class Training:
    """Hold what a small run consists of."""

    def __init__(self, ranks: LoopbackCommunicator, directory: Path, count: int = 0, **changes: Any) -> None:
        torch.random.manual_seed(0)
        self.model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1, momentum=0.9)
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(self.optimizer, max_lr=0.1, total_steps=20)
        self.counter = Counter(count)
        parts: dict[str, Any] = {"optimizer": self.optimizer, "schedule": self.schedule, "compression": self.counter}
        parts |= {"settings": {"seed": 1}} | changes
        self.checkpoint = Checkpoint(directory, model=self.model, communicator=ranks, **parts)

    def step(self, inputs: torch.Tensor) -> None:
        self.optimizer.zero_grad()
        self.model(inputs).square().sum().backward()
        self.optimizer.step()
        self.schedule.step()

    def everything(self) -> bytes:
        return pack([self.model.state_dict(), self.optimizer.state_dict(), self.schedule.state_dict()], "test")


def inputs(seed: int) -> torch.Tensor:
    return torch.randn(5, 3, generator=torch.Generator().manual_seed(seed))


def test_one_rank_goes_on_bit_for_bit(tmp_path: Path) -> None:
    def program(ranks: LoopbackCommunicator) -> None:
        uncut = Training(ranks, tmp_path)
        assert uncut.checkpoint.restore() is None
        for step in range(6):
            uncut.step(inputs(step))
            if step == 2:
                uncut.checkpoint.save(3, {"epoch": 1, "batch": 3, "accuracy": [(1, 0.5)]})
        resumed = Training(ranks, tmp_path, count=7)
        restored = resumed.checkpoint.restore()
        assert restored is not None
        assert (restored.step, restored.same_world) == (3, True)
        assert restored.position == {"epoch": 1, "batch": 3, "accuracy": [(1, 0.5)]}
        for step in range(3, 6):
            resumed.step(inputs(step))
        assert resumed.everything() == uncut.everything()

    LoopbackWorld(1).run(program)


def test_buffers_and_codec_come_back_to_the_rank_they_are_of(tmp_path: Path) -> None:
    def save(ranks: LoopbackCommunicator) -> None:
        training = Training(ranks, tmp_path, count=10 + ranks.rank)
        training.model[1].running_mean.fill_(ranks.rank)
        training.checkpoint.save(4, {"rank": ranks.rank})

    def restore(ranks: LoopbackCommunicator) -> tuple[int, float, Any, bool]:
        training = Training(ranks, tmp_path)
        restored = training.checkpoint.restore()
        assert restored is not None
        mean = float(training.model[1].running_mean[0])
        return training.counter.count, mean, restored.position, restored.same_world

    LoopbackWorld(3).run(save)
    assert LoopbackWorld(3).run(restore) == [(10 + rank, float(rank), {"rank": 0}, True) for rank in range(3)]
    # Another number of ranks goes on, says that it is not bit for bit, and gives a new rank what rank 0 had.
    assert LoopbackWorld(2).run(restore) == [(10 + rank, float(rank), {"rank": 0}, False) for rank in range(2)]
    assert LoopbackWorld(4).run(restore)[3] == (10, 0.0, {"rank": 0}, False)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"settings": {"seed": 2}}, "seed: expected 1, with which .* was saved, got 2"),
        ({"settings": {}}, "seed: expected 1, .*got None"),
        ({"compression": None}, "expected the states of model, optimizer, schedule, got .*compression"),
        ({"schedule": None}, "expected the states of model, optimizer, compression, got .*schedule"),
    ],
)
def test_another_program_is_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    def program(ranks: LoopbackCommunicator) -> None:
        Training(ranks, tmp_path).checkpoint.save(1, {})
        Training(ranks, tmp_path, **changes).checkpoint.restore()

    with pytest.raises(StateError, match=message):
        LoopbackWorld(1).run(program)


def test_another_model_is_refused(tmp_path: Path) -> None:
    def program(ranks: LoopbackCommunicator) -> None:
        Training(ranks, tmp_path).checkpoint.save(1, {})
        other = Training(ranks, tmp_path)
        other.model[0] = torch.nn.Linear(3, 5)
        other.checkpoint.restore()

    with pytest.raises(StateError, match=r"(?s)does not fit this program: .*size mismatch"):
        LoopbackWorld(1).run(program)


def test_every_rank_hears_that_rank_0_could_not_write(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    def program(ranks: LoopbackCommunicator) -> str:
        with pytest.raises(CheckpointError) as refused:
            Training(ranks, tmp_path / "file").checkpoint.save(1, {})
        return str(refused.value)

    messages = LoopbackWorld(3).run(program)
    assert all("rank 0: could not write the checkpoint of step 1" in message for message in messages)


def test_what_could_not_be_read_back_is_refused_when_written() -> None:
    with pytest.raises(StateError, match=r"position\['best'\]\[1\]: expected tensors, .* got numpy.float64"):
        pack({"best": [1, np.float64(2)]}, "position")
    with pytest.raises(StateError, match="expected keys that are numbers or strings"):
        pack({(1, 2): 3}, "position")


def test_a_file_of_code_is_not_executed(tmp_path: Path) -> None:
    torch.save(Path("/"), tmp_path / "other")
    with pytest.raises(StateError, match="expected a state written by this version"):
        unpack((tmp_path / "other").read_bytes(), "other")


def test_generators_draw_the_same_numbers_again() -> None:
    def draw() -> list[float]:
        return [random.random(), float(np.random.normal()), float(torch.randn(1))]

    state = unpack(pack(random_state.capture(), "random"), "random")
    drawn = draw()
    assert draw() != drawn
    random_state.put_back(state)
    assert draw() == drawn

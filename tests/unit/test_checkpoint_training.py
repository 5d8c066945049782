"""Everything that changes in a training comes back, on each rank its own; what does not fit is refused by name."""

from __future__ import annotations

import collections
import io
import pickle
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from alq_hvd.checkpoint import Checkpoint, random_state
from alq_hvd.checkpoint.plain import pack, unpack
from alq_hvd.checkpoint.store import CheckpointStore
from alq_hvd.communicator.loopback import LoopbackCommunicator, LoopbackWorld
from alq_hvd.errors import CheckpointError, StateError
from tests.support.cases import each


class Counter:
    """Represent a codec: a state that differs from rank to rank."""

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


class Broken:
    """Represent an object whose state cannot be saved on one rank."""

    def __init__(self, state: Callable[[], dict[str, Any]]) -> None:
        self.state_dict = state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        raise ZeroDivisionError("a fault of its own")


def fails() -> dict[str, Any]:
    raise OSError(5, "device lost")


UNSAVABLE: dict[str, tuple[Callable[[], dict[str, Any]], str]] = {
    "an object": (lambda: {"a": [1, {"b": Path("/")}]}, r"own\['other'\]\['a'\]\[1\]\['b'\]: expected .*got pathlib"),
    "a function": (lambda: {"f": lambda: 1}, r"own\['other'\]\['f'\]: expected .*got builtins.function"),
    "an error of its own": (fails, r"OSError: \[Errno 5\] device lost"),
}


@pytest.mark.parametrize("broken", [0, 2])
def test_every_rank_hears_which_rank_can_not_be_saved_and_why(broken: int, tmp_path: Path) -> None:
    for name, (state, complaint) in UNSAVABLE.items():

        def program(ranks: LoopbackCommunicator, state: Callable[[], dict[str, Any]] = state) -> str:
            other = Broken(state) if ranks.rank == broken else Counter(1)
            training = Training(ranks, tmp_path / "run", own={"other": other})
            with pytest.raises(StateError) as refused:
                training.checkpoint.save(1, {})
            return str(refused.value)

        for message in LoopbackWorld(3, timeout=20).run(program):
            assert re.match(rf"rank {broken}: {complaint}", message), f"{name}: {message}"
        assert not (tmp_path / "run").exists()


def test_every_rank_hears_that_what_they_share_can_not_be_saved(tmp_path: Path) -> None:
    for name, (state, complaint) in UNSAVABLE.items():

        def program(ranks: LoopbackCommunicator, state: Callable[[], dict[str, Any]] = state) -> str:
            training = Training(ranks, tmp_path / "run", schedule=Broken(state))
            with pytest.raises(CheckpointError) as refused:
                training.checkpoint.save(1, {})
            return str(refused.value)

        expected = complaint.replace("own", "checkpoint").replace(r"\['other'\]", r"\['shared'\]\['schedule'\]")
        for message in LoopbackWorld(2, timeout=20).run(program):
            assert re.match(f"rank 0: {expected}", message), f"{name}: {message}"


def test_every_rank_hears_which_rank_could_not_be_restored(tmp_path: Path) -> None:
    def program(ranks: LoopbackCommunicator) -> str:
        Training(ranks, tmp_path, own={"other": Counter(1)}).checkpoint.save(1, {})
        other = Broken(dict) if ranks.rank == 1 else Counter(1)
        with pytest.raises(StateError) as refused:
            Training(ranks, tmp_path, own={"other": other}).checkpoint.restore()
        return str(refused.value)

    messages = LoopbackWorld(3, timeout=20).run(program)
    assert messages == ["rank 1: ZeroDivisionError: a fault of its own"] * 3


READABLE = {
    "keys of all kinds": {(1, "a"): 2, None: 3, 1.5: 4, True: 5, b"x": 6},
    "a counter, as MultiStepLR's": collections.Counter([3, 3, 5]),
    "an ordered dict with an attribute": torch.nn.BatchNorm1d(2).state_dict(),
    "a set": {1, 2},
    "bytes that change": bytearray(b"x"),
    "what torch calls things": [torch.device("cpu"), torch.float8_e5m2, torch.Size([1, 2]), torch.strided],
    "numbers": [2**200, -0.0, float("inf"), 1 + 2j, True, None],
}


def test_what_torch_reads_back_safely_is_saved() -> None:
    for name, state in READABLE.items():
        found = unpack(pack(state, name), name)
        assert type(found) is type(state), name
        assert str(found) == str(state), name
    tensors = {
        "bfloat16": torch.randn(3).bfloat16(),
        "sparse": torch.sparse_coo_tensor([[0, 2]], [1.0, 2.0], (3,), check_invariants=True),
        "a parameter": torch.nn.Parameter(torch.ones(2)),
    }
    for name, tensor in tensors.items():
        assert str(unpack(pack(tensor, name), name)) == str(tensor), name


@each("optimizer", [torch.optim.SGD, torch.optim.AdamW, torch.optim.LBFGS, torch.optim.Adafactor])
def test_states_of_stock_schedules_and_optimizers_are_saved(optimizer: Any) -> None:
    stock = torch.optim.lr_scheduler
    parameters = [torch.nn.Parameter(torch.ones(2, 2))]
    made: Any = optimizer(parameters, lr=0.1)
    parameters[0].square().sum().backward()
    made.step(lambda: torch.tensor(1.0))
    pack(made.state_dict(), optimizer.__name__)
    for name, options in {
        "MultiStepLR": {"milestones": [3, 5]}, "StepLR": {"step_size": 2}, "CosineAnnealingLR": {"T_max": 4},
        "ReduceLROnPlateau": {}, "CosineAnnealingWarmRestarts": {"T_0": 3}, "ExponentialLR": {"gamma": 0.9},
        "LambdaLR": {"lr_lambda": lambda step: 0.9**step}, "LinearLR": {}, "PolynomialLR": {},
    }.items():  # fmt: skip
        schedule = getattr(stock, name)(made, **options)
        assert unpack(pack(schedule.state_dict(), name), name) is not None, name
    chained = stock.SequentialLR(made, [stock.ConstantLR(made), stock.MultiStepLR(made, [2])], [2])
    pack(chained.state_dict(), "SequentialLR")


def test_what_could_not_be_read_back_is_named_with_its_path() -> None:
    for path, state in {
        "position['best'][1]: expected .* got numpy.float64": {"best": [1, np.float64(2)]},
        "position['a'].*got numpy.ndarray": {"a": np.ones(2)},
        "position: key .*got builtins.frozenset": {frozenset([1]): 2},
        "position['b']['c']: expected .*got collections.defaultdict": {"b": {"c": collections.defaultdict(int, d=1)}},
        "position['e'][0]: .*got builtins.function": {"e": (lambda: 1,)},
        "position['f']: .*got torch.nn.modules.linear.Linear": {"f": torch.nn.Linear(1, 1)},
        "position: element .*got builtins.range": {range(3)},
    }.items():
        with pytest.raises(StateError, match=path.replace("[", r"\[").replace("]", r"\]")):
            pack(state, "position")


class Harmful:
    """Touch a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, (str(self.path), "w"))


def test_no_file_executes_what_it_holds(tmp_path: Path) -> None:
    """Whatever wrote it: pickle, torch in its old and its new format, also inside a checkpoint whose hash is right."""
    mark = tmp_path / "executed"
    legacy, modern = io.BytesIO(), io.BytesIO()
    torch.save({"a": Harmful(mark)}, legacy, _use_new_zipfile_serialization=False)
    torch.save({"a": torch.ones(2), "b": [Harmful(mark)]}, modern)
    script = io.BytesIO()
    torch.jit.save(torch.jit.script(torch.nn.Identity()), script)
    files = {
        "a pickle": pickle.dumps(Harmful(mark)),
        "the old format": legacy.getvalue(),
        "the new format": modern.getvalue(),
        "a program of torch": script.getvalue(),
        "nothing": b"\0",
    }
    for name, content in files.items():
        with pytest.raises(StateError, match="other: expected a state written by this version"):
            unpack(content, "other")
        directory = tmp_path / name
        CheckpointStore(directory).write(1, content)

        def program(ranks: LoopbackCommunicator, directory: Path = directory) -> None:
            with pytest.raises(CheckpointError, match="rank 0: .*expected a state written by this version"):
                Training(ranks, directory).checkpoint.restore()

        LoopbackWorld(2, timeout=20).run(program)
        whole = {"settings": {"seed": 1}, "position": {}, "shared": {}, "parts": [content] * 2}
        inside = tmp_path / f"inside: {name}"
        CheckpointStore(inside).write(1, pack(whole, "whole"))

        def inner(ranks: LoopbackCommunicator, directory: Path = inside) -> None:
            with pytest.raises(StateError, match="rank 0: .*expected a state written by this version"):
                Training(ranks, directory).checkpoint.restore()

        LoopbackWorld(2, timeout=20).run(inner)
        assert not mark.exists(), name


def test_generators_draw_the_same_numbers_again() -> None:
    def draw() -> list[float]:
        return [random.random(), float(np.random.normal()), float(torch.randn(1))]

    state = unpack(pack(random_state.capture(), "random"), "random")
    drawn = draw()
    assert draw() != drawn
    random_state.put_back(state)
    assert draw() == drawn

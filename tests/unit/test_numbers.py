"""The numbers every rank gets: their mean over 10 000 draws, at every magnitude, and draws that know nothing of others.

A group here is one bucket 10 000 times over: each copy is a draw of its own, so one step has as many as a long run.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from alq_hvd.codec.base import Codec
from alq_hvd.codec.choice import choose_codec
from alq_hvd.codec.keys import StreamKey, random_bits, stream_key
from alq_hvd.codec.native import NativeCodec, instruction_sets
from alq_hvd.codec.reference import ReferenceCodec
from alq_hvd.communicator.loopback import LoopbackCommunicator, LoopbackWorld
from alq_hvd.engine.aggregator import Aggregator
from alq_hvd.engine.options import Options
from alq_hvd.engine.transport import PlainTransport
from alq_hvd.quantiser.record import RecordLayout, Stamp
from tests.support.grid import grid

DRAWS, BUCKET = 10_000, 16
CODECS = [ReferenceCodec(), *(NativeCodec(name) for name in instruction_sets())]
METHODS: dict[str, dict[str, Any]] = {
    "optimal": {"method": "optimal"},
    "no zero level": {"method": "optimal", "zero_level": False},
    "alq": {"method": "alq", "bits": 4},
    "nuqsgd": {"method": "nuqsgd"},
    "1 bit": {"method": "qsgdinf", "bits": 1},
    "8 bits": {"method": "qsgdinf", "bits": 8},
    "rotated": {"method": "optimal", "rotate": True},
    "terngrad": {"method": "terngrad", "bits": 2, "clip": np.inf},
}
WORLDS = {"allgather": [(1, 3), (1, 7)], "two_shot": [(1, 5), (1, 3)], "hierarchical": [(3, 2)]}


def contents() -> dict[str, np.ndarray]:
    """Return one bucket of every kind, float32[BUCKET]."""
    random = np.random.default_rng(5)
    normal = random.standard_normal(BUCKET)
    sparse = np.where(np.arange(BUCKET) % 8 == 3, normal, 0)
    return {
        name: values.astype(np.float32)
        for name, values in {
            "normal": normal,
            "heavy tails": random.standard_t(2, BUCKET),
            "mostly zeros": sparse,
            "constant": np.full(BUCKET, -0.3),
            "signs": random.choice([-1.0, 1.0], BUCKET),
            "ties": random.choice([-1.0, -5 / 7, -1 / 3, -0.125, 0, 0.25, 0.5, 1.0], BUCKET),
            "one that dwarfs the others": np.where(np.arange(BUCKET) == 9, 1e3, normal),
            "next to nothing": 1e-36 * normal,
            "nearly all there is": 1e36 * normal,
        }.items()
    }


def options_of(method: str, **more: Any) -> Options:
    return Options(**{"bits": 3, "bucket_size": BUCKET, "schedule": [], **METHODS[method], **more})


def require_mean(draws: np.ndarray, truth: np.ndarray, case: object) -> None:
    """Require that the mean of float64[DRAWS, BUCKET] is ``truth`` within what their own scatter explains.

    Where no draw differs from another, the chance of another level is below 8 in DRAWS, and so is the error in gaps.
    """
    error, largest = draws.mean(axis=0) - truth, np.abs(truth).max()
    scatter = draws.std(axis=0) / np.sqrt(len(draws))
    still = scatter <= 1e-7 * largest
    assert np.abs(error[still]).max(initial=0) <= 2 * 8 / len(draws) * largest, case
    scores = error[~still] / scatter[~still]
    assert np.abs(scores).max(initial=0) < 5.5, case
    if scores.size >= 8:
        assert np.square(scores).mean() < 1 + 6 * np.sqrt(2 / scores.size), case


def copies(bucket: np.ndarray) -> np.ndarray:
    return np.tile(bucket, DRAWS)


def test_every_codec_has_the_right_mean_for_every_content() -> None:
    for codec in CODECS:
        for method in METHODS:
            if codec.name == "reference" and method not in ("optimal", "rotated"):
                continue  # its bytes are the others' bytes: tests/unit/test_codec_bytes.py
            options = options_of(method)
            levels, layout = options.resolve().initial(options.bits_of_shots[0]), None
            for number, (content, bucket) in enumerate(contents().items()):
                layout = RecordLayout(DRAWS * BUCKET, options.quantiser())
                stamp, key = Stamp(levels.digest, 0, 0), stream_key(seed=1, step=number, rank=0, group=0, shot=0)
                record = codec.encode(copies(bucket), layout, levels, key, stamp)
                draws = codec.decode_sum([record], layout, levels, [stamp], 1.0).astype(np.float64)
                require_mean(draws.reshape(DRAWS, BUCKET), bucket.astype(np.float64), (codec, method, content))


def test_every_exchange_has_the_right_mean_in_worlds_of_3_5_6_and_7() -> None:
    """Also with levels that were fitted, and after sums were quantised once more; ranks hold different gradients."""
    base = contents()["normal"]
    for method in ("alq", "rotated"):
        for exchange, worlds in WORLDS.items():
            for nodes, per_node in worlds:
                size = nodes * per_node
                placed = grid(nodes, per_node) if nodes > 1 else lambda ranks: ranks

                def program(
                    ranks: LoopbackCommunicator, method: str = method, exchange: str = exchange, placed: Any = placed
                ) -> np.ndarray | None:
                    own = Aggregator(options_of(method, exchange=exchange, schedule=[0]), choose_codec("auto"))
                    own.connect(PlainTransport(placed(ranks)), ranks)
                    for _ in range(2):
                        own.start(0, copies(np.roll(base, ranks.rank)))
                        result = own.result(0, 1 / ranks.size).copy()
                        own.end_step()
                    return result if ranks.rank == 0 else None

                (result, *_) = LoopbackWorld(size).run(program)
                truth = np.mean([np.roll(base, rank) for rank in range(size)], axis=0, dtype=np.float64)
                assert result is not None
                require_mean(result.astype(np.float64).reshape(DRAWS, BUCKET), truth, (method, exchange, size))


def test_a_gradient_times_a_power_of_two_is_decoded_to_just_that() -> None:
    """From where norms are the smallest normal numbers to where they are the largest: no epsilon anywhere."""
    for codec in (ReferenceCodec(), NativeCodec()):
        for method in METHODS:
            options = options_of(method)
            levels = options.resolve().initial(options.bits_of_shots[0])
            bucket = contents()["normal"]
            bucket = (bucket / np.abs(bucket).max()).astype(np.float32)
            one = decoded(codec, options, levels, bucket)
            for power in (-120, -100, -40, -1, 7, 60, 110, 120):
                factor = np.float32(2.0**power)
                expected = one * factor
                found = decoded(codec, options, levels, bucket * factor)
                assert np.array_equal(found, expected), (codec.name, method, power)
            for power in (-149, -140, -130):
                found = decoded(codec, options, levels, bucket * np.float32(2.0**power))
                assert np.abs(found).max() <= 2.0**power, (codec.name, method, power)


def decoded(codec: Codec, options: Options, levels: Any, values: np.ndarray) -> np.ndarray:
    layout, stamp = RecordLayout(len(values), options.quantiser()), Stamp(levels.digest, 0, 0)
    record = codec.encode(values, layout, levels, stream_key(seed=1, step=0, rank=0, group=0, shot=0), stamp)
    return codec.decode_sum([record], layout, levels, [stamp], 1.0)


BASE = {"seed": 3, "step": 5, "rank": 1, "group": 2, "shot": 0}
OTHERS: dict[str, dict[str, int]] = {
    **{f"rank {rank}": {"rank": rank} for rank in (0, 2, 3, 511)},
    **{f"step {step}": {"step": step} for step in (4, 6, 5 + 2**31)},
    **{f"group {group}": {"group": group} for group in (0, 1, 3, 1000)},
    "shot": {"shot": 1},
    "seed": {"seed": 4},
    "rank and step exchanged": {"rank": 5, "step": 1},
    "step and group exchanged": {"step": 2, "group": 5},
}


def bits_of(key: StreamKey, signs: str | None, start: int = 0) -> np.ndarray:
    """Return the highest bit, which decides a coordinate half way between two levels, of 2^18 elements: -1 or 1."""
    index = np.arange(start, start + 2**18, dtype=np.uint32)
    source = key if signs is None else getattr(key, signs)
    return (random_bits(source, index) >> np.uint32(31)).astype(np.int8) * 2.0 - 1


def test_streams_of_ranks_steps_groups_shots_and_seeds_know_nothing_of_each_other() -> None:
    """Correlation of the deciding bits, of neighbours in a stream, and of signs with the bits they are applied to."""
    bound = 5 / np.sqrt(2**18)
    own = stream_key(**BASE)
    for signs in (None, "own_signs"):
        reference = bits_of(own, signs)
        assert abs(reference.mean()) < bound
        for distance in (1, 2, 31, 32, 1024, 65536):
            assert abs(np.mean(reference[distance:] * reference[:-distance])) < 1.2 * bound, (signs, distance)
        for name, change in OTHERS.items():
            other = stream_key(**{**BASE, **change})
            assert abs(np.mean(reference * bits_of(other, signs))) < bound, (signs, name)
    rounding = bits_of(own, None)
    for signs in ("own_signs", "shared_signs"):
        assert abs(np.mean(rounding * bits_of(own, signs))) < bound, signs
    shared = bits_of(own, "shared_signs")
    for name, change in OTHERS.items():
        other = bits_of(stream_key(**{**BASE, **change}), "shared_signs")
        same = set(change) == {"rank"}
        assert np.array_equal(shared, other) if same else abs(np.mean(shared * other)) < bound, name


def test_errors_of_ranks_that_hold_the_same_gradient_average_out_in_every_exchange() -> None:
    """Shared random numbers would leave the error of the mean where it is, whatever the number of ranks.

    Ranks that share out their numbers, the default, do better than by one over their number.
    """
    base = contents()["heavy tails"]

    def error(method: str, size: int, correlated: bool) -> float:
        def program(ranks: LoopbackCommunicator) -> np.ndarray:
            own = Aggregator(options_of(method, exchange="allgather", correlated=correlated), choose_codec("auto"))
            own.connect(PlainTransport(ranks), ranks)
            own.start(0, copies(base))
            return own.result(0, 1 / size)

        result = LoopbackWorld(size).run(program)[0]
        return float(np.square(result.astype(np.float64) - copies(base)).mean())

    for method in ("optimal", "rotated"):
        few, many = error(method, 2, False), error(method, 14, False)
        assert abs(few / many - 7) < 0.35, method
        assert error(method, 14, True) < 0.5 * many, method


def test_empty_tiny_and_large_groups_keep_their_lengths_and_their_error() -> None:
    options = options_of("optimal", bucket_size=1024)
    levels = options.resolve().initial(3)
    codec = choose_codec("auto")
    errors = []
    for elements in (0, 1, 2, 1023, 1025, 2**22 + 1, 2**24 + 3):
        values = np.random.default_rng(1).standard_normal(elements, dtype=np.float32)
        found = decoded(codec, options, levels, values)
        assert len(found) == elements
        assert np.isfinite(found).all()
        if elements > 10**6:
            errors.append(float(np.square(found - values).mean() / np.square(values).mean()))
    assert abs(errors[0] / errors[1] - 1) < 0.01

"""Blocks of a record have widths of their own: bytes, bias, budgets, every exchange, states, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from codec_cases import CODECS, same_floats, stamp_for

from alq_hvd.codec.base import Codec, FloatArray
from alq_hvd.codec.choice import choose_codec
from alq_hvd.codec.keys import stream_key
from alq_hvd.codec.native import NativeCodec
from alq_hvd.communicator.loopback import LoopbackCommunicator, LoopbackWorld
from alq_hvd.engine.aggregator import Aggregator
from alq_hvd.engine.options import Options
from alq_hvd.engine.transport import PlainTransport
from alq_hvd.errors import AlqError, ConfigurationError, StateError, WireFormatError
from alq_hvd.quantiser.config import NEAREST_ERRORS
from alq_hvd.quantiser.levels_by_width import LevelsByWidth
from alq_hvd.quantiser.record import HEADER, RecordLayout, Stamp, seal
from alq_hvd.quantiser.widths import STEPS, WHOLE, Ladder, share_out
from tests.support.exchanging import aggregate, gradient
from tests.support.grid import grid

METHODS: dict[str, dict[str, Any]] = {
    "eden": {"method": "eden"},
    "optimal": {"method": "optimal"},
    "optimal rotated, dithered": {"method": "optimal", "rotate": True, "dither": True},
    "alq clipped": {"method": "alq", "clip": 2.5},
}


def options(bits: float = 1.5, **given: Any) -> Options:
    return Options.of(given.pop("method", "eden"), bits=bits, widths="adaptive", **given)


def made(elements: int, bits: float = 1.5, shot: int = 0, **given: Any) -> tuple[RecordLayout, LevelsByWidth]:
    """Return the layout and the first levels of an option set."""
    chosen = options(bits, **{"exchange": "two_shot", **given})
    levels = chosen.levels(shot)[1]
    assert isinstance(levels, LevelsByWidth)
    return RecordLayout(elements, chosen.quantiser(shot)), levels


def spread(elements: int, seed: int = 0) -> FloatArray:
    """Return a gradient over many orders of magnitude, with exact zeros in a quarter of its blocks."""
    generator = np.random.default_rng(seed)
    scale = np.repeat(np.exp(2 * generator.standard_normal(elements // 256 + 1)), 256)[:elements]
    values = (generator.standard_normal(elements) * scale).astype(np.float32)
    values[elements // 4 // 1024 * 1024 : elements // 2 // 1024 * 1024] = 0
    return values


def sent(codec: Codec, values: FloatArray, layout: RecordLayout, levels: LevelsByWidth, step: int = 0, **key: int):
    own = stream_key(seed=1, step=step, rank=0, group=0, shot=0, **key).at(4096)
    return codec.encode(values, layout, levels, own, stamp_for(levels))


def test_codecs_write_the_same_bytes() -> None:
    for name, given in METHODS.items():
        for elements, bucket_size, bits in ((0, 64, 1), (77, 1024, 0.5), (9_000, 128, 0.75), (13_500, 3072, 3.2)):
            case = f"{name}, {elements} elements in buckets of {bucket_size}, {bits} bits"
            layout, levels = made(elements, bits, shot=1, bucket_size=bucket_size, **given)
            values = spread(elements)
            if elements > 9000:
                values[5000], values[200:202] = np.nan, np.float32(3e38)
            results = []
            for codec in CODECS.values():
                kept = values[::-1].copy() * np.float32(0.1)
                key = stream_key(seed=1, step=2, rank=3, group=4, shot=0).at(1 << 20)
                with np.errstate(all="ignore"):
                    plain = codec.encode(values, layout, levels, key, stamp_for(levels))
                    fed = codec.encode(values, layout, levels, key, stamp_for(levels), kept)
                    total = codec.decode_sum([plain, fed], layout, levels, [stamp_for(levels)] * 2, 0.5)
                assert len(plain) == layout.record_bytes, case
                results.append((plain, fed, total, kept))
            for other in results[1:]:
                assert all(np.array_equal(*pair) for pair in zip(results[0][:2], other[:2], strict=True)), case
                assert all(same_floats(*pair) for pair in zip(results[0][2:], other[2:], strict=True)), case


def test_bytes_do_not_depend_on_threads() -> None:
    values = spread(200_123)
    for name in ("eden", "optimal rotated, dithered"):
        layout, levels = made(len(values), 1.3, shot=1, bucket_size=512, **METHODS[name])
        results = []
        for threads in (1, 3):
            codec, kept = NativeCodec(threads=threads), values[::-1].copy()
            key = stream_key(seed=1, step=2, rank=3, group=4, shot=0)
            record = codec.encode(values, layout, levels, key, stamp_for(levels), kept)
            results.append((record, kept, codec.decode_sum([record], layout, levels, [stamp_for(levels)], 1.0)))
        assert all(np.array_equal(*pair) for pair in zip(*results, strict=True)), name


def test_widths_follow_energy_within_the_budget() -> None:
    values = spread(2**16)
    energy = np.square(values.astype(np.float64)).reshape(-1, 1024).sum(axis=1)
    for bits in (0.5, 1, 2.25, 3, 8):
        layout, levels = made(len(values), bits)
        widths = layout.widths(sent(CODECS["reference"], values, layout, levels))
        assert widths.mean() <= bits and (widths[energy == 0] == 0).all()
        order = np.argsort(energy)
        certain = widths[order] > Ladder.of(levels, True).base  # those are not left to chance
        assert (np.diff(widths[order][certain].astype(int)) >= -1).all(), "ties apart, more energy has more bits"
        assert certain.any()


def test_rows_that_are_left_over_are_used_up() -> None:
    layout, levels = made(64 * 1024, 3.5)
    for keeps_all in (True, False):
        widths, _ = share_out(np.ones(64), layout, Ladder.of(levels, keeps_all), 0)
        assert sorted(set(widths.tolist())) == [3, 4] and widths.sum() == layout.word_rows


def test_the_largest_budget_is_never_exceeded_and_never_needed() -> None:
    generator = np.random.default_rng(0)
    for trial in range(300):
        elements = int(generator.integers(1, 40_000))
        bucket_size = int(generator.choice([16, 256, 1024, 2048, 7168]))
        layout, levels = made(elements, float(generator.uniform(0.5, 8)), bucket_size=bucket_size)
        energies = np.exp2(generator.uniform(-260, 260, layout.buckets)) * (generator.random(layout.buckets) < 0.8)
        ladder = Ladder.of(levels, bool(trial % 2))
        widths, chances = share_out(energies, layout, ladder, int(generator.integers(WHOLE)))
        assert layout.rows_of(widths).sum() <= layout.word_rows, trial
        assert ((widths == 0) | (widths >= ladder.base)).all() and (chances >= 1).all() and (chances <= WHOLE).all()


def test_small_blocks_are_kept_at_random_without_bias() -> None:
    """The mean over n steps is off by 1/n of a step's error: nothing is lost, at the smallest budget, too."""
    values, steps = spread(2**14), 400
    for name, given in METHODS.items():
        if name != "alq clipped":  # clipping is a bias
            layout, levels = made(len(values), 0.5, **given)
            codec, total, error = CODECS["avx2" if "avx2" in CODECS else "baseline"], np.zeros(len(values)), 0.0
            for step in range(steps):
                record = sent(codec, values, layout, levels, step)
                decoded = codec.decode_sum([record], layout, levels, [stamp_for(levels)], 1.0).astype(np.float64)
                total += decoded
                error += float(np.square(decoded - values).sum()) / steps
            assert np.square(total / steps - values).sum() < 1.3 * error / steps, name


def test_the_chance_of_a_block_is_its_share_of_draws() -> None:
    layout, levels = made(8 * 1024, 0.5)
    energies = np.exp2(np.arange(8) * 2.0)
    kept, chance = np.zeros(8), np.zeros(8)
    for draw in range(0, WHOLE, 64):
        widths, chances = share_out(energies, layout, Ladder.of(levels, True), draw)
        kept += widths > 0
        chance = np.maximum(chance, np.where(widths > 0, chances, 0))
    assert np.allclose(kept * 64, chance, atol=64) and kept.min() > 0


def test_error_feedback_leaves_blocks_out_and_remembers_them() -> None:
    values = spread(2**15)
    layout, levels = made(len(values), 0.5)
    codec, residual, total = CODECS["baseline"], np.zeros(len(values), np.float32), np.zeros(len(values))
    for step in range(60):
        key = stream_key(seed=1, step=step, rank=0, group=0, shot=0)
        record = codec.encode(values, layout, levels, key, stamp_for(levels), residual)
        total += codec.decode_sum([record], layout, levels, [stamp_for(levels)], 1.0)
    lost = 60 * values.astype(np.float64) - total
    assert np.square(lost - residual).sum() < 1e-6 * np.square(lost).sum()
    assert np.square(lost / 60).sum() < 0.01 * np.square(values.astype(np.float64)).sum()


def test_exact_zeros_stay_zero_and_broken_buckets_become_nan() -> None:
    values = spread(2**15)
    values[20_000] = np.inf
    for name, given in METHODS.items():
        layout, levels = made(len(values), 1, **given)
        for codec in CODECS.values():
            with np.errstate(all="ignore"):
                record = sent(codec, values, layout, levels)
                decoded = codec.decode_sum([record] * 3, layout, levels, [stamp_for(levels)] * 3, 1.0)
            assert np.array_equal(np.isnan(decoded), np.arange(len(values)) // 1024 == 20_000 // 1024), name
            assert not decoded[2**13 : 2**14].any(), name


def test_a_broken_bucket_without_bits_is_still_told() -> None:
    layout, levels = made(4096, 1, bucket_size=512)
    values = np.zeros(4096, np.float32)
    values[1500] = np.nan
    for codec in CODECS.values():
        decoded = codec.decode_sum([sent(codec, values, layout, levels)], layout, levels, [stamp_for(levels)], 1.0)
        assert np.array_equal(np.isnan(decoded), np.arange(4096) // 512 == 2)


def test_far_less_error_than_uniform_at_equal_bytes() -> None:
    values, uniform = spread(2**17), Options.of("eden", bits=3)
    config, table = uniform.quantiser(), uniform.resolve().initial(3)
    plain = RecordLayout(len(values), config)
    layout, levels = made(len(values), 3 - 8 / 1024)
    assert layout.record_bytes <= plain.record_bytes

    def error(layout: RecordLayout, levels: Any) -> float:
        codec, key = CODECS["baseline"], stream_key(seed=1, step=0, rank=0, group=0, shot=0)
        record = codec.encode(values, layout, levels, key, Stamp(levels.digest, 0, 0))
        decoded = codec.decode_sum([record], layout, levels, [Stamp(levels.digest, 0, 0)], 1.0)
        return float(np.square(decoded.astype(np.float64) - values).sum())

    assert error(layout, levels) < 0.1 * error(plain, table)


def test_steps_follow_what_the_tables_lose() -> None:
    levels = made(1024)[1]
    assert Ladder.of(levels, True).base == 1
    steps = np.diff(Ladder.of(levels, True).steps[2:])
    assert (np.abs(steps - 2 * STEPS) <= 2).all(), "about a bit for two octaves of energy"
    rotated = made(1024, method="optimal", rotate=True)[1]
    assert Ladder.of(rotated, True).base in (2, 3), "one bit of stochastic rounding loses more than a dropped block"


def test_records_whose_widths_do_not_add_up_are_refused() -> None:
    values = spread(8192)
    for method, lowest in (("eden", 1), ("optimal", 2)):
        layout, levels = made(len(values), 1, method=method)
        good, stamp = sent(CODECS["reference"], values, layout, levels), stamp_for(levels)
        for name, change in {
            "too wide": lambda widths: widths.__setitem__(0, 9),
            "too many": lambda widths: widths.__setitem__(slice(None), 8),
            "no table": lambda widths: widths.__setitem__(slice(None), [1] + [0] * (len(widths) - 1)),
        }.items():
            if name == "no table" and lowest == 1:
                continue
            bad = good.copy()
            change(layout.widths(bad))
            seal(bad, layout, stamp)
            for codec in CODECS.values():
                with pytest.raises(WireFormatError, match="expected widths"):
                    codec.decode_sum([bad], layout, levels, [stamp], 1.0)
        for flipped in (3, 4, HEADER.size + 1, layout.widths_offset, layout.codes_offset):
            bad = good.copy()
            bad[flipped] ^= 1
            with pytest.raises(WireFormatError):
                CODECS["baseline"].decode_sum([bad], layout, levels, [stamp], 1.0)


def test_kinds_of_levels_and_records_do_not_mix() -> None:
    layout, levels = made(4096)
    uniform = Options.of("eden", bits=2)
    table, plain = uniform.resolve().initial(2), RecordLayout(4096, uniform.quantiser())
    for codec in CODECS.values():
        for wrong_layout, wrong_levels in ((layout, table), (plain, levels)):
            with pytest.raises(ConfigurationError, match="table of levels"):
                sent(codec, spread(4096), wrong_layout, wrong_levels)  # type: ignore[arg-type]
    record = sent(CODECS["reference"], spread(4096), layout, levels)
    with pytest.raises(WireFormatError, match="version 1, got b'ALQ' version 2"):
        CODECS["baseline"].decode_sum([record], plain, table, [stamp_for(table)], 1.0)


def test_bad_options_have_one_clear_error_each() -> None:
    for given, message in (
        ({"bits": 0.3}, "expected a mean of 0.5 to 8 bits"),
        ({"bits": 9}, "expected a mean of 0.5 to 8 bits"),
        ({"bits": float("nan")}, "expected a mean of 0.5 to 8 bits"),
        ({"bits": 3.5, "widths": "uniform"}, "widths='adaptive'"),
        ({"widths": "wide"}, "widths: expected one of uniform, adaptive"),
        ({"method": "terngrad"}, "widths: expected a method of 1 to 8 bits"),
        ({"method": "none"}, "widths: expected a method of 1 to 8 bits"),
        ({"bucket_size": 1000}, "divisor or a multiple of 1024"),
    ):
        chosen = {"method": "eden", "bits": 1.5, "widths": "adaptive", **given}
        with pytest.raises(ConfigurationError, match=message):
            Options.of(chosen.pop("method"), **chosen)


def test_every_exchange_averages_and_all_ranks_get_the_same_bits() -> None:
    for method in ({"method": "eden"}, {"method": "amq", "rotate": True}):
        for exchange, ranks, more in (
            ("allgather", 3, {}),
            ("two_shot", 3, {"bits": (4.5, 6)}),
            ("hierarchical", 4, {}),
            ("two_shot", 2, {"error_feedback": True}),
        ):
            given = {"bits": 4.5, "widths": "adaptive", "exchange": exchange, "schedule": [0], **method, **more}
            on_nodes = grid(2, 2)

            def program(
                world: LoopbackCommunicator, given: dict[str, Any] = given, on_nodes: Any = on_nodes
            ) -> tuple[FloatArray, Any]:
                placed = on_nodes(world) if given["exchange"] == "hierarchical" else world
                mean, aggregator = aggregate(placed, 12_000, steps=2, **given)  # type: ignore[arg-type]
                return mean, aggregator.metrics()

            results = LoopbackWorld(ranks).run(program)
            exact = np.mean([gradient(rank, 12_000, step=1) for rank in range(ranks)], axis=0)
            for mean, metrics in results:
                assert np.array_equal(mean, results[0][0])
                assert metrics["relative_variance"] < 1, (method, exchange)
            off = np.square(results[0][0] - exact).sum() / np.square(exact).sum()
            assert off < 0.3, (method, exchange, off)
            accepted = [entry["accepted"] for entry in results[0][1]["adaptations"]]
            assert any(accepted) == (method["method"] != "eden"), (method, accepted)


def test_a_part_of_a_group_gets_bits_as_the_whole_would() -> None:
    """A two-shot cuts the group into a chunk a rank; all of the gradient is in the first of four."""
    values = np.zeros(2**17 + 100, np.float32)
    values[: 2**15] = np.random.default_rng(0).standard_normal(2**15)
    values[-50:] = 1

    def program(world: LoopbackCommunicator) -> FloatArray:
        aggregator = Aggregator(options(1, exchange="two_shot"), choose_codec("auto"))
        aggregator.connect(PlainTransport(world), world)
        aggregator.start(0, values.copy())
        mean: FloatArray = aggregator.result(0, 1 / world.size)
        return mean

    for mean in LoopbackWorld(4).run(program):
        off = np.square(mean - values).sum() / np.square(values).sum()
        assert off < 2 * (NEAREST_ERRORS[3] / 4 + NEAREST_ERRORS[3]), "4 bits where there is something, not 1"


def test_a_resumed_run_goes_on_bit_for_bit() -> None:
    given = {
        "method": "amq",
        "bits": 2.5,
        "widths": "adaptive",
        "exchange": "two_shot",
        "schedule": [1, 3],
        "rotate": True,
    }
    given |= {"error_feedback": True}

    def run(world: LoopbackCommunicator, resume_at: int | None) -> list[FloatArray]:
        def fresh() -> Aggregator:
            made = Aggregator(Options(**given), choose_codec("auto"))
            made.connect(PlainTransport(world), world)
            made.lay_out(1)
            return made

        aggregator, means = fresh(), []
        for step in range(6):
            if step == resume_at:
                state = aggregator.state_dict()
                aggregator = fresh()
                aggregator.load_state_dict(state)
            aggregator.start(0, gradient(world.rank, 9000, step=step))
            means.append(aggregator.result(0, 0.5).copy())
            aggregator.end_step()
        return means

    whole = LoopbackWorld(2).run(lambda world: run(world, None))
    for resume_at in (2, 4):
        resumed = LoopbackWorld(2).run(lambda world, at=resume_at: run(world, at))
        for one, other in zip(whole, resumed, strict=True):
            assert all(np.array_equal(*pair) for pair in zip(one, other, strict=True))


def test_states_of_other_widths_are_refused() -> None:
    uniform = Aggregator(Options(method="optimal", bits=3), choose_codec("auto"))
    adaptive = Aggregator(Options(method="optimal", bits=3, widths="adaptive"), choose_codec("auto"))
    for taken, loading in ((uniform, adaptive), (adaptive, uniform)):
        with pytest.raises(StateError, match="widths"):
            loading.load_state_dict(taken.state_dict())
    old = {name: value for name, value in uniform.state_dict().items() if name != "widths"}
    uniform.load_state_dict(old)  # of a version that knew of no other widths


def test_levels_by_width_travel_and_are_kept() -> None:
    levels = made(1024, method="optimal")[1]
    assert LevelsByWidth.from_state_dict(levels.state_dict()) == levels
    again = levels.unpacked(levels.packed, 0)
    assert again == levels and again.digest == levels.digest
    for wrong in (levels.packed[:-1], levels.packed[1:], np.zeros(1, np.float32)):
        with pytest.raises(AlqError):
            levels.unpacked(wrong, 0)

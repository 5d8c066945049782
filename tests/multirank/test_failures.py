"""What a user sees when something is wrong: one clear error on the ranks, within a stated time, and no hang."""

from __future__ import annotations

import pytest

from tests.support.launch import horovodrun

pytestmark = [pytest.mark.multirank, pytest.mark.timeout(450)]


def output_of(what: str, *, ranks: int = 2, gloo: bool = False) -> str:
    """Return what ``failures.py`` prints; it ends by itself, and that within a time."""
    _, output = horovodrun(ranks, "failures.py", what, gloo=gloo, timeout=200, check=False)
    return output


@pytest.mark.parametrize("gloo", [False, True])
def test_different_bits_are_named_with_both_values_and_the_rank(gloo: bool) -> None:
    assert "ConfigurationMismatch: bits: rank 0 has 3, rank 1 has 4" in output_of("bits", gloo=gloo)


def test_adasum_is_refused() -> None:
    assert "UnsupportedReduction: expected a gradient, got a parameter: Horovod's Adasum" in output_of("adasum")


def test_another_call_order_on_one_rank_names_the_remedy() -> None:
    output = output_of("call_order")
    assert "CallOrderError: rank 0, step 2" in output or "CallOrderError: rank 1, step 2" in output
    assert "Pass named_parameters=model.named_parameters() to alq_hvd.Compression" in output


def test_a_rank_without_the_compression_ends_in_an_error_and_not_in_a_hang() -> None:
    """Horovod itself finds a probe on one rank and a gradient on the other: see docs/guides/troubleshooting.md."""
    assert "HorovodInternalError: Mismatched ALLREDUCE tensor shapes" in output_of("not_compressed")


@pytest.mark.parametrize("what", ["dies", "dies_between_shots"])
@pytest.mark.parametrize("gloo", [False, True])
def test_a_rank_that_is_killed_ends_the_others(gloo: bool, what: str) -> None:
    output = output_of(what, gloo=gloo)
    assert "Killed" in output or "signal 9" in output or "HorovodInternalError" in output or "non-zero" in output


def test_a_process_set_that_excludes_this_rank_is_refused() -> None:
    assert "ConfigurationError: process_set: expected one with rank 0" in output_of("excluded")


def test_a_process_set_that_only_the_optimizer_has_is_named() -> None:
    """By ranks that reduce with rank 0, or by those that do not, whoever is first; nobody waits for the others."""
    output = output_of("other_process_set", ranks=4)
    with_rank_0 = "averaged over 2 ranks, this compression was made for 4"
    without = "over the 4 ranks of this compression, got something else"
    assert with_rank_0 in output or without in output
    assert "give the same process_set to" in output
    assert "CommunicationTimeout" not in output


def test_parameters_that_the_optimizer_does_not_train_are_named_in_the_first_step() -> None:
    output = output_of("copied")
    assert "ConfigurationError: named_parameters: expected the parameters that the optimizer trains" in output
    assert "weight had no gradient" in output


def test_a_method_that_was_not_called_says_so() -> None:
    assert "ConfigurationError: compression: expected alq_hvd.Compression.alq(...), got it uncalled" in output_of(
        "not_called"
    )


def test_process_sets_train_apart() -> None:
    results, _ = horovodrun(4, "process_sets.py", timeout=200)
    assert results[0]["digest"] == results[2]["digest"]
    assert results[1]["digest"] == results[3]["digest"]
    assert results[0]["digest"] != results[1]["digest"]
    for result in results:
        assert result["metrics"]["adaptations"][0]["accepted"] is True
        assert result["metrics"]["step"] == 5

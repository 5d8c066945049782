"""What several ranks print through mpirun is read as each rank wrote it."""

from __future__ import annotations

from tests.support.launch import one_rank_after_the_other


def test_a_line_that_was_written_in_pieces_is_joined() -> None:
    torn = "[1,0]<stderr>:alq_hvd.errors.[1,0]<stderr>:ConfigurationError[1,0]<stderr>:: bits: expected 3\n"
    assert one_rank_after_the_other(torn) == "alq_hvd.errors.ConfigurationError: bits: expected 3\n"


def test_pieces_of_another_rank_in_the_middle_are_kept_apart() -> None:
    mixed = "[1,0]<stderr>:Configuration[1,1]<stderr>:Traceback\n[1,0]<stderr>:Error: bits\n[1,1]<stderr>:  File\n"
    assert one_rank_after_the_other(mixed) == "ConfigurationError: bits\nTraceback\n  File\n"


def test_the_two_outputs_of_a_rank_are_kept_apart_and_the_launcher_speaks_first() -> None:
    output = "[0]<stdout>:step[0]<stderr>:Error\n[0]<stdout>: 1\nExit code: 1\n"
    assert one_rank_after_the_other(output) == "Exit code: 1\nstep 1\nError\n"

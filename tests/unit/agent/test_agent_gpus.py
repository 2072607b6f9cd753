import pytest

from runyard_agent.gpus import Gpus, GpusTaken


def test_gpus_are_given_to_one_run_at_a_time() -> None:
    gpus = Gpus(4)

    first = gpus.take(2)
    second = gpus.take(2)

    assert sorted(first + second) == [0, 1, 2, 3]
    with pytest.raises(GpusTaken, match="1 GPUs are wanted, 0 of 4 are free"):
        gpus.take(1)


def test_gpus_given_back_are_free_again() -> None:
    gpus = Gpus(2)
    taken = gpus.take(2)

    gpus.give(taken)

    assert gpus.take(2) == (0, 1)


def test_gpus_of_an_adopted_run_are_not_given_out() -> None:
    gpus = Gpus(2)

    gpus.claim([0])

    assert gpus.take(1) == (1,)


def test_gpus_that_the_node_no_longer_has_are_not_given_out() -> None:
    gpus = Gpus(1)
    gpus.claim([0, 7])

    gpus.give([0, 7])

    with pytest.raises(GpusTaken):
        gpus.take(2)

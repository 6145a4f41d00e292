import random
from itertools import combinations
from typing import get_args

import numpy as np
import pytest
import torch

from actbench.seeding import (
    CROSSED_REPLICATES,
    Purpose,
    Sharing,
    global_stream,
    levels,
    shared_sources,
    stream,
    stream_seed,
)


def test_the_same_key_gives_the_same_numbers():
    first = torch.rand(5, generator=stream(7, "order", 3))

    second = torch.rand(5, generator=stream(7, "order", 3))

    assert torch.equal(first, second)


def test_any_part_of_the_key_gives_other_numbers():
    keys = [(7, "order", 3), (8, "order", 3), (7, "split", 3), (7, "order", 4), (7, "order"), (73, "order")]

    seeds = {stream_seed(*key) for key in keys}

    assert len(seeds) == len(keys)


def test_seeds_fit_a_generator():
    seeds = [stream_seed(seed, "init") for seed in range(1000)]

    assert all(0 <= seed < 2**63 for seed in seeds)
    assert max(seeds) > 2**62


def test_a_global_stream_leaves_the_global_generator_as_it_was():
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)

    with global_stream(7, "init"):
        inside = torch.rand(3)

    assert torch.equal(inside, torch.rand(3, generator=stream(7, "init")))
    assert torch.equal(torch.rand(3), expected)


def test_a_global_stream_is_put_back_after_an_error():
    torch.manual_seed(1)
    expected = torch.get_rng_state()

    with pytest.raises(ZeroDivisionError), global_stream(7, "init"):
        torch.rand(3) / (1 // 0)

    assert torch.equal(torch.get_rng_state(), expected)


def test_sources_that_are_fixed_are_those_of_one_seed():
    with shared_sources(Sharing(fixed=["init", "split"], first=3)):
        same = {purpose: stream_seed(7, purpose) == stream_seed(8, purpose) for purpose in get_args(Purpose)}
        assert stream_seed(8, "init", 2) == stream_seed(3, "init", 2)

    assert {purpose for purpose, value in same.items() if value} == {"init", "activation", "split"}
    assert stream_seed(7, "init") != stream_seed(8, "init")


def test_any_two_columns_of_the_array_hold_every_pair_of_levels_once():
    columns = [levels(column) for column in range(6)]

    for one, other in combinations(columns, 2):
        assert len({*zip(one, other, strict=True)}) == CROSSED_REPLICATES == 25


def test_crossed_sources_have_five_seeds_and_the_others_their_own():
    def keys(purpose):
        return [stream_seed(seed, purpose) for seed in range(10, 35)]

    own = {purpose: keys(purpose) for purpose in get_args(Purpose)}
    with shared_sources(Sharing(fixed=["dropout"], crossed=["init", "order"], first=10)):
        crossed = {purpose: keys(purpose) for purpose in get_args(Purpose)}

    for column, source in enumerate(("init", "order")):
        assert crossed[source] == [own[source][level] for level in levels(column)]
    assert crossed["activation"] == [own["activation"][level] for level in levels(0)]
    assert crossed["dropout"] == [own["dropout"][0]] * 25
    assert crossed["split"] == own["split"]


def test_the_global_generators_are_at_a_stream_and_come_back():
    def numbers():
        return random.random(), float(np.random.rand()), torch.rand(()).item()  # noqa: NPY002

    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    torch.manual_seed(1)
    expected = numbers()
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    torch.manual_seed(1)

    with global_stream(7, "dropout", 3):
        first = numbers()
        with global_stream(8, "dropout"):
            inner = numbers()
        second = numbers()
    with global_stream(7, "dropout", 3):
        assert (numbers(), numbers()) == (first, second)

    assert numbers() == expected
    assert not {*inner} & {*first, *second}

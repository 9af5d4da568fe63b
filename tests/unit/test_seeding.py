"""Streams of random numbers by name."""

import torch

from mtl_runner.seeding import derive, generator, seeded


def test_a_seed_depends_on_seed_names_and_their_order_and_not_on_the_process() -> None:
    seeds = [derive(0, "a", "b"), derive(1, "a", "b"), derive(0, "b", "a"), derive(0, "ab"), derive(0, "a"), derive(0)]
    seeds += [derive(0, "a, b"), derive(0, "a', 'b"), derive(-1)]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert derive(7, "order", "input", 3) == 8577057420536053992  # as another process said


def test_generators_of_one_name_agree_and_of_two_names_are_unrelated() -> None:
    a, same, b = (torch.randn(10_000, generator=generator(0, name)) for name in ("a", "a", "b"))
    assert torch.equal(a, same)
    assert abs(torch.corrcoef(torch.stack([a, b]))[0, 1]) < 0.05


def test_inside_the_context_the_global_generator_is_the_named_one_and_outside_it_is_untouched() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    with seeded(0, "init", "digit"):
        first = torch.rand(3)
        torch.rand(100)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first, torch.rand(3, generator=generator(0, "init", "digit")))


def test_the_global_generator_comes_back_after_an_error_too() -> None:
    before = torch.get_rng_state()
    try:
        with seeded(0, "x"):
            torch.rand(1)
            raise KeyError
    except KeyError:
        pass
    assert torch.equal(torch.get_rng_state(), before)

"""Which group is best by validation, by hand."""

from math import isnan, nan

from mtl_runner.analysis.choice import choose


def series(*values: float | None) -> dict[tuple[int, str], float]:
    """By seed; None where a group has no run of it."""
    return {(seed, ""): value for seed, value in enumerate(values) if value is not None}


def test_groups_take_part_while_half_of_the_firsts_seeds_remain() -> None:
    """``few`` would leave one seed of four, although it is half of those that the other two have in common."""
    found = choose({"many": series(0.5, 0.5, 0.9, 0.9), "half": series(0.6, 0.6), "few": series(1.0)})
    assert found.best == "half" and found.units == {(0, ""), (1, "")} and found.most == 4
    assert (found.values["many"], found.values["half"]) == (0.5, 0.6), "over the two seeds in common"
    assert isnan(found.values["few"]) and found.left_out == ("few",)


def test_those_whose_seeds_most_others_have_come_first() -> None:
    found = choose({"alone": series(None, None, 0.9), "a": series(0.5, 0.5), "b": series(0.4, 0.6, None)})
    assert found.left_out == ("alone",) and found.units == {(0, ""), (1, "")}


def test_of_equal_groups_the_first_is_best_and_without_values_too() -> None:
    assert choose({"x": series(0.5), "y": series(0.5)}).best == "x"
    nothing = choose({"x": series(), "y": series(nan)})
    assert nothing.best == "x" and not nothing.units and nothing.left_out == ()


def test_a_value_that_is_nan_is_none() -> None:
    found = choose({"x": series(nan, 0.5), "y": series(0.9, 0.4)})
    assert found.best == "x" and found.values == {"x": 0.5, "y": 0.4}

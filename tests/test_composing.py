"""What tests put together is what Hydra composes: otherwise they would prove nothing about what a user types."""

import pytest
from composing import by_hydra, composed
from hydra.errors import HydraException

CHOSEN = [
    (),
    ("sharing=soft", "sharing.strength=0.3", "trainer.epochs=3"),
    ("imbalance=[oversample,focal]", "imbalance.focal.tasks=[digit]", "tracker=none", "encoder=cnn", "encoder.channels=[2,3]"),
    ("init_from={run: a/b, frozen: true}", "dataset=synthetic", "dataset.missing=[1,0,0,0]", "seed=3", "name=other"),
    ("sharing=task_graph", "sharing.edges={sort:[yes],size:[sort,yes]}", "weighting=moco", "scheduler=cosine", "seed=${name}"),
    ("dataset=table", "dataset.path=x.csv", "dataset.tasks={t: {type: binary}}", "+dataset.split.by=group", "imbalance=none"),
    ("optimizer=sgd", "sharing=hard", "optimizer=adam", "data_dir='a b'", "trainer.device=cuda:1"),
]


@pytest.mark.parametrize("overrides", CHOSEN, ids=str)
def test_options_and_values_one_by_one_are_all_at_once(overrides: tuple[str, ...]) -> None:
    try:
        expected = by_hydra(*overrides)
    except HydraException as refused:
        with pytest.raises(HydraException, match=f"^{str(refused)[:20]}"):
            composed(*overrides)
        return
    found = composed(*overrides)
    assert found == expected and list(found) == list(expected)
    assert all(found._get_flag(flag) == expected._get_flag(flag) for flag in ("struct", "readonly"))


@pytest.mark.parametrize("wrong", ["sharing=sofft", "trainer.epoch=3", "sed=3", "sharing.sed=3", "imbalance=[focal,focl]"])
def test_what_hydra_refuses_no_test_composes(wrong: str) -> None:
    with pytest.raises(HydraException):
        composed("tracker=none", wrong)


def test_a_configuration_is_ones_own() -> None:
    composed("seed=3").trainer.epochs = 99
    assert composed("seed=3").trainer.epochs == by_hydra().trainer.epochs

"""A product of probabilities needs labels where what comes before did not happen, and says so before anything is trained."""

from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import DictConfig

from mtl_runner import parts
from mtl_runner.config.schema import plain
from mtl_runner.errors import NotApplicable

CLICK = "click:{type:ranking}"


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """Click, cart after it, purchase after that; ``known`` is a purchase's label where there was a cart, else empty."""
    lines = ["user,item,click,cart,purchase,known"]
    for n in range(120):
        click, cart = int(n % 3 != 0), int(n % 3 == 2)
        purchase = cart * (n % 2)
        lines.append(f"u{n % 10},i{n % 7},{click},{cart},{purchase},{purchase if cart else ''}")
    (tmp_path / "rows.csv").write_text("\n".join(lines) + "\n")
    return tmp_path / "rows.csv"


@pytest.mark.parametrize(
    ("tasks", "edges", "said"),
    [
        ("purchase:{type:ranking,after:click}", "{purchase:[click]}", r"none of the \d+ training rows without click has a label"),
        ("purchase:{type:ranking,after:click,otherwise:negative}", "{purchase:[click]}", None),
        ("cart:{type:ranking},known:{type:ranking}", "{cart:[click],known:[cart]}", r"without cart has a label of known, which"),
        ("cart:{type:ranking},purchase:{type:ranking}", "{cart:[click],purchase:[cart]}", None),
    ],
)
def test_labels_of_clicked_rows_alone_are_refused(
    tasks: str, edges: str, said: str | None, rows: Path, make_config: Callable[..., DictConfig]
) -> None:
    data = ("dataset=recsys", f"dataset.path={rows}", f"dataset.tasks={{{CLICK},{tasks}}}", "encoder=embedding")
    common = (*data, "dataset.user=user", "dataset.item=item", "dataset.ignore=[cart,purchase,known]", "sharing=task_graph")
    node = plain(make_config(*common, f"sharing.edges={edges}", "sharing.through=product"))
    if said is None:
        parts.make(node)
        return
    with pytest.raises(NotApplicable, match=rf"sharing\.through=product: .*{said}"):
        parts.make(node)
    parts.make(plain(make_config(*common, f"sharing.edges={edges}", "sharing.through=outputs")))

"""Interactions: ids, joined features, behaviours that follow others, and splits with new users and items."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch

from mtl_runner.batch import Data, labelled
from mtl_runner.datasets.interacting.joined import Joined
from mtl_runner.datasets.interactions import Interactions
from mtl_runner.datasets.prepared import read_preparation
from mtl_runner.datasets.recsys import Recsys
from mtl_runner.errors import UserError

ROWS, USERS, ITEMS = 600, 40, 30
TASKS: dict[str, Any] = {
    "click": {"type": "ranking"},
    "purchase": {"type": "ranking", "after": "click", "otherwise": "negative"},
    "stars": {"type": "rating", "bounds": [1, 5]},
}


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Any]:
    """Interactions, with purchases where there was a click; three users and the last item are not in their files."""
    draws = np.random.default_rng(0)
    click = draws.random(ROWS) < 0.3
    rows = pd.DataFrame(
        {
            "user": [f"u{user}" for user in draws.integers(0, USERS, ROWS)],
            "item": draws.integers(0, ITEMS, ROWS),
            "device": draws.choice(["phone", "desk"], ROWS),
            "time": np.arange(ROWS),
            "click": click.astype(int),
            "purchase": np.where(click, draws.random(ROWS) < 0.4, np.nan),
            "stars": np.where(click, draws.integers(1, 6, ROWS), np.nan),
        }
    )
    users = pd.DataFrame({"user": [f"u{user}" for user in range(USERS - 3)], "age": range(20, 20 + USERS - 3)})
    items = pd.DataFrame({"item": range(ITEMS - 1), "genres": [("a|b", "b", "")[item % 3] for item in range(ITEMS - 1)]})
    paths = {}
    for name, table in {"path": rows, "users": users, "items": items}.items():
        paths[name] = str(tmp_path / f"{name}.csv")
        table.to_csv(paths[name], index=False)
    return {**paths, "many": {"genres": "|"}, "ignore": "time"}


def loaded(files: Mapping[str, Any], **options: Any) -> Data:
    return Recsys(**{**files, "tasks": TASKS, **options}).load()


def prepared(data: Data) -> Joined:
    """After a trip through a file."""
    (found,) = read_preparation(json.loads(json.dumps(data.preparation))).values()
    assert isinstance(found, Joined)
    return found


def test_features_are_joined_by_id(files: dict[str, Any]) -> None:
    data = loaded(files)
    spec = data.streams["input"]
    assert spec.names == {
        "categorical": ("user", "item", "device"),
        "numeric": ("age", "genres: a", "genres: b", "age is missing"),
    }
    raw = pd.read_csv(files["path"], dtype=str).iloc[data.splits["train"].context["input"]["row"].numpy()]
    number = raw["user"].str[1:].astype(int).to_numpy()
    numeric = data.splits["train"].inputs["input"]["numeric"].numpy()
    assert ((number >= USERS - 3) == (numeric[:, 3] > 0)).all()
    known = number < USERS - 3
    age = 20 + number[known]
    np.testing.assert_allclose(numeric[known, 0], (age - age.mean()) / age.std(), atol=1e-5)
    item = raw["item"].astype(int).to_numpy()
    has_a, has_b = (item % 3 == 0) & (item < ITEMS - 1), (item % 3 < 2) & (item < ITEMS - 1)
    assert ((numeric[:, 1] > 0) == has_a).all() and ((numeric[:, 2] > 0) == has_b).all()
    assert data.targets["click"].kind == "ranking" and data.targets["stars"].kind == "rating"
    assert data.targets["stars"].options == {"bounds": [1, 5]}


@pytest.mark.parametrize(("otherwise", "missing"), [("negative", 0.0), ("missing", 0.7), (None, 0.7)])
def test_a_behaviour_follows_another(files: dict[str, Any], otherwise: str | None, missing: float) -> None:
    tasks = {**TASKS, "purchase": {"type": "ranking", "after": "click", "otherwise": otherwise}}
    data = loaded(files, tasks=tasks)
    for part, split in data.splits.items():
        click, purchase = split.targets["click"], split.targets["purchase"]
        assert (~labelled(purchase)).float().mean().item() == pytest.approx(missing, abs=0.1), part
        assert labelled(purchase[click == 1]).all()
        if otherwise == "negative":
            assert (purchase[click == 0] == 0).all()
    rows = pa.Table.from_pandas(pd.read_csv(files["path"], dtype=str).fillna(""))
    only = prepared(loaded(files, tasks=tasks, only=["purchase"]))
    assert set(only.target_columns(["purchase"])) == {"purchase", "click"}
    again = only.targets(rows, ["purchase"])["purchase"]
    whole = torch.empty(ROWS).index_copy(
        0,
        torch.cat([split.context["input"]["row"] for split in data.splits.values()]),
        torch.cat([split.targets["purchase"] for split in data.splits.values()]),
    )
    torch.testing.assert_close(again, whole, equal_nan=True)


ORDERS = [("click", "cart", "buy"), ("buy", "cart", "click"), ("cart", "buy", "click")]


def funnel(path: Path, order: Sequence[str], *, filled: bool = False, **otherwise: str) -> tuple[Data, Joined]:
    """Click, cart, buy, each an empty cell, or, ``filled``, a 0, where the one before it has not happened."""
    draws = np.random.default_rng(1)
    click, more, bought = (draws.random(400) < share for share in (0.3, 0.5, 0.5))
    empty, cart = 0 if filled else np.nan, click & more
    rows = {"click": click.astype(int), "cart": np.where(click, more, empty), "buy": np.where(cart, bought, empty)}
    pd.DataFrame({"user": draws.integers(0, 20, 400), "item": draws.integers(0, 20, 400), **rows}).to_csv(path, index=False)
    tasks: dict[str, Any] = {"click": {"type": "ranking"}}
    for name, earlier in (("cart", "click"), ("buy", "cart")):
        tasks[name] = {"type": "ranking", "after": earlier, "otherwise": otherwise.get(name, "negative")}
    data = loaded({"path": str(path)}, tasks={name: tasks[name] for name in order})
    return data, prepared(data)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("filled", [False, True])
@pytest.mark.parametrize(
    ("cart", "buy", "of"),  # of all rows, which have a label of cart and of buy
    [
        ("negative", "negative", ("all", "all")),
        ("missing", "missing", ("click", "cart")),
        ("missing", "negative", ("click", "all")),
        ("negative", "missing", ("all", "cart")),
    ],
)
def test_labels_of_a_chain_do_not_depend_on_the_order_or_the_choice_of_tasks(
    tmp_path: Path, order: Sequence[str], filled: bool, cart: str, buy: str, of: tuple[str, str]
) -> None:
    data, run = funnel(tmp_path / "r.csv", order, filled=filled, cart=cart, buy=buy)
    raw = pd.read_csv(tmp_path / "r.csv").fillna(0)
    where = {"all": np.ones(400, bool), **{name: (raw[name] == 1).to_numpy() for name in ("click", "cart")}}
    rows = pa.Table.from_pandas(pd.read_csv(tmp_path / "r.csv", dtype=str).fillna(""))
    for name, known in (("click", "all"), ("cart", of[0]), ("buy", of[1])):
        expected = torch.tensor(np.where(where[known], raw[name], np.nan)).float()
        for split in data.splits.values():
            torch.testing.assert_close(split.targets[name], expected[split.context["input"]["row"]], equal_nan=True)
        torch.testing.assert_close(run.targets(rows, [name])[name], expected, equal_nan=True)
    assert set(run.target_columns(["buy"])) == {"buy", "cart", "click"}
    assert run.target_columns(["click"]) == ("click",)


def test_rows_that_contradict_a_chain_count_as_rows_without(tmp_path: Path) -> None:
    """Carts and purchases of items that nobody clicked."""
    rows = {
        "user": range(40),
        "item": [1, 2] * 20,
        "click": [0, 0, 1, 1] * 10,
        "cart": [1, 0, 1, 0] * 10,
        "buy": [1, 1, 1, 0] * 10,
    }
    pd.DataFrame(rows).to_csv(tmp_path / "r.csv", index=False)
    follows = {"type": "ranking", "otherwise": "negative"}
    tasks = {"buy": {**follows, "after": "cart"}, "cart": {**follows, "after": "click"}, "click": {"type": "ranking"}}
    data = loaded({"path": str(tmp_path / "r.csv")}, tasks=tasks)
    labels = {name: torch.cat([split.targets[name] for split in data.splits.values()]).sum().item() for name in tasks}
    assert labels == {"buy": 10, "cart": 10, "click": 20}
    assert "task cart: 10 rows have it without click; they count as rows without it" in data.notes
    assert "task buy: 20 rows have it without cart or click; they count as rows without it" in data.notes


def test_a_task_of_clicks_alone_is_said_not_to_be_for_products(tmp_path: Path) -> None:
    said = "sharing.through=product needs dataset.tasks.{}.otherwise=negative"
    for order in ORDERS[:2]:
        data, _ = funnel(tmp_path / "r.csv", order, cart="missing")
        (note,) = [note for note in data.notes if said.format("cart") in note]
        assert note.startswith("task cart: ") and "otherwise: missing" in note
        assert not any(said.format("buy") in note for note in data.notes)


@pytest.mark.parametrize(("by", "column"), [("user", 0), ("item", 1)])
def test_cold_start_tests_on_what_training_has_not_seen(files: dict[str, Any], by: str, column: int) -> None:
    data = loaded(files, split={"by": by, "validation": 0.2, "test": 0.2})
    for part in ("validation", "test"):
        ids = data.splits[part].inputs["input"]["categorical"]
        assert (ids[:, column] == 0).all() and (ids[:, 1 - column] > 0).any()
    assert (data.splits["train"].inputs["input"]["categorical"] > 0).all()
    assert f"{by}s not seen in training: 100 % of the validation rows, 100 % of the test rows" in data.notes
    if by == "user":  # unknown to the model, and still one from the other
        assert len(data.splits["test"].context["input"]["user"].unique()) > 3


def test_a_split_by_time(files: dict[str, Any]) -> None:
    data = loaded(files, ignore=None, split={"by": "time", "column": "time"})
    assert [int(split.context["input"]["row"].max()) for split in data.splits.values()] == [419, 509, 599]
    assert "time" not in data.streams["input"].names["numeric"]


def test_new_rows_need_ids_alone_and_may_bring_features_of_their_own(files: dict[str, Any]) -> None:
    data = loaded(files)
    both, known = prepared(data), {"device": ["phone", "desk", None]}
    rows = pa.table({"user": ["u0", "nobody", None], "item": ["1", "1", "999"], **known})
    fields = both.inputs(rows)
    assert fields["categorical"][:, 0].tolist() == [
        data.preparation["table"]["categories"][0]["vocabulary"].index("u0") + 1,
        0,
        0,
    ]
    assert fields["numeric"][:, 3].tolist() == [0, 1, 1]
    own = both.inputs(rows.append_column("age", pa.array(["", "20", "20"])))
    assert own["numeric"][:, 3].tolist() == [1, 0, 0] and own["numeric"][1, 0] == fields["numeric"][0, 0]
    users = both.context(pa.table({"user": ["u0", "u0 ", "u1", None]}))["user"]
    assert users[0] == users[1] != users[2] != users[3]
    assert both.inputs(both.blank(2))["categorical"].shape == (2, 3)
    with pytest.raises(UserError, match=r"has no column 'item'.*did you mean 'items'"):
        both.inputs(pa.table({"user": ["u0"], "items": ["1"], "device": ["phone"]}))


def test_high_cardinalities(tmp_path: Path) -> None:
    """20,000 users with a row or two: no text that hardly repeats, but ids."""
    ids = np.random.default_rng(0).permutation(30_000) % 20_000
    pd.DataFrame({"user": [f"id-{each}" for each in ids], "item": ids % 7, "click": ids % 2}).to_csv(
        tmp_path / "r.csv", index=False
    )
    data = loaded({"path": str(tmp_path / "r.csv")}, tasks={"click": {"type": "ranking"}})
    users, items = data.streams["input"].cardinalities
    assert 15_000 < users < 20_001 and items == 8
    test = data.splits["test"].inputs["input"]["categorical"][:, 0]
    train = data.splits["train"].inputs["input"]["categorical"][:, 0]
    assert test.max() < users and set(test.tolist()) - set(train.tolist()) == {0}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"user": "usr"}, "dataset.user: no column is called 'usr' .did you mean 'user'"),
        ({"tasks": {"purchase": {"type": "ranking", "after": "clik"}}}, "purchase.after: task 'clik' does not exist; allowed: "),
        ({"tasks": {**TASKS, "click": {"type": "rating"}}}, "purchase.after=click: click has to be of type ranking or binary"),
        (
            {"tasks": {"click": {"type": "ranking", "after": "cart"}, "cart": {"type": "ranking", "after": "click"}}},
            "dataset.tasks.click.after: no task can follow itself: click after cart after click",
        ),
        (
            {"tasks": {name: {"type": "ranking", "after": earlier} for name, earlier in zip("abcd", "bcdb", strict=True)}},
            "dataset.tasks.b.after: no task can follow itself: b after c after d after b",
        ),
        ({"tasks": {"click": {"type": "ranking", "otherwise": "negative"}}}, "click.otherwise=negative needs .*after"),
        ({"tasks": {"click": {"type": "tagging"}}}, "click.type 'tagging' does not exist"),
        ({"split": {"by": "users"}}, "dataset.split.by: 'users' does not exist .did you mean 'user'"),
        ({"split": {"by": "user", "column": "item"}}, "dataset.split.by=user takes dataset.user as its column"),
        ({"item": None}, "dataset.items=.* needs dataset.item"),
        ({"many": {"genre": "|"}}, "dataset.many: no column is called 'genre' .did you mean 'genres'"),
    ],
)
def test_mistakes(files: dict[str, Any], change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as refused:
        loaded(files, **change)
    assert len(str(refused.value).splitlines()) <= 2


def test_rows_without_ids_and_ids_that_are_there_twice(files: dict[str, Any]) -> None:
    path = Path(files["path"])
    path.write_text(path.read_text() + ",3,phone,9,0,,\n")
    with pytest.raises(UserError, match=r"path.csv, line 602: no user in column 'user'"):
        loaded(files)
    users = Path(files["users"])
    users.write_text(users.read_text() + "u7,33\n")
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(UserError, match=r"users.csv: 'user' u7 is there twice"):
        loaded(files)


def test_generated_interactions_have_the_shares_that_were_asked_for() -> None:
    tasks = {"click": {"type": "ranking"}, "purchase": TASKS["purchase"], "rating": {"type": "rating"}}
    data = Interactions(rows=8000, click_share=0.2, purchase_share=0.1, rated_share=0.5, tasks=tasks).load()
    click, purchase, rating = (torch.cat([split.targets[name] for split in data.splits.values()]) for name in tasks)
    assert click.mean().item() == pytest.approx(0.2, abs=0.015)
    assert purchase.mean().item() == pytest.approx(0.02, abs=0.005)
    assert labelled(rating).float().mean().item() == pytest.approx(0.1, abs=0.015)
    assert (click[purchase == 1] == 1).all() and not labelled(rating[click == 0]).any()
    assert data.fingerprint == Interactions(rows=8000, click_share=0.2, purchase_share=0.1, tasks=tasks).load().fingerprint
    timely = Interactions(rows=500, tasks=tasks, split={"by": "time", "column": "time"}).load()
    assert timely.splits["test"].context["input"]["row"].min() == 425

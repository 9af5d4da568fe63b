"""How others write their files: decimal commas, byte order marks, code pages."""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from mtl_runner.datasets.conll import Conll
from mtl_runner.datasets.prepared import read_preparation
from mtl_runner.datasets.recsys import Recsys
from mtl_runner.datasets.rows.reading import Reading, read
from mtl_runner.datasets.table import Table
from mtl_runner.datasets.tables import Tables
from mtl_runner.datasets.texts import Text
from mtl_runner.errors import UserError

ROWS = 40
TASKS = {"spend": {"type": "regression"}, "churn": {"type": "binary"}}
GERMAN = {"sep": ";", "decimal": ","}


def customers():
    generator = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "age": generator.integers(18, 90, ROWS),
            "income": np.where(np.arange(ROWS) % 5, generator.normal(2e3, 50, ROWS).round(2), np.nan),
            "rate": np.where(np.arange(ROWS) % 9, generator.normal(0, 1e-3, ROWS), 1e-12),
            "town": generator.choice(["Köln", "Βόλος"], ROWS),
            "spend": generator.normal(-100, 20, ROWS).round(1),
            "churn": generator.choice(["yes", "no"], ROWS),
        }
    )


@pytest.fixture
def save(tmp_path):
    def saved(frame, name="data.csv", **how):
        frame.to_csv(tmp_path / name, index=False, **how)
        return str(tmp_path / name)

    return saved


def said(data, words):
    return [note for note in data.notes if words in note]


def test_a_decimal_comma_is_noticed_and_said_and_gives_the_same_data(save):
    plain, german = Table(save(customers()), TASKS).load(), Table(save(customers(), "de.csv", **GERMAN), TASKS).load()
    assert german.fingerprint == plain.fingerprint
    assert len(said(german, "decimal comma")) == 1
    assert "dataset.decimal=" in said(german, "decimal comma")[0] and "de.csv" in said(german, "decimal comma")[0]
    assert not said(plain, "decimal")
    asked = Table(save(customers(), "de.csv", **GERMAN), TASKS, decimal=",").load()
    assert asked.fingerprint == plain.fingerprint and not said(asked, "decimal")


def test_between_commas_a_quoted_comma_is_no_decimal_one_unless_it_is_asked_for(save):
    file = save(customers(), decimal=",")  # in quotation marks, as "1,5" may be a list of two
    with pytest.raises(UserError, match="is not a number"):
        Table(file, TASKS).load()
    assert Table(file, TASKS, decimal=",").load().fingerprint == Table(save(customers(), "plain.csv"), TASKS).load().fingerprint


@pytest.mark.parametrize("how", [GERMAN, {}, {"sep": ";"}], ids=["comma", "point", "point_semicolons"])
def test_what_was_trained_with_a_decimal_comma_reads_both(save, tmp_path, how):
    """A few rows, too, from which nothing could be guessed."""
    data = Table(save(customers(), "de.csv", **GERMAN), TASKS).load()
    prepared = read_preparation(json.loads(json.dumps(data.preparation)))["input"]
    expected = customers().iloc[3:5]
    save(expected, "new.csv", **how)
    (rows,) = prepared.batches(tmp_path / "new.csv", [*prepared.columns, *prepared.target_columns()], 100)
    target = prepared.tasks["spend"]
    spend = prepared.targets(rows, ["spend"])["spend"] * target.scale[0] + target.center[0]
    np.testing.assert_allclose(spend, expected["spend"], rtol=1e-5)
    column = prepared.numbers[1]
    income = prepared.inputs(rows)["numeric"][:, 1] * column.scale + column.center
    np.testing.assert_allclose(income, expected["income"], rtol=1e-5)


def test_points_stay_points(save):
    """No decimal comma: beside a separator that is one, beside numbers with a point, in lists, and where the user says so."""
    frame = customers().assign(size=["3,5", "4,5"] * (ROWS // 2))
    for how in ({}, {"sep": ";"}):
        data = Table(save(frame, **how), TASKS).load()
        assert json.dumps(data.preparation).count('"3,5"') == 1
        assert not said(data, "are read with a decimal comma")
    assert said(Table(save(frame, sep=";"), TASKS).load(), "'size'"), "what cannot be decided is said"
    lists = customers()[["age", "spend", "churn"]].round().astype({"spend": int}).assign(which=["1,2,3", "1,2"] * (ROWS // 2))
    data = Table(save(lists, "lists.csv", sep=";"), TASKS).load()
    assert '"1,2"' in json.dumps(data.preparation)


def test_a_target_with_a_decimal_comma_names_the_way_out(save):
    path = save(customers(), "de.csv", **GERMAN)
    with pytest.raises(UserError, match=r"""line 2, column 'spend': '-\d+,\d' is not a number .*'dataset\.decimal=","'"""):
        Table(path, TASKS, decimal=".").load()
    with pytest.raises(UserError, match=r"dataset\.decimal=;"):
        Table(path, TASKS, decimal=";")


@pytest.mark.parametrize("mark", [".", "\u202f", "'"])
@pytest.mark.parametrize("decimals", [",50", ""])
def test_marks_of_thousands_are_refused_and_not_misread(save, mark, decimals):
    """``1.234`` is no 1.234 among numbers with a decimal comma; also where it is all that the asked-for file has."""
    income = [f"1{mark}{234 + row}{decimals}" for row in range(ROWS)]
    frame = customers().assign(income=income)
    with pytest.raises(UserError, match=r"de\.csv, line 2, column 'income': .* thousands"):
        Table(save(frame, "de.csv", **GERMAN), TASKS).load()
    with pytest.raises(UserError, match=r"line 2, column 'income': .* thousands"):
        read(save(frame[["age", "income"]], "two.csv", sep=";"), Reading(decimal=","))


def test_dates_and_versions_are_no_thousands(save):
    frame = customers().assign(day="31.12.2024", version=["1.234", "1.2.3"] * (ROWS // 2))
    assert Table(save(frame, "de.csv", **GERMAN), TASKS, decimal=",").load().splits["train"].targets["spend"].isfinite().all()


def test_the_other_data_sets_of_rows(save):
    frame = customers().assign(user=["u", "v"] * 20, item=["i", "j", "k", "l"] * 10, text="3,5", kinds=["1,2", "1"] * 20)
    path, english = save(frame, "de.csv", **GERMAN), save(frame.drop(columns=["text", "kinds"]), "en.csv")
    several = Tables({"a": path, "b": english}, {"spend": {"table": "a", "type": "regression"}, "churn": {"table": "b"}}).load()
    assert said(several, "decimal comma")
    assert Tables({"a": {"path": path, "decimal": ","}}, ["churn"]).load()
    texts = Text(path, TASKS).load()
    assert texts.targets["spend"].center[0] == pytest.approx(-100, abs=10) and said(texts, "decimal comma")
    assert "3,5" not in texts.notes and "5" in json.dumps(texts.preparation["reader"])
    many = Recsys(path, {"spend": {"type": "regression"}}, many={"kinds": ","}, ignore=["text", "churn"]).load()
    assert {"kinds: 1", "kinds: 2"} <= set(many.streams["input"].names["numeric"]) and said(many, "decimal comma")
    assert "income" in many.streams["input"].names["numeric"]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32"])
def test_a_byte_order_mark_says_the_encoding(save, encoding):
    plain = Table(save(customers()), TASKS).load()
    path = save(customers(), "excel.csv", sep="\t", encoding=encoding)
    for asked in ({}, {"encoding": "latin-1"}, {"encoding": "utf-16"}, {"comment": "#"}):
        data = Table(path, TASKS, **asked).load()
        assert data.fingerprint == plain.fingerprint
        assert len(said(data, encoding)) == 1
    assert not said(plain, "utf-")
    with pytest.raises(UserError, match=r"excel\.csv, line 2, column 'town': '(Köln|Βόλος)' is not a number"):
        Table(path, TASKS, numeric=["town"]).load()


def test_a_wrong_encoding_names_those_in_which_the_bytes_make_sense(save, tmp_path):
    path = save(customers(), encoding="cp1253", errors="ignore")
    with pytest.raises(UserError, match=r"utf-8") as caught:
        read(path, Reading())
    text = str(caught.value)
    assert "cp1253 (Greek: " in text and "Βόλος" in text and "latin-1" not in text and text.count("\n") <= 1
    (tmp_path / "cz.csv").write_bytes(b"a,b\n\x8ei\x9ekov\x8d,1\n")  # cp1252 and cp1253 do not have all of these
    with pytest.raises(UserError, match="cp1250") as caught:
        read(str(tmp_path / "cz.csv"), Reading())
    assert "cp1252" not in str(caught.value)
    with pytest.raises(UserError, match=r"dataset\.encoding=utf-88.*did you mean 'utf-8'"):
        read(path, Reading(encoding="utf-88"))


def test_an_encoding_that_only_later_lines_need(save):
    frame = pd.DataFrame({"a": ["x"] * 50 + ["é"], "b": 1})
    with pytest.raises(UserError, match=r"cp1252 \(Western: é\)"):
        read(save(frame, encoding="cp1252"), Reading())


def test_sentences_too(tmp_path):
    text = "Köln B-LOC\nist O\n\nda O\n\n" * 10
    (tmp_path / "a.conll").write_bytes(text.encode("cp1252"))
    with pytest.raises(UserError, match=r"cp1252 \(Western: Köln\)"):
        Conll(str(tmp_path / "a.conll"), {"ner": {}}, names=["word", "ner"]).load()
    (tmp_path / "a.conll").write_text(text, encoding="utf-16")
    assert Conll(str(tmp_path / "a.conll"), {"ner": {}}, names=["word", "ner"]).load().targets["ner"].classes


def test_an_odd_name_on_the_command_line_as_the_page_says(save):
    """The line of docs/data.md, as Hydra reads it."""
    page = (Path(__file__).parents[3] / "docs" / "data.md").read_text(encoding="utf-8")
    (line,) = re.findall(r"'(dataset\.tasks=\{net:.*)'", page)
    (typed,) = OverridesParser.create().parse_overrides([line])
    frame = customers().rename(columns={"spend": 'Ποσό, "net" 1.0'})
    assert Table(save(frame), typed.value()).load().targets["net"].columns == ('Ποσό, "net" 1.0',)

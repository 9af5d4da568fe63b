"""Files: what is read, in which form, and what is said about files that cannot be."""

import bz2
import csv
import gzip

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from mtl_runner.datasets.rows.reading import Reading, column_names, read, read_batches, where
from mtl_runner.errors import UserError


@pytest.fixture
def write(tmp_path):
    def written(text, name="data.csv", encoding="utf-8"):
        path = tmp_path / name
        raw = text.encode(encoding)
        path.write_bytes(gzip.compress(raw) if name.endswith(".gz") else bz2.compress(raw) if name.endswith(".bz2") else raw)
        return str(path)

    return written


def cells(table):
    return [list(row.values()) for row in table.to_pylist()]


@pytest.mark.parametrize("separator", [",", "\t", ";", "|"])
@pytest.mark.parametrize("name", ["data.csv", "data.data.gz", "data.txt.bz2"])
def test_separators_are_found(write, separator, name):
    text = f'a{separator}"b, c; d"{separator}e\n1{separator}x y{separator}2\n'
    table = read(write(text, name), Reading())
    assert table.schema.names == ["a", "b, c; d", "e"]
    assert cells(table) == [["1", "x y", "2"]]


def test_a_single_column_is_fine(write):
    assert cells(read(write("a\n1\n2\n"), Reading())) == [["1"], ["2"]]


def test_byte_order_mark_header_spaces_and_unnamed_columns(write):
    assert read(write("\ufeffa, b,\n1,2,3\n"), Reading()).schema.names == ["a", "b", "column_3"]


def test_names_and_comments_and_blank_lines(write):
    reading = Reading(names=("a", "b"), comment="#")
    bare = read(write("# hello\n1,2\n\n# more\n3,4\n"), reading)
    headed = read(write("#\na,b\n1,2\n3,4\n", "other.csv"), reading)
    reordered = read(write("b,a\n2,1\n4,3\n", "reordered.csv"), reading)
    assert bare.to_pylist() == headed.to_pylist() == reordered.to_pylist() == [{"a": "1", "b": "2"}, {"a": "3", "b": "4"}]


def test_encoding(write):
    path = write("a,b\né,1\n", encoding="latin-1")
    assert cells(read(path, Reading(encoding="latin-1"))) == [["é", "1"]]
    with pytest.raises(UserError, match=r"dataset\.encoding"):
        read(path, Reading())


def test_gz_may_be_left_out_or_too_much(write):
    assert read(write("a,b\n1,2\n", "one.csv.gz").removesuffix(".gz"), Reading()).num_rows == 1
    assert read(write("a,b\n1,2\n", "two.csv") + ".gz", Reading()).num_rows == 1


def test_several_files_become_one_table(write, tmp_path):
    first = write("a,b\n1,x\n2,y\n")
    parquet.write_table(pa.table({"b": ["z"], "a": [3]}), tmp_path / "more.parquet")
    table = read([first, str(tmp_path / "more.parquet")], Reading())
    assert cells(table) == [["1", "x"], ["2", "y"], ["3", "z"]]
    assert where(table, 1).endswith("data.csv, line 3")
    assert where(table, 2).endswith("more.parquet, row 1")
    with pytest.raises(UserError, match=r"same columns.* has c$"):
        read([first, write("a,b,c\n1,2,3\n", "c.csv")], Reading())


@pytest.mark.parametrize(
    ("text", "name", "message"),
    [
        ("", "data.csv", "is empty"),
        ("\n\n", "data.csv", "is empty"),
        ("a,b\n", "data.csv", "has a header and no rows"),
        ("a,b,a\n1,2,3\n", "data.csv", "several columns of the same name: a"),
        ("a,b\n", "data.xlsx", "unknown extension.*\\.csv"),
        ("a,b\n1,2\n3\n", "data.csv", "line 3: 1 values, but there are 2 columns"),
        ('a,b\n"1\n\n1",2\n\n3,4,5\n', "data.csv", "line 6: 3 values, but there are 2 columns"),
        ("not parquet", "data.parquet", "is not a Parquet file"),
        ("x", "data.csv.gz2", "unknown extension"),
    ],
)
def test_files_that_cannot_be_read(write, text, name, message):
    path = write(text, name)
    with pytest.raises(UserError, match=message) as caught:
        read(path, Reading())
    assert path in str(caught.value)


def test_a_file_that_is_no_gzip(tmp_path):
    (tmp_path / "data.csv.gz").write_bytes(b"a,b\n1,2\n")
    with pytest.raises(UserError, match="cannot be read"):
        read(str(tmp_path / "data.csv.gz"), Reading())


def test_missing_files_have_neighbours(write, tmp_path):
    write("a\n1\n", "customers.csv")
    with pytest.raises(UserError, match=r"no file.*custmers\.csv.*did you mean 'customers\.csv'"):
        read(str(tmp_path / "custmers.csv"), Reading())
    (tmp_path / "cust").mkdir()
    write("", "custmers.py")
    with pytest.raises(UserError, match=r"in .*: customers\.csv$"):
        read(str(tmp_path / "custmers.csv"), Reading())
    with pytest.raises(UserError, match=r"no file [^?]*; in .*/cust is no file that can be read"):
        read(str(tmp_path / "cust" / "custmers.csv"), Reading())
    with pytest.raises(UserError, match="there is no folder"):
        read(str(tmp_path / "nowhere" / "a.csv"), Reading())
    with pytest.raises(UserError, match="is a folder"):
        read(str(tmp_path), Reading())


def test_lines_are_exact_with_quoted_line_breaks_blank_lines_and_comments(write):
    text = '#!\nname,x\n"two\nlines",1\n\n# no row\nplain,2\n"a\n\nb",3\nlast,4\n'
    table = read(write(text), Reading(comment="#"))
    lines = [int(where(table, row).split()[-1]) for row in range(table.num_rows)]
    assert lines == [3, 7, 8, 11]
    assert [text.split("\n")[line - 1].strip('"').split(",")[0] for line in lines] == ["two", "plain", "a", "last"]


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_batches_are_the_whole_file_in_order(tmp_path, form):
    rows = [(number, f"n{number}") for number in range(1000)]
    path = tmp_path / f"data.{form}"
    if form == "csv":
        with path.open("w", newline="") as file:
            csv.writer(file).writerows([("a.b", "c"), *rows])
    else:
        parquet.write_table(pa.table({"a.b": [a for a, _ in rows], "c": [c for _, c in rows]}), path, row_group_size=300)
    batches = list(read_batches(path, ["a.b"], 128))
    assert all(batch.schema.names == ["a.b"] and batch.num_rows <= 128 for batch in batches)
    assert [int(value) for batch in batches for value in batch.column(0).to_pylist()] == [a for a, _ in rows]
    assert where(batches[2], 3).endswith("row 260" if form == "parquet" else "line 261")
    assert column_names(path) == ("a.b", "c")
    with pytest.raises(UserError, match="none of the columns"):
        list(read_batches(path, ["zzz"]))


def test_batches_of_a_ragged_file_name_the_line(write):
    with pytest.raises(UserError, match="line 4: 3 values"):
        list(read_batches(write("a,b\n1,2\n1,2\n1,2,3\n")))


def test_memory_does_not_grow_with_the_file(tmp_path):
    def most(rows):
        path = tmp_path / f"{rows}.parquet"
        generator = np.random.default_rng(0)
        parquet.write_table(pa.table({"a": generator.normal(size=rows)}), path, row_group_size=rows)
        before = pa.total_allocated_bytes()
        return max(pa.total_allocated_bytes() - before for _ in read_batches(path, ["a"], 1000))

    assert most(1_600_000) < 1.5 * most(200_000)

"""Batches that are divided."""

from dataclasses import replace

import pytest
import torch
from handmade import made, two_streams

from mtl_runner.batch import Batch, joined


@pytest.mark.parametrize("count", [2, 3])
def test_chunks_share_no_row_and_lose_none(count: int) -> None:
    batch = two_streams().splits["train"]
    chunks = batch.chunk(count)
    assert len(chunks) == count
    for stream, fields in batch.inputs.items():
        rows = torch.cat([chunk.inputs[stream]["numeric"] for chunk in chunks])
        assert torch.equal(rows.sort(0).values, fields["numeric"].sort(0).values)
    for task, values in batch.targets.items():
        assert torch.equal(torch.cat([chunk.targets[task] for chunk in chunks]).sort(0).values, values.sort(0).values)
    for chunk in chunks:  # targets stay beside their rows
        for task, stream in batch.streams.items():
            row = (batch.inputs[stream]["numeric"] == chunk.inputs[stream]["numeric"][1]).all(1).nonzero().item()
            assert torch.equal(batch.targets[task][row], chunk.targets[task][1])


def test_one_chunk_is_the_batch_and_a_batch_too_small_to_divide_is_taken_whole() -> None:
    batch = made().splits["train"]
    assert batch.chunk(1) == [batch]
    few = batch.take({"input": torch.arange(5)})
    assert [chunk.size("input") for chunk in few.chunk(2)] == [3, 2]
    assert all(chunk is few for chunk in few.chunk(3))


def test_padding_that_all_sequences_end_in_is_cut() -> None:
    tokens = torch.tensor([[3, 0, 4, 0, 0], [5, 0, 0, 0, 0]])
    batch = Batch(
        {"input": {"tokens": tokens, "characters": tokens[..., None].expand(-1, -1, 2), "numeric": torch.ones(2, 5)}},
        {"tags": tokens[:, None], "sort": torch.ones(2, 1, 5)},
        {"tags": "input", "sort": "input"},
        {"tags": torch.ones(2, 1, 5), "sort": torch.ones(2, 1)},
    )
    cut = batch.trimmed(["tags"])
    assert cut.inputs["input"]["tokens"].tolist() == cut.targets["tags"][:, 0].tolist() == [[3, 0, 4], [5, 0, 0]]
    assert [tuple(cut.inputs["input"][name].shape) for name in ("characters", "numeric")] == [(2, 3, 2), (2, 5)]
    assert cut.targets["sort"].shape == (2, 1, 5)
    assert cut.weights["tags"].shape == (2, 1, 3)
    assert cut.trimmed(["tags"]) is cut
    empty = replace(batch, inputs={"input": {"tokens": torch.zeros_like(tokens)}})
    assert empty.trimmed(["tags"]).targets["tags"].shape == (2, 1, 1)


def test_parts_put_together_again_are_the_whole() -> None:
    batch = two_streams().splits["train"]
    whole = joined([batch.part(0, 40), batch.part(40, 41), batch.part(41, 70)])
    for name, values in batch.targets.items():
        assert torch.equal(whole.targets[name], values)

"""Batches that are divided."""

import pytest
import torch
from handmade import made, two_streams


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

"""Several data sets as one: each keeps its own rows and its own input stream."""

from collections.abc import Iterable, Mapping, Sequence

from mtl_runner.batch import Data, Split
from mtl_runner.datasets.base import fingerprint, select
from mtl_runner.datasets.prepared import read_preparation, together

PARTS = ("train", "validation", "test")


def side_by_side(sources: Mapping[str, Data], order: Sequence[str], only: Sequence[str] | None) -> Data:
    """One data set of several, whose streams and tasks have different names.

    Args:
        sources: by the name that their notes start with.
        order: of the tasks.
        only: train only these; a stream that none of them reads is left out. None: all.
    """
    splits = {part: _merged([data.splits[part] for data in sources.values()], order) for part in PARTS}
    streams = {name: spec for data in sources.values() for name, spec in data.streams.items()}
    known = {name: spec for data in sources.values() for name, spec in data.targets.items()}
    prepared = {name: each for data in sources.values() for name, each in read_preparation(data.preparation).items()}
    notes = tuple(f"{name}: {note}" for name, data in sources.items() for note in data.notes)
    targets = {name: known[name] for name in order}
    whole = select(Data(splits, streams, targets, {}, fingerprint(splits), notes), only)
    read = {spec.stream for spec in whole.targets.values()}
    kept = {name: spec for name, spec in streams.items() if name in read}
    narrowed = {part: split.only(list(whole.targets)) for part, split in whole.splits.items()}
    preparation = together({name: prepared[name] for name in kept})
    return Data(narrowed, kept, whole.targets, preparation, whole.fingerprint, notes)


def _merged(splits: Iterable[Split], order: Sequence[str]) -> Split:
    splits = list(splits)
    targets = {name: value for split in splits for name, value in split.targets.items()}
    streams = {name: stream for split in splits for name, stream in split.streams.items()}
    return Split(
        {name: fields for split in splits for name, fields in split.inputs.items()},
        {name: targets[name] for name in order},
        {name: streams[name] for name in order},
        {name: weights for split in splits for name, weights in split.weights.items()},
        {name: fields for split in splits for name, fields in split.context.items()},
    )

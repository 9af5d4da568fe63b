"""Multi-gate mixture of experts."""

from collections.abc import Mapping
from typing import Annotated

from annotated_types import Ge, Lt
from torch import Tensor

from mtl_runner.encoders.base import EncoderFactory
from mtl_runner.encoders.stacked import Rows
from mtl_runner.sharing.experts import MultiGate
from mtl_runner.sharing.gates import Gates


class MMoE(MultiGate):
    """E experts for all tasks, which each task weighs with a gate of its own.

    With x what the stem (and the first ``shared_stages``) gives, f_e the stages that are left, of expert e, and v(x) the
    vector [W] of x (a map averaged over 4 × 4 fields, a sequence over its positions), the features of task t are

        Σ_e w_te f_e(x),  w_t = softmax(W_t v(x)),  W_t [E, W].

    Ma et al., "Modeling task relationships in multi-task learning with multi-gate mixture-of-experts", KDD 2018; the gate
    has no bias there either. With one expert it is ``hard``. The paper has 8 experts of one small layer; here they are
    4, as each is a whole encoder. All tasks reach all experts and share them; a gate belongs to its task.

    Logged after each epoch: ``importance_cv2/<task>``, CV² of the task's mean gate weights over the experts (0 where all are
    used the same, E - 1 where one is used alone); the mean weights themselves are the table ``gates``.

    Cost: that of E encoders, and E · W + E · (entries of the features) multiplications per task and example.

    Args:
        encoder: builds encoders of the chosen architecture.
        streams: the input stream of each task.
        experts: E.
        shared_stages: proportion of the encoder's stages that all experts have in common, rounded to whole stages; 0 is the
            stem alone (the embeddings of a table).
    """

    def __init__(
        self,
        encoder: EncoderFactory,
        streams: Mapping[str, str],
        *,
        experts: Annotated[int, Ge(1)] = 4,
        shared_stages: Annotated[float, Ge(0), Lt(1)] = 0.0,
    ) -> None:
        super().__init__(encoder, streams, experts, shared_stages)
        self.gates = Gates(len(streams), experts, self.vector.width)

    def weights(self, x: Tensor, apart: bool, rows: Rows) -> Tensor:
        return self.gates(x, apart, rows)  # type: ignore[no-any-return]

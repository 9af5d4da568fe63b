"""Customized gate control."""

from collections.abc import Mapping
from typing import Annotated

from annotated_types import Ge, Lt

from mtl_runner.encoders.base import EncoderFactory
from mtl_runner.sharing.ple import PLE


class CGC(PLE):
    """Experts of each task and experts for all tasks; each task's gate weighs its own and the shared ones.

    With x what the stem (and the first ``shared_stages``) gives, v(x) the vector of it that gates read (a map averaged over
    4 × 4 fields, a sequence over its positions), and an expert the stages that are left, the features of task t are the
    sum of its m own experts' outputs and the S shared ones', with weights softmax(W_t v(x)), W_t [m + S, W].

    Tang et al., "Progressive layered extraction (PLE): A novel multi-task learning (MTL) model for personalized
    recommendations", RecSys 2020; the gate has no bias there either. It is ``ple`` with one level. A task's
    experts and gate are its own; with ``shared_stages: 0`` a task's first expert starts as its network does with
    ``sharing=none``, and the first shared one as that of ``hard``.

    Logged after each epoch: ``importance_cv2/<task>``, CV² of the task's mean gate weights over the experts that it reads (0
    where all are used the same, m + S - 1 where one is used alone); the mean weights themselves are the table ``gates``.

    Cost: that of T m + S encoders.

    Args:
        encoder: builds encoders of the chosen architecture.
        streams: the input stream of each task.
        task_experts: m.
        shared_experts: S.
        shared_stages: proportion of the encoder's stages that all experts have in common, rounded to whole stages; 0 is the
            stem alone (the embeddings of a table).
    """

    def __init__(
        self,
        encoder: EncoderFactory,
        streams: Mapping[str, str],
        *,
        task_experts: Annotated[int, Ge(1)] = 1,
        shared_experts: Annotated[int, Ge(1)] = 1,
        shared_stages: Annotated[float, Ge(0), Lt(1)] = 0.0,
    ) -> None:
        super().__init__(
            encoder,
            streams,
            levels=1,
            task_experts=task_experts,
            shared_experts=shared_experts,
            shared_stages=shared_stages,
        )

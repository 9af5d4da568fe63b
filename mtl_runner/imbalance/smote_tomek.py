"""SMOTE, and after it the removal of Tomek links."""

import numpy as np

from mtl_runner.imbalance.smote import SMOTE
from mtl_runner.imbalance.synthetic import Problem
from mtl_runner.imbalance.tables import Labels, Mask, Table, space


class SMOTETomek(SMOTE):
    """SMOTE, after which both rows of each Tomek link are taken out: two rows of different classes, each the other's nearest.

    Batista, Bazzan and Monard, Balancing Training Data for Automated Annotation of Keywords: a Case Study, WOB 2003, as
    in imbalanced-learn. An original row that is taken out for a task loses its label of that task only, and goes where it was
    its last. A little of the balance that SMOTE brought is lost again. A class that would lose its last row keeps all of them.

    One departure: where there are categories, links are looked for in SMOTE-NC's space, in which all categories are equally far
    from one another (by the median of the numbers' standard deviations among the rows labelled for the task). imbalanced-learn
    takes the distance of their numbers, which mean nothing.

    Neighbours are searched among all rows: O(n² (D + K)) at worst. Arguments are those of ``SMOTE``.
    """

    option = "smote_tomek"

    def kept(self, problem: Problem, new: Table, labels: Labels) -> tuple[Mask, Mask]:
        from imblearn.under_sampling import TomekLinks

        known = len(problem.table)
        classes = np.concatenate([problem.classes, labels])
        stay = np.ones(len(classes), bool)
        if len(np.unique(classes)) > 1:
            links = TomekLinks(sampling_strategy="all")
            links.fit_resample(space(np.concatenate([problem.table, new]), problem.numbers, known), classes)
            stay[:] = False
            stay[links.sample_indices_] = True
            stay |= ~np.isin(classes, classes[stay])
        return stay[:known], stay[known:]

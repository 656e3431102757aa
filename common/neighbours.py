"""Classes by the vote of the nearest neighbours in feature space (Wu et al., arXiv 1805.01978)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def votes(
    similarity: Tensor, labels: Tensor, k: int, classes: int, temperature: float = 0.07
) -> Tensor:
    """The votes that each of q images gets for each class, (q, classes).

    similarity: (q, n) cosines of their features and those of n labelled images; labels: (n,). The k
    nearest (all, where there are fewer) vote for their class with weight exp(cosine / temperature),
    here divided by exp(1 / temperature).
    """
    nearest, index = similarity.topk(min(k, similarity.shape[1]))
    found = similarity.new_zeros(len(similarity), classes)
    return found.scatter_add_(1, labels[index], ((nearest - 1) / temperature).exp())

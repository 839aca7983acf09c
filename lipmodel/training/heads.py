"""The last layer: class scores, and for losses the bounds on how fast differences of scores move.

Every head has ``compare(features, labels)``: scores (N, K) and bounds (N, K), where entry (n, j) of
the bounds is at least how fast score_label − score_j moves with the features of sample n, in the norm
that they are measured in. A head with one score (N, 1) gives (N, 1): the bound of that score.

These bounds are for losses, differentiable and in float32; certificates come from the exported file.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, linear

from lipmodel.errors import RecipeError
from lipmodel.norms import Norm
from lipmodel.training.constraints import RowNorm
from lipmodel.training.layers import ConstrainedDense, ConstrainedModule

ORDER = {Norm.ONE: 1.0, Norm.TWO: 2.0, Norm.INF: torch.inf}

Form = Literal["max-min", "min-max"]

LLOYD_ROUNDS = 5


class LinearHead(ConstrainedDense):
    """score = W x + b, the row norms of W bounded (``RowNorm``) or all equal (``NormalisedRows``).

    Score i − score j moves by ‖w_i − w_j‖ at most: less than twice the bound on a row, by more or less
    according to the pair (Tsuzuku, Sato, Sugiyama 2018; Anil, Lucas, Grosse 2019).

    Args:
        inputs, outputs: features n, scores K.
        constraint: of the rows; its norm is the dual of the one that features are measured in.
        generator: as of :class:`ConstrainedDense`.
    """

    constraint: RowNorm

    def __init__(
        self, inputs: int, outputs: int, constraint: RowNorm, *, generator: torch.Generator | None = None
    ) -> None:
        super().__init__(inputs, outputs, constraint, generator=generator)

    def pair_bounds(self) -> Tensor:
        """(K, K): ‖w_i − w_j‖, in the norm of the constraint; 0 on the diagonal."""
        rows = self.weight
        if self.constraint.norm is not Norm.TWO:
            order = ORDER[self.constraint.norm]
            return torch.as_tensor(torch.linalg.vector_norm(rows[:, None] - rows, order, dim=-1))
        # Through the Gram matrix: (K, K, n) would be large. The floor keeps the root's derivative finite.
        gram = rows @ rows.T
        squares = gram.diagonal()[:, None] + gram.diagonal() - 2.0 * gram
        return torch.mul(squares.clamp(min=1e-12).sqrt(), 1.0 - torch.eye(len(rows), device=rows.device))

    def compare(self, features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Scores and bounds; see the module's description."""
        scores = self(features)
        if len(self.weight) == 1:
            row = torch.linalg.vector_norm(self.weight, ord=ORDER[self.constraint.norm])
            return scores, row.expand(len(features), 1)
        return scores, self.pair_bounds()[labels]


class PrototypeHead(ConstrainedModule):
    """k linear scores a class; the class's score is their largest. Prototype m of class c is row c·k + m.

    Inside the radius no foreign score reaches some own one, whichever other own scores fall behind:

        r = max_i min_j (s_i − s_j) / ‖w_i − w_j‖   over own i and foreign j, or the larger
        r = min_j max_i (s_i − s_j) / ‖w_i − w_j‖   ("min-max": each foreign j has an own i of its own),

    with ‖·‖ dual to the norm of the features: tighter than any one constant, since near prototypes have
    small differences. With w_i = p_i and b_i = −‖p_i‖²/2 this is the nearest-prototype classifier and
    its radius, the distance to the nearest bisecting hyperplane (Voráček, Hein 2022).

    Args:
        inputs, classes, prototypes: n, K and k.
        lipschitz: bound on each row's norm. Rows *and* biases are scaled down by one common factor, which
            changes neither labels nor radii.
        norm: of the rows: the dual of the norm that features are measured in.
        form: which of the two radii :meth:`compare` is about.
        candidates: own prototypes that are tried for i, those of largest score. With 1 the two forms agree,
            and are what is certified by pairs; certificates by mixtures reach at least as far as "min-max".
        dropout: share of the prototypes that :meth:`compare` leaves out as i, at random, in training: the
            others have to answer for them. Foreign ones stay, so the radius is one that is certified.
        generator: of the initial rows; see :meth:`place_` for a better start.

    Raises:
        RecipeError: a count below 1, or an unknown form.
    """

    def __init__(
        self,
        inputs: int,
        classes: int,
        prototypes: int,
        *,
        lipschitz: float = 1.0,
        norm: Norm = Norm.TWO,
        form: Form = "max-min",
        candidates: int = 1,
        dropout: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if not 0.0 <= dropout < 1.0:
            raise RecipeError(
                f"a dropout of {dropout} makes no sense; a share of at least 0 and below 1 is accepted"
            )
        if prototypes < 1 or not 1 <= candidates <= prototypes:
            raise RecipeError(
                f"{candidates} candidates of {prototypes} prototypes a class; "
                "at least 1 prototype and from 1 to all of them as candidates are accepted"
            )
        if form not in ("max-min", "min-max"):
            raise RecipeError(f"unknown form '{form}' of a prototype radius; max-min, min-max are accepted")
        self.classes, self.prototypes = classes, prototypes
        self.lipschitz, self.norm = lipschitz, norm
        self.form, self.candidates, self.dropout = form, candidates, dropout
        rows = classes * prototypes
        self.weight = nn.Parameter(RowNorm(lipschitz, norm=norm).initial(rows, inputs, generator))
        self.bias = nn.Parameter(torch.zeros(rows))

    def forward(self, features: Tensor) -> Tensor:
        """(N, n) to (N, K)."""
        return self._by_class(linear(features, self.weight, self.bias)).amax(dim=2)

    def project_(self) -> None:
        """See :class:`ConstrainedModule`."""
        self._scale_(self.lipschitz / self._longest_row().clamp(min=self.lipschitz))

    @torch.no_grad()
    def place_(self, features: Tensor, labels: Tensor, generator: torch.Generator | None = None) -> None:
        """Makes the k-means of each class its prototypes, for a nearest-prototype classifier in l2.

        Lloyd's algorithm (1982), a few rounds from random samples. The mean of all is taken from the rows,
        which changes no difference of scores and makes rows shorter; then everything is scaled so that
        the longest row has norm ``lipschitz``.

        Args:
            features: (N, n), of training samples.
            labels: (N,).
            generator: of the samples begun with.

        Raises:
            RecipeError: a class with fewer samples than prototypes.
        """
        places = []
        for c in range(self.classes):
            members = features[labels == c]
            if len(members) < self.prototypes:
                raise RecipeError(
                    f"class {c} has {len(members)} samples for {self.prototypes} prototypes; "
                    "at most as many prototypes as samples are accepted"
                )
            order = torch.randperm(len(members), generator=generator)[: self.prototypes]
            places.append(_means(members, members[order.to(members.device)]))
        points = torch.cat(places)
        self.weight.copy_(points - points.mean(dim=0))
        self.bias.copy_(-0.5 * points.square().sum(dim=1))
        self._scale_(self.lipschitz / self._longest_row().clamp(min=torch.finfo(self.weight.dtype).tiny))

    def compare(self, features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Scores and bounds of the pairs that set the radius against each class; see the module.

        The pairs are found without gradients, from all scores and the distances of the candidates' rows
        to all others: one product of matrices as large as the forward pass for each candidate, and never
        the distances of all to all. Gradients go through the pairs found. The label's own score is its
        largest; that of class j is less by the margin of the pair found, not always its largest.

        Args:
            features: (N, n).
            labels: (N,).
        """
        pairs = torch.stack(self._pairs(features, labels))  # (2, N, K)
        (own, foreign), (own_bias, foreign_bias) = embedding(pairs, self.weight), self.bias[pairs]
        differences = own - foreign
        margins = torch.bmm(differences, features[:, :, None])[:, :, 0] + own_bias - foreign_bias
        samples = torch.arange(len(features), device=labels.device)
        top = (own[samples, labels] * features).sum(dim=1) + own_bias[samples, labels]
        distances = torch.linalg.vector_norm(differences, ord=ORDER[self.norm], dim=2)
        return top[:, None] - margins, distances

    @torch.no_grad()
    def _pairs(self, features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """(N, K) each: rows of the own and of the foreign prototype that set the radius against each class.

        In the label's own column both are the row of its largest score.
        """
        scores = linear(features, self.weight, self.bias)
        samples = torch.arange(len(features), device=labels.device)
        own_scores = self._by_class(scores)[samples, labels]
        if self.training and self.dropout:
            left_out = torch.rand(self.prototypes, device=scores.device) < self.dropout
            own_scores = own_scores.masked_fill(left_out, -torch.inf)
        best = own_scores.topk(self.candidates, dim=1).indices
        candidates = labels[:, None] * self.prototypes + best  # (N, t)
        radii = scores.gather(1, candidates)[:, :, None] - scores[:, None, :]
        radii /= self._distances(candidates).clamp(min=torch.finfo(scores.dtype).tiny)
        by_class = radii.reshape(*candidates.shape, self.classes, self.prototypes)
        by_class[samples, :, labels] = torch.inf
        if self.form == "max-min":
            nearest = by_class.min(dim=3)
            chosen = nearest.values.amin(dim=2).argmax(dim=1)  # (N,)
            foreign = nearest.indices[samples, chosen]
            own = candidates[samples, chosen][:, None].expand(-1, self.classes)
        else:
            farthest = by_class.max(dim=1)  # (N, K, k)
            foreign = farthest.values.argmin(dim=2)
            chosen = farthest.indices.gather(2, foreign[:, :, None])[:, :, 0]
            own = candidates.gather(1, chosen)
        foreign = foreign + self.prototypes * torch.arange(self.classes, device=labels.device)
        top = candidates[:, :1]
        return own.scatter(1, labels[:, None], top), foreign.scatter(1, labels[:, None], top)

    def _distances(self, rows: Tensor) -> Tensor:
        """(N, t) of row numbers to (N, t, K·k): ‖w_i − w_j‖ to all rows."""
        weight = self.weight
        if self.norm is not Norm.TWO:
            return torch.cdist(weight[rows.flatten()], weight, p=ORDER[self.norm]).reshape(*rows.shape, -1)
        squares = torch.linalg.vector_norm(weight, dim=1).square()
        products = torch.mm(weight[rows.flatten()], weight.T).reshape(*rows.shape, -1)
        return torch.sqrt((squares[rows][..., None] + squares - 2.0 * products).clamp(min=0.0))

    def _longest_row(self) -> Tensor:
        return torch.max(torch.linalg.vector_norm(self.weight, ord=ORDER[self.norm], dim=1))

    def _scale_(self, factor: Tensor) -> None:
        self.weight.mul_(factor)
        self.bias.mul_(factor)

    def _by_class(self, scores: Tensor) -> Tensor:
        """(N, K·k) to (N, K, k)."""
        return scores.reshape(len(scores), self.classes, self.prototypes)


def _means(members: Tensor, points: Tensor) -> Tensor:
    """(k, n): the points after some rounds of Lloyd's algorithm on members (N, n); one left alone stays."""
    for _ in range(LLOYD_ROUNDS):
        nearest = torch.cdist(members, points).argmin(dim=1)
        sums = torch.zeros_like(points).index_add_(0, nearest, members)
        counts = torch.bincount(nearest, minlength=len(points))[:, None]
        points = torch.where(counts > 0, sums / counts.clamp(min=1), points)
    return points

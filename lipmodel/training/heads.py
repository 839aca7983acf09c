"""The last layer: class scores, and for losses the bounds on how fast differences of scores move.

Every head has ``compare(features, labels)``: scores (N, K) and bounds (N, K), where entry (n, j) of
the bounds is at least how fast score_label − score_j moves with the features of sample n, in the norm
that they are measured in. A head with one score (N, 1) gives (N, 1): the bound of that score.

These bounds are for losses, differentiable and in float32; certificates come from the exported file.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, linear, one_hot

from lipmodel.errors import RecipeError
from lipmodel.norms import Norm
from lipmodel.training.constraints import RowNorm
from lipmodel.training.layers import ConstrainedDense, ConstrainedModule

ORDER = {Norm.ONE: 1.0, Norm.TWO: 2.0, Norm.INF: torch.inf}

LLOYD_ROUNDS, SWEEPS = 5, 4


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

    A foreign score j wins only where it is above all own ones, and so above every mixture Σ λ_i s_i of them
    (λ >= 0, Σ λ = 1); against it the radius is at least (Σ λ_i s_i − s_j) / ‖Σ λ_i w_i − w_j‖, ‖·‖ dual to
    the norm of the features. That is what ``lipmodel.certify.tight.mixtures`` certifies, and what
    :meth:`compare` is about. With w_i = p_i and b_i = −‖p_i‖²/2 this is the nearest-prototype
    classifier and its distance to the boundary (Voráček, Hein 2022).

    Args:
        inputs, classes, prototypes: n, K and k.
        lipschitz: bound on each row's norm. Rows *and* biases are scaled down by one common factor, which
            changes neither labels nor radii.
        norm: of the rows: the dual of the norm that features are measured in.
        candidates: own prototypes that are mixed, those of largest score. With 1 the radius is that of pairs.
        dropout: share of the prototypes that :meth:`compare` leaves out as own ones, at random, in
            training: the others have to answer for them. Foreign ones stay.
        generator: of the initial rows; see :meth:`place_` for a better start.

    Raises:
        RecipeError: a count below 1, or a dropout that is no share.
    """

    def __init__(
        self,
        inputs: int,
        classes: int,
        prototypes: int,
        *,
        lipschitz: float = 1.0,
        norm: Norm = Norm.TWO,
        candidates: int = 1,
        dropout: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if not 0.0 <= dropout < 1.0:
            raise RecipeError(f"a dropout of {dropout} makes no sense; a share from 0 to below 1 is accepted")
        if prototypes < 1 or not 1 <= candidates <= prototypes:
            raise RecipeError(
                f"{candidates} candidates of {prototypes} prototypes a class; "
                "at least 1 prototype and from 1 to all of them as candidates are accepted"
            )
        self.classes, self.prototypes = classes, prototypes
        self.lipschitz, self.norm = lipschitz, norm
        self.candidates, self.dropout = candidates, dropout
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
        """Scores and bounds of mixtures of own prototypes against one prototype of each class; see the class.

        That one is the nearest, for the largest own score; it and the weights are found without gradients,
        from one product of matrices as large as the forward pass and never the distances of all to all.
        The label's own score is its largest; that of class j is less by the margin of the mixture.

        Args:
            features: (N, n).
            labels: (N,).
        """
        own, foreign = self._nearest(features, labels)
        rows, biases = embedding(own, self.weight), self.bias[own]  # (N, t, n), (N, t)
        others, other_biases = embedding(foreign, self.weight), self.bias[foreign]  # (N, K, n), (N, K)
        weights = self._mixtures(features, rows, biases, others, other_biases)
        differences = torch.bmm(weights, rows) - others
        leads = torch.bmm(differences, features[:, :, None])[:, :, 0] - other_biases
        leads = leads + torch.bmm(weights, biases[:, :, None])[:, :, 0]
        top = (rows[:, 0] * features).sum(dim=1) + biases[:, 0]
        return top[:, None] - leads, torch.linalg.vector_norm(differences, ord=ORDER[self.norm], dim=2)

    @torch.no_grad()
    def _nearest(self, features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Rows of the candidates (N, t), the largest score first, and of one prototype a class (N, K).

        In the label's own column the latter is the first candidate.
        """
        scores = linear(features, self.weight, self.bias)
        samples = torch.arange(len(features), device=labels.device)
        own_scores = self._by_class(scores)[samples, labels]
        if self.training and self.dropout:
            left_out = torch.rand(self.prototypes, device=scores.device) < self.dropout
            own_scores = own_scores.masked_fill(left_out, -torch.inf)
        own = labels[:, None] * self.prototypes + own_scores.topk(self.candidates, dim=1).indices
        radii = scores.gather(1, own[:, :1]) - scores
        radii /= self._distances(own[:, 0]).clamp(min=torch.finfo(scores.dtype).tiny)
        foreign = self._by_class(radii).argmin(dim=2)
        foreign += self.prototypes * torch.arange(self.classes, device=labels.device)
        return own, foreign.scatter(1, labels[:, None], own[:, :1])

    @torch.no_grad()
    def _mixtures(
        self, features: Tensor, rows: Tensor, biases: Tensor, others: Tensor, other_biases: Tensor
    ) -> Tensor:
        """(N, K, t): weights against each class's prototype, of the best pair or better.

        As in ``certify.tight.mixtures``: the multipliers of a projection in l2, by coordinate ascent.
        """
        scores = torch.bmm(rows, features[:, :, None])[:, :, 0] + biases
        rivals = torch.bmm(others, features[:, :, None])[:, :, 0] + other_biases
        leads = scores[:, None, :] - rivals[:, :, None]  # (N, K, t)
        pairs = rows[:, None] - others[:, :, None]  # (N, K, t, n)
        tiny = torch.finfo(leads.dtype).tiny
        reach = leads / torch.linalg.vector_norm(pairs, ord=ORDER[self.norm], dim=3).clamp(min=tiny)
        alone = one_hot(reach.argmax(dim=2), rows.shape[1]).to(leads.dtype)
        if self.candidates == 1:
            return alone
        gram = torch.matmul(pairs, pairs.transpose(2, 3))
        diagonal = torch.diagonal(gram, dim1=2, dim2=3).clamp(min=tiny)
        multipliers = torch.zeros_like(leads)
        for _ in range(SWEEPS):
            for i in range(self.candidates):
                rest = leads[..., i] - (gram[:, :, i] * multipliers).sum(dim=2)
                multipliers[..., i] = (multipliers[..., i] + rest / diagonal[..., i]).clamp(min=0.0)
        weights = multipliers / multipliers.sum(dim=2, keepdim=True).clamp(min=tiny)
        length = torch.linalg.vector_norm(torch.bmm(weights, rows) - others, ord=ORDER[self.norm], dim=2)
        mixed = (weights * leads).sum(dim=2) / length.clamp(min=tiny)
        better = (mixed > reach.amax(dim=2)) & (multipliers.amax(dim=2) > 0.0) & mixed.isfinite()
        return torch.where(better[..., None], weights, alone)

    def _distances(self, rows: Tensor) -> Tensor:
        """(N,) row numbers to (N, K·k): ‖w_i − w_j‖ to all rows."""
        weight = self.weight
        if self.norm is not Norm.TWO:
            return torch.cdist(weight[rows], weight, p=ORDER[self.norm])
        squares = torch.linalg.vector_norm(weight, dim=1).square()
        products = torch.mm(weight[rows], weight.T)
        return torch.sqrt((squares[rows][:, None] + squares - 2.0 * products).clamp(min=0.0))

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

"""Last layers: class scores, and Lipschitz bounds of their differences for losses.

Every head has ``compare(features, labels)``: scores (N, K) and bounds (N, K), where entry (n, j) of
the bounds is at least the Lipschitz constant of score_label − score_j at sample n, in the norm of the
features. For a head with one score (N, 1) the bounds are (N, 1), of that score.

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
    """score = W x + b, with the row norms of W bounded (``RowNorm``) or equal (``NormalisedRows``).

    The Lipschitz constant of score i − score j is at most ‖w_i − w_j‖: less than twice the bound on a row,
    and different for each pair (Tsuzuku, Sato, Sugiyama 2018; Anil, Lucas, Grosse 2019).

    Args:
        inputs, outputs: numbers of features n and of scores K.
        constraint: constraint on the rows, in the dual of the norm of the features.
        generator: as for :class:`ConstrainedDense`.
    """

    constraint: RowNorm

    def pair_bounds(self) -> Tensor:
        """Return ‖w_i − w_j‖ in the norm of the constraint, (K, K); 0 on the diagonal."""
        rows = self.weight
        if self.constraint.norm is not Norm.TWO:
            order = ORDER[self.constraint.norm]
            return torch.as_tensor(torch.linalg.vector_norm(rows[:, None] - rows, order, dim=-1))
        # Through the Gram matrix: (K, K, n) would be large. The floor keeps the root's derivative finite.
        gram = rows @ rows.T
        squares = gram.diagonal()[:, None] + gram.diagonal() - 2.0 * gram
        return torch.mul(squares.clamp(min=1e-12).sqrt(), 1.0 - torch.eye(len(rows), device=rows.device))

    def compare(self, features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return scores (N, K) and bounds (N, K), as described in the module's docstring."""
        scores = self(features)
        if len(self.weight) == 1:
            row = torch.linalg.vector_norm(self.weight, ord=ORDER[self.constraint.norm])
            return scores, row.expand(len(features), 1)
        return scores, self.pair_bounds()[labels]


class PrototypeHead(ConstrainedModule):
    """k linear scores per class, of which the largest counts. Prototype m of class c is row c·k + m.

    A competitor score j wins only where it is above all target scores, and so above every mixture Σ λ_i s_i
    of these (λ >= 0, Σ λ = 1); against j the radius is at least (Σ λ_i s_i − s_j) / ‖Σ λ_i w_i − w_j‖, with
    ‖·‖ dual to the norm of the features. ``lipmodel.certify.tight.mixtures`` certifies this radius, and
    :meth:`compare` returns its numerator and denominator. With w_i = p_i and b_i = −‖p_i‖²/2 this is the
    nearest-prototype classifier and its distance to the boundary (Voráček, Hein 2022).

    Args:
        inputs, classes, prototypes: n, K and k.
        lipschitz: bound on each row's norm. Rows *and* biases are scaled down by a common factor, which
            changes neither labels nor radii.
        norm: norm of the rows, the dual of the norm of the features.
        candidates: number of target prototypes that are mixed, by largest score. With 1 the radius is that
            of pairs.
        dropout: share of the prototypes that :meth:`compare` omits at random as targets in training, so that
            the others learn to replace them. Competitors are never omitted.
        generator: source of the initial rows; see :meth:`place_` for a better start.

    Raises:
        RecipeError: a count is below 1, or the dropout is outside [0, 1).
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
            raise RecipeError(f"a dropout of {dropout} is not a share; 0 to below 1 is accepted")
        if prototypes < 1 or not 1 <= candidates <= prototypes:
            raise RecipeError(
                f"{candidates} candidates of {prototypes} prototypes per class; at least 1 prototype, and "
                "from 1 to all prototypes as candidates, are accepted"
            )
        self.classes, self.prototypes = classes, prototypes
        self.lipschitz, self.norm = lipschitz, norm
        self.candidates, self.dropout = candidates, dropout
        rows = classes * prototypes
        self.weight = nn.Parameter(RowNorm(lipschitz, norm=norm).initial(rows, inputs, generator))
        self.bias = nn.Parameter(torch.zeros(rows))

    def forward(self, features: Tensor) -> Tensor:
        """Return the class scores of features (N, n); shape (N, K)."""
        return self._by_class(linear(features, self.weight, self.bias)).amax(dim=2)

    def project_(self) -> None:
        """Scale rows and biases down, in place, until the longest row is within ``lipschitz``."""
        self._scale_(self.lipschitz / self._longest_row().clamp(min=self.lipschitz))

    @torch.no_grad()
    def place_(self, features: Tensor, labels: Tensor, generator: torch.Generator | None = None) -> None:
        """Set each class's prototypes to its k-means, for a nearest-prototype classifier in l2.

        Runs a few rounds of Lloyd's algorithm (1982) from random samples. The mean of all prototypes is
        subtracted from the rows, which changes no difference of scores and makes the rows shorter; rows and
        biases are then scaled so that the longest row has norm ``lipschitz``.

        Args:
            features: (N, n), of training samples.
            labels: (N,).
            generator: source of the initial samples.

        Raises:
            RecipeError: a class has fewer samples than prototypes.
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
        """Return scores (N, K) and bounds (N, K) of target mixtures against one prototype of each class.

        This prototype is the nearest to the decision boundary for the largest target score. It and the
        mixture's weights are found without gradients, from one matrix product as large as the forward pass,
        never from all pairwise distances. The label's score is its largest target score; the score of class
        j is less by the margin of the mixture.

        Args:
            features: (N, n).
            labels: (N,).
        """
        target, competitor = self._nearest(features, labels)
        rows, biases = embedding(target, self.weight), self.bias[target]  # (N, t, n), (N, t)
        others, other_biases = embedding(competitor, self.weight), self.bias[competitor]  # (N, K, n), (N, K)
        weights = self._mixtures(features, rows, biases, others, other_biases)
        differences = torch.bmm(weights, rows) - others
        margins = torch.bmm(differences, features[:, :, None])[:, :, 0] - other_biases
        margins = margins + torch.bmm(weights, biases[:, :, None])[:, :, 0]
        top = (rows[:, 0] * features).sum(dim=1) + biases[:, 0]
        return top[:, None] - margins, torch.linalg.vector_norm(differences, ord=ORDER[self.norm], dim=2)

    @torch.no_grad()
    def _nearest(self, features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return row numbers of the candidates (N, t), largest score first, and of one prototype per class.

        The latter are (N, K); the label's column has the first candidate.
        """
        scores = linear(features, self.weight, self.bias)
        samples = torch.arange(len(features), device=labels.device)
        target_scores = self._by_class(scores)[samples, labels]
        if self.training and self.dropout:
            omitted = torch.rand(self.prototypes, device=scores.device) < self.dropout
            target_scores = target_scores.masked_fill(omitted, -torch.inf)
        target = labels[:, None] * self.prototypes + target_scores.topk(self.candidates, dim=1).indices
        radii = scores.gather(1, target[:, :1]) - scores
        radii /= self._distances(target[:, 0]).clamp(min=torch.finfo(scores.dtype).tiny)
        competitor = self._by_class(radii).argmin(dim=2)
        competitor += self.prototypes * torch.arange(self.classes, device=labels.device)
        return target, competitor.scatter(1, labels[:, None], target[:, :1])

    @torch.no_grad()
    def _mixtures(
        self, features: Tensor, rows: Tensor, biases: Tensor, others: Tensor, other_biases: Tensor
    ) -> Tensor:
        """Return the mixture's weights (N, K, t) against each class's prototype, no worse than the best pair.

        As in ``certify.tight.mixtures``: the multipliers of a projection in l2, by coordinate ascent.
        """
        scores = torch.bmm(rows, features[:, :, None])[:, :, 0] + biases
        rivals = torch.bmm(others, features[:, :, None])[:, :, 0] + other_biases
        margins = scores[:, None, :] - rivals[:, :, None]  # (N, K, t)
        pairs = rows[:, None] - others[:, :, None]  # (N, K, t, n)
        tiny = torch.finfo(margins.dtype).tiny
        pair_radii = margins / torch.linalg.vector_norm(pairs, ord=ORDER[self.norm], dim=3).clamp(min=tiny)
        best_pair = one_hot(pair_radii.argmax(dim=2), rows.shape[1]).to(margins.dtype)
        if self.candidates == 1:
            return best_pair
        gram = torch.matmul(pairs, pairs.transpose(2, 3))
        diagonal = torch.diagonal(gram, dim1=2, dim2=3).clamp(min=tiny)
        multipliers = torch.zeros_like(margins)
        for _ in range(SWEEPS):
            for i in range(self.candidates):
                rest = margins[..., i] - (gram[:, :, i] * multipliers).sum(dim=2)
                multipliers[..., i] = (multipliers[..., i] + rest / diagonal[..., i]).clamp(min=0.0)
        weights = multipliers / multipliers.sum(dim=2, keepdim=True).clamp(min=tiny)
        length = torch.linalg.vector_norm(torch.bmm(weights, rows) - others, ord=ORDER[self.norm], dim=2)
        mixed = (weights * margins).sum(dim=2) / length.clamp(min=tiny)
        better = (mixed > pair_radii.amax(dim=2)) & (multipliers.amax(dim=2) > 0.0) & mixed.isfinite()
        return torch.where(better[..., None], weights, best_pair)

    def _distances(self, rows: Tensor) -> Tensor:
        """Return ‖w_i − w_j‖ of the given rows (N,) to all rows; shape (N, K·k)."""
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
        """Return scores (N, K·k) reshaped to (N, K, k)."""
        return scores.reshape(len(scores), self.classes, self.prototypes)


def _means(members: Tensor, points: Tensor) -> Tensor:
    """Return the points (k, n) after some rounds of Lloyd's algorithm on members (N, n).

    A point with no nearest members is kept.
    """
    for _ in range(LLOYD_ROUNDS):
        nearest = torch.cdist(members, points).argmin(dim=1)
        sums = torch.zeros_like(points).index_add_(0, nearest, members)
        counts = torch.bincount(nearest, minlength=len(points))[:, None]
        points = torch.where(counts > 0, sums / counts.clamp(min=1), points)
    return points

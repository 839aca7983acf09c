"""How the optimiser runs: the [training] table of a recipe."""

from __future__ import annotations

from dataclasses import dataclass

from lipmodel.errors import RecipeError

LARGEST = 1e6  # of any of the numbers; the optimiser's own arithmetic overflows far beyond it
AVERAGINGS = ("none", "uniform", "exponential")


@dataclass(frozen=True)
class Schedule:
    """How the optimiser (Adam; Kingma, Ba 2015) runs.

    Attributes:
        epochs: passes over the data.
        batch_size: inputs a step.
        learning_rate: at its peak; it rises linearly for a twentieth of the steps, then falls to 0
            as a cosine, so that the weights end in their sets.
        threads: that torch uses; another number may give another file.
        validation: share of the training part that is not trained on, to choose by; 0 for none.
        patience: stop after so many epochs without a lower validation loss, and keep the weights of
            the lowest; 0 to never stop. Needs a validation share.
        averaging: of the weights over the last steps: "none"; "uniform" (Izmailov et al. 2018); or
            "exponential" (Polyak averaging with forgetting). An average leaves the sets that weights
            are kept in, so it is projected back before it is measured or exported.
        averaging_share: how much of the training is averaged over, counted from its end.
        averaging_decay: of "exponential": what is kept of the average at each step.
    """

    epochs: int
    batch_size: int
    learning_rate: float
    threads: int = 1
    validation: float = 0.0
    patience: int = 0
    averaging: str = "none"
    averaging_share: float = 0.25
    averaging_decay: float = 0.99

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "threads", "learning_rate"):
            self._require(name, 0 < getattr(self, name) <= LARGEST, "a positive number up to a million")
        self._require("validation", 0.0 <= self.validation < 1.0, "a share of at least 0 and below 1")
        self._require("patience", self.patience >= 0, "0, 1, 2, …")
        self._require("averaging_share", 0.0 < self.averaging_share <= 1.0, "a share above 0, at most 1")
        self._require("averaging_decay", 0.0 < self.averaging_decay < 1.0, "a number between 0 and 1")
        if self.averaging not in AVERAGINGS:
            raise RecipeError(
                f"unknown training.averaging '{self.averaging}'; {', '.join(AVERAGINGS)} are accepted"
            )
        if self.patience and not self.validation:
            raise RecipeError(
                "training.patience needs rows to stop by: set training.validation, to 0.1 for example"
            )

    def _require(self, name: str, fine: bool, accepted: str) -> None:
        if not fine:
            raise RecipeError(
                f"training.{name} = {getattr(self, name)} makes no sense; {accepted} is accepted"
            )

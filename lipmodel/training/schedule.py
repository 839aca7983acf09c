"""The optimiser's schedule: the [training] table of a recipe."""

from __future__ import annotations

from dataclasses import dataclass

from lipmodel.errors import RecipeError

MAX_NUMBER = 1e6  # far below the numbers for which the optimiser's arithmetic overflows
AVERAGINGS = ("none", "uniform", "exponential")


@dataclass(frozen=True)
class Schedule:
    """The schedule of the optimiser (Adam; Kingma, Ba 2015).

    Attributes:
        epochs: passes over the data.
        batch_size: inputs per step.
        learning_rate: peak learning rate: linear warm-up for a twentieth of the steps, then a cosine to 0,
            so that the weights end in their sets.
        threads: number of torch's threads; a different number may give a different file.
        validation: share of the training part held for validation; 0 for none.
        patience: number of epochs without a lower validation loss after which training stops, with the
            weights of the lowest loss; 0 to never stop. Requires a validation share.
        averaging: averaging of the weights over the last steps: "none"; "uniform" (Izmailov et al. 2018); or
            "exponential" (Polyak averaging with forgetting). Averaged weights lie outside of their sets, and
            are projected before they are measured or exported.
        averaging_share: share of the training that is averaged, counted from its end.
        averaging_decay: decay of the exponential average per step.
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
            self._require(name, 0 < getattr(self, name) <= MAX_NUMBER, "a positive number up to a million")
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
                "training.patience needs validation rows: set training.validation, for example to 0.1"
            )

    def _require(self, name: str, valid: bool, accepted: str) -> None:
        if not valid:
            raise RecipeError(f"training.{name} = {getattr(self, name)}; {accepted} is accepted")

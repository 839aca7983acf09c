"""Act on certified predictions only, and leave readings near the decision boundary to a person.

    make demo                                   # or lipserve --models examples/models, in another terminal
    python examples/abstaining_client.py [--url http://127.0.0.1:8000] [--epsilon 0.1] [--api-key KEY]

Each reading of a sensor has an error of up to epsilon. A prediction with a certified radius of at least
epsilon is also the prediction for the true reading; other predictions are not used.
"""

from __future__ import annotations

import argparse
from collections import Counter

import numpy as np

from lipcert.client import Client
from lipmodel.data.load import two_moons

READINGS = 200


def decide(client: Client, readings: np.ndarray, epsilon: float) -> list[str | None]:
    """Return a label for each reading; None if the prediction is not certified at epsilon."""
    answers = client.predict("two-moons", readings, epsilon=epsilon)
    return [answer.label if answer.certified else None for answer in answers]


def main() -> None:
    """Decide on some readings, and compare with the decisions for the true values."""
    parser = argparse.ArgumentParser(description="Act on certified predictions only.")
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--epsilon", default=0.1, type=float)
    parser.add_argument("--api-key")
    given = parser.parse_args()
    truth = np.asarray(two_moons().inputs[:READINGS], dtype=float)
    rng = np.random.default_rng(0)
    direction = rng.normal(size=truth.shape)
    readings = truth + given.epsilon * direction / np.linalg.norm(direction, axis=1, keepdims=True)
    with Client(given.url, api_key=given.api_key) as client:
        decided = decide(client, readings, given.epsilon)
        true_labels = [answer.label for answer in client.predict("two-moons", truth)]
    for label, count in Counter(decided).most_common():
        print(f"{'left to a person' if label is None else label}: {count}")
    pairs = zip(decided, true_labels, strict=True)
    wrong = sum(None not in (label, true) and label != true for label, true in pairs)
    print(f"decisions changed by the sensor's error: {wrong}")


if __name__ == "__main__":
    main()

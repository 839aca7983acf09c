"""Acts on certified answers alone: what is nearer to the boundary than the sensor's error goes to a person.

    make demo                                   # or lipserve --models examples/models, in another terminal
    python examples/abstaining_client.py [--url http://127.0.0.1:8000] [--epsilon 0.1] [--api-key KEY]

Each reading of a sensor may be off by up to epsilon. An answer whose radius is at least epsilon would have
been the same for the true reading; of any other nothing is known, and nothing is done.
"""

from __future__ import annotations

import argparse
from collections import Counter

import numpy as np

from lipcert.client import Client
from lipmodel.data.load import two_moons

READINGS = 200


def decide(client: Client, readings: np.ndarray, epsilon: float) -> list[str | None]:
    """A label for each reading, or None where no answer is certified at epsilon."""
    answers = client.predict("two-moons", readings, epsilon=epsilon)
    return [answer.label if answer.certified else None for answer in answers]


def main() -> None:
    """Decides on some readings, and shows that errors of the sensor would have changed nothing."""
    parser = argparse.ArgumentParser(description="Acts on certified answers alone.")
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
        of_the_truth = [answer.label for answer in client.predict("two-moons", truth)]
    for label, count in Counter(decided).most_common():
        print(f"{'left to a person' if label is None else label}: {count}")
    pairs = zip(decided, of_the_truth, strict=True)
    wrong = sum(None not in (label, true) and label != true for label, true in pairs)
    print(f"decisions that the sensor's error changed: {wrong}")


if __name__ == "__main__":
    main()

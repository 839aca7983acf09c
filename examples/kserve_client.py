"""Query the service by the Open Inference Protocol with Triton's own client and binary tensors.

    pip install 'tritonclient[http]'
    lipserve --models examples/models                                       # in another terminal
    python examples/kserve_client.py [--url 127.0.0.1:8000] [--api-key KEY]

The model's metadata describes its inputs; the label and its certified radius are outputs beside the scores.
"""

from __future__ import annotations

import argparse

import numpy as np
from tritonclient import http

from lipmodel.display import rounded_down

MODEL = "two-moons"
READINGS = np.array([[0.5, 0.25], [0.0, 1.0], [-1.0, 0.5]], dtype=np.float32)


def main() -> None:
    """Print a label and a certified radius for each reading."""
    parser = argparse.ArgumentParser(description="Query the service with Triton's client.")
    parser.add_argument("--url", default="127.0.0.1:8000")
    parser.add_argument("--api-key")
    given = parser.parse_args()
    headers = {"Authorization": f"Bearer {given.api_key}"} if given.api_key else {}
    with http.InferenceServerClient(given.url) as client:
        described = client.get_model_metadata(MODEL, headers=headers)["inputs"][0]
        tensor = http.InferInput(described["name"], list(READINGS.shape), described["datatype"])
        tensor.set_data_from_numpy(READINGS, binary_data=True)
        names = ("label", "certified_radius", "certified")
        answer = client.infer(
            MODEL,
            [tensor],
            outputs=[http.InferRequestedOutput(name, binary_data=True) for name in names],
            parameters={"norm": "2", "epsilon": 0.1},
            headers=headers,
        )
    labels, radii, certified = map(answer.as_numpy, names)
    for reading, label, radius, enough in zip(READINGS, labels, radii, certified, strict=True):
        name, verdict = label.decode() or "withheld", "certified" if enough else "not certified"
        print(f"{reading.tolist()}: {name}, certified radius {rounded_down(radius)}, {verdict} at 0.1")


if __name__ == "__main__":
    main()

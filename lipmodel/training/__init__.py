"""Training: the only part that imports torch. A library of 1-Lipschitz networks, and recipes made of it.

For training loops of your own, each module by itself (``examples/training_loop.py`` is one):

* ``constraints``   sets of weights: row norms, normalised rows, orthogonal, bounded spectral norm.
* ``layers``        dense layers with a constraint, residuals, biases by place, monotone networks, and
  ``keep_constraints(optimiser, network)``, by which any optimiser of torch keeps the weights in them.
* ``convolutions``  1×1 orthogonal, spatial shift, almost orthogonal k×k, pooling.
* ``activations``   GroupSort, MaxMin, FullSort, Householder, absolute value, N-activation.
* ``heads``         class scores with bounds on their differences: linear, normalised, prototypes.
* ``losses``        of scores, or of certified radii.
* ``export``        a network to an ONNX file whose bound is proved; ``forms`` says how each module is
  written, ``tape`` what on.

For scikit-learn: ``estimator`` is a classifier, ``pipeline`` (``export_pipeline``) writes one file of a
pipeline that ends in it.

For the recipes of ``lipmodel train``: ``recipes``, ``network``, ``loop``, ``train``, ``plots``, ``figures``.
"""

from typing import Any


def __getattr__(name: str) -> Any:
    """Import ``export_pipeline``, which takes scikit-learn and torch, when it is first asked for."""
    if name != "export_pipeline":
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    from lipmodel.training.pipeline import export_pipeline

    return export_pipeline

"""Train 1-Lipschitz networks and export them to ONNX; the only package that imports torch.

Building blocks for custom training loops (see ``examples/training_loop.py``):

* ``constraints``   weight sets: row norms, normalised rows, orthogonal, bounded spectral norm.
* ``layers``        dense layers with a constraint, residuals, positional biases, monotone networks, and
  ``keep_constraints(optimiser, network)``, which adds the projection to any torch optimiser.
* ``convolutions``  1×1 orthogonal, spatial shift, almost orthogonal k×k, pooling.
* ``activations``   GroupSort, MaxMin, FullSort, Householder, absolute value, N-activation.
* ``heads``         class scores with bounds on their differences: linear, normalised, prototypes.
* ``losses``        of scores, or of certified radii.
* ``export``        a network to an ONNX file with a proved bound: ``module_to_ops`` has the export rule of
  each module, ``graph_builder`` the graph under construction.

For scikit-learn: ``estimator`` is a classifier; ``pipeline`` (``export_pipeline``) writes a pipeline that
ends in the classifier as one file.

For the recipes of ``lipmodel train``: ``recipes``, ``network``, ``loop``, ``train``, ``plots``, ``figures``.
"""

from typing import Any


def __getattr__(name: str) -> Any:
    """Import ``export_pipeline`` on first access: the import takes scikit-learn and torch."""
    if name != "export_pipeline":
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    from lipmodel.training.pipeline import export_pipeline

    return export_pipeline

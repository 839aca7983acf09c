"""Train, certify, audit and evaluate Lipschitz classifiers.

The packages in the order of imports; each imports only those above it:

* ``errors``        the exceptions, as a tree.
* ``norms``         vector and operator norms, plain and as bounds that hold in float64.
* ``network``       the network as typed operations, from and to ONNX; proves nothing.
* ``certificates``  the format of certificates.
* ``certify``       certified radii from an ONNX file alone; start at ``predictor`` and ``radius``.
* ``data``          data sets by name, and files in several formats, also in batches larger than memory.
* ``verify``        certificates verified in exact arithmetic, by independent code.
* ``audit``         observed gradients, attacks, tightness of radii: evidence, not proof.
* ``signed``        signed predictions: signatures, strict reading, recomputation.
* ``evaluate``      clean accuracy, certified accuracy and accuracy under attack on labelled data.
* ``report``        reports with plots, for people.
* ``bulk``          certificates for files of any size, by several processes or a Ray cluster.
* ``training``      layers, losses, recipes and export; the only package that imports torch.
* ``cli``           the ``lipmodel`` command.

Training and certification share nothing but an ONNX file, and certification does not trust the file's
metadata. Importing this package imports none of its parts.
"""

__version__ = "0.1.0"

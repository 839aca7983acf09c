"""Lipcert's models: made, bounded, audited and evaluated.

The tour, in the order of imports (each module knows only those above it):

* ``errors``    every error raised on purpose, drawn as a tree.
* ``norms``     vector and operator norms, plain and as bounds sound in float64.
* ``certify``   from an ONNX file alone to a certified radius: ``graph`` reads the file,
  ``lipschitz`` bounds how fast scores move, ``rounding`` how far floats stray, ``radius`` joins
  them, ``mixtures``, ``local`` and ``tighten`` are a slower, tighter tier, ``predictor`` is all of it
  behind one class, ``certificate`` and ``issue`` put an answer on paper.
* ``data``      data sets by name and files of your own; ``data_files`` reads formats, ``dataset`` is what
  is made of them, ``cifar`` and ``tabular`` know particular ones.
* ``stream``    the same in batches, where they are larger than memory.
* ``verify``    a certificate checked again in exact arithmetic, by code of its own.
* ``signed``    an answer signed, small enough to travel with it; opened strictly, and computed again.
* ``audit``     what can be observed: gradients of the deployed graph, attacks, how tight radii are.
* ``evaluate``  labelled data to clean, certified and attacked accuracy.
* ``report``    evaluations as pages and plots, for people.
* ``training``  the only part that imports torch: layers, losses, recipes, export.
* ``cli``       the ``lipmodel`` command.

An ONNX file is the only thing that passes from training to certification, and the certificate
trusts nothing that the file says of itself. Importing this package imports none of its parts.
"""

__version__ = "0.1.0"

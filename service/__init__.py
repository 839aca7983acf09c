"""The HTTP service: serves what is proved. ``lipserve --models DIR`` runs it.

The tour, in the order of imports:

* ``settings``  everything that can be set: flags, environment, one table.
* ``errors``    every way a request can fail, as RFC 9457 problems.
* ``store``     jobs and their results in a database.
* ``schemas``   what goes over the wire.
* ``policy``    at least how large a radius answers must have, and what becomes of the rest.
* ``models``    a folder of ONNX files, watched → the present ``registry``: models served, and refused ones
                with their reasons. ``model_folder`` tells what lies where, ``loading`` reads it,
                ``model_settings`` and ``readiness`` say what is accepted.
* ``changes``   uploads, removals, labels; ``folder_changes`` writes them to the folder.
* ``drift``     what was served, and how it compares; ``metrics`` tells it to Prometheus.
* ``engine``    arrays in, certified predictions out; where work runs. Knows no HTTP.
* ``jobs``      long work (audits, evaluations): ``state_folder`` keeps what it needs, ``process`` runs
                ``worker``, which does it.
* ``labelled``  data for evaluations, admitted or refused.
* ``api``       the routes, one file a group.
* ``app``       ``create_app(settings)`` joins them; ``main`` is the command.

Nothing here imports torch or anything of ``lipmodel.training``.
"""

import os

# Read once, when numpy is first imported. The bounds of a model factorise small matrices, for which
# OpenBLAS's threads gain nothing on an idle machine and cost up to fifty-fold on a busy one.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

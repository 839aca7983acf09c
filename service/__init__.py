"""The HTTP service for certified predictions; ``lipserve --models DIR`` runs it.

Packages and modules, from the outside in; each imports only those below (contracts in pyproject.toml):

* ``cli``         the command: settings from flags, environment and a file; preflight checks; several workers.
* ``app``         ``create_app(settings)``, which joins the parts.
* ``api``         the routes, a file for each group; ``api.schemas`` are their wire types.
* ``components``  ``Service``, the parts of a process, and the functions that open them.
* ``http``        uvicorn's server and connections with limits; the fast path to predictions; instrumentation.
* ``protocols``   requests and responses of v1 and of the Open Inference Protocol v2 as bytes.
* ``inference``   from decoded requests to certified predictions: pipeline, batches, threads, signatures.
* ``telemetry``   metrics, logs, traces, drift.
* ``jobs``        audits and evaluations: queue, database, files.
* ``auth``        credentials, scopes, rate limits, admission.
* ``models``      the models folder: watched, checked, read; the registry of served models; administration.
* ``sandbox``     processes with limits, in which jobs run and model files are checked.
* ``budget``      a limit on the memory held by requests.
* ``problems``    every kind of failure, as RFC 9457 problems.
* ``database``    tables and migrations. ``npz``, ``disk``, ``wire``, ``settings``, ``startup``: shared.

Nothing here imports torch or anything of ``lipmodel.training``.
"""

import os

# Read once, when numpy is first imported. The bounds of a model factorise small matrices, for which
# OpenBLAS's threads gain nothing on an idle machine and cost up to fifty-fold on a busy one.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

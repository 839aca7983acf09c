"""The HTTP service: serves what is proved. ``lipserve --models DIR`` runs it.

The tour, in the order of imports:

* ``settings``  everything that can be set, one table; ``flags`` reads it from flags, environment and a file.
* ``errors``    every way a request can fail, as RFC 9457 problems.
* ``store``     jobs and their results in a database.
* ``access``    who calls: API keys (``keys``, made by ``key_commands``), ``tokens`` of an identity provider,
                ``limits`` of each; ``scopes`` is the one table of who may do what.
* ``schemas``   what goes over the wire.
* ``policy``    at least how large a radius answers must have, and what becomes of the rest.
* ``models``    a folder of ONNX files, watched → the present ``registry``: models served, and refused ones
                with their reasons. ``model_folder`` tells what lies where, ``loading`` reads it,
                ``model_settings`` and ``readiness`` say what is accepted.
* ``checks``    files never seen, read by the isolated ``checker`` within what the ``container`` leaves;
                ``verdicts`` keeps what it found.
* ``changes``   uploads, removals, labels; ``folder_changes`` writes them to the folder.
* ``drift``     what was served, and how it compares.
* ``metrics``   everything that is counted; ``shared_metrics`` adds it up over processes, ``facts`` go beside.
* ``engine``    arrays in, certified predictions out; where work runs. Knows no HTTP.
* ``jobs``      long work (audits, evaluations): ``state_folder`` keeps what it needs, ``process`` runs
                ``worker``, which does it.
* ``signing``   answers signed, with keys that may change meanwhile.
* ``labelled``  data for evaluations, admitted or refused.
* ``batcher``   small requests are answered together.
* ``api``       the routes, one file a group; ``guard`` is the layer that every request passes, ``direct`` the
                short way to those asked most often.
* ``connections`` what a connection may hold of requests that are not whole, and which go the short way.
* ``arrivals``  requests that do not arrive are ended.
* ``observed``  the layer around all: request ids, counts; ``logs`` and ``tracing`` are what it writes to.
* ``server``    one process, its socket and its end; ``workers`` keeps several.
* ``starting``  imports that take less time and memory, in processes that are all ours.
* ``app``       ``create_app(settings)`` joins them; ``main`` is the command, which ``__main__`` imports.

Nothing here imports torch or anything of ``lipmodel.training``.
"""

import os

# Read once, when numpy is first imported. The bounds of a model factorise small matrices, for which
# OpenBLAS's threads gain nothing on an idle machine and cost up to fifty-fold on a busy one.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

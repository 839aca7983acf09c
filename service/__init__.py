"""The HTTP service for certified predictions; ``lipserve --models DIR`` runs it.

Its packages are listed from the outside in by ``docs/architecture.md``; each imports only those below, by the
contracts in pyproject.toml. Nothing here imports torch or anything of ``lipmodel.training``.
"""

import os

# Read once, when numpy is first imported. The bounds of a model factorise small matrices, for which
# OpenBLAS's threads gain nothing on an idle machine and cost up to fifty-fold on a busy one.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

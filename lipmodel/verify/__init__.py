"""Verification of certificates in exact arithmetic, by code that is independent of their issuer.

**The rule.** A certificate is a list of statements, and it *holds* if and only if every one of them is
proved. The bounds are computed here from the ONNX file and the input alone, in integers and in
256-bit balls (rigorous enclosures), never from the certificate:

1. the digests are those of the file, of the weights that it computes when it is run, and of the input; the
   class names are the file's;
2. the raw scores are scores of that file: each differs from the exact one by at most the rounding
   error proved here, and each class is the largest of those that it is said to own;
3. every bound stated is one: at least the bound proved here, L and E and B for each rival, ρ and κ
   (the weights of ``scaling`` are only a means to prove L: the bound that any weights prove is true);
4. label, margin and runner-up follow from the scores, the radius from the scores and bounds stated,
   by the formula at the top of ``lipmodel/certificates/format.py``, in exact arithmetic;
5. the promise itself: with M_j the *exact* margin of the exact function over rival j, and E_j, B_j, L_j
   proved here,  M_j - E_j(ρ) - (L_j + κ B_j) r > 0  for every j, and nothing overflows within r.

5 follows from 1 to 4 on paper; it is decided by itself since the caller relies on it, and depends on no
number that the certificate states but r. A comparison that cannot be decided fails.
Statements may be weaker than can be proved (a smaller radius, larger bounds): such a
certificate is true. The issuer's identity is proved by a signature, not by this check.

Without the model only 4 and the input's own digest and size can be checked; that is a check of
consistency, and is called so.

Shared with the fast path: the reader of ONNX files (``network/reader/read.py`` and the operations of
``network/ops.py``), the names in a file's metadata (``network/metadata.py``) and the names of the norms.
A misreading in these would make both proofs wrong. So the file itself is run in onnxruntime beside the graph
that was read (``network/self_check.py``), within rounding errors proved here, and must give the same scores;
that can only refuse, never prove.

* ``exact_numbers``   integers over a denominator; balls.
* ``evaluation``      the exact value of a network.
* ``spectral``, ``convolution_norms``, ``layer_norms``         norms of layers.
* ``linear_head``, ``lipschitz``, ``scaling``, ``rounding``    bounds of a network.
* ``proof``           statements 1, 2, 3, 5, with the weights that a file computes; ``consistency``: 4.
* ``check``           all of it behind one function.
"""

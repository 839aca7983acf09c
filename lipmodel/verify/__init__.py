"""Whether a certificate holds, decided in exact arithmetic by code that shares nothing with what made it.

**The rule.** A certificate is a list of statements, and it *holds* if and only if every one of them is
proved. What is proved is computed here from the ONNX file and the input alone, in integers and in
256-bit balls (rigorous enclosures), never from what the certificate says:

1. the digests are those of the file, of the weights that it computes when it is run, and of the input; the
   class names are the file's;
2. the raw scores are scores of that file: each differs from the exact one by at most the rounding
   error proved here, and each class is the largest of those that it is said to own;
3. every bound stated is one: at least the bound proved here, L and E and B for each rival, ρ and κ
   (the weights of ``scaling`` are only a way to prove L: whatever they are, what they prove is true);
4. label, margin and runner-up follow from the scores, the radius from the scores and bounds stated,
   by the formula at the top of ``lipmodel/certificates/format.py``, in exact arithmetic;
5. the promise itself: with M_j the *exact* margin of the exact function over rival j, and E_j, B_j, L_j
   proved here,  M_j - E_j(ρ) - (L_j + κ B_j) r > 0  for every j, and nothing overflows within r.

5 follows from 1 to 4 on paper; it is decided by itself since it is what the caller relies on, and owes
nothing to a number that the certificate states but r. A comparison that cannot be decided fails.
Statements may be weaker than what can be proved (a smaller radius, larger bounds): such a
certificate is true. Who made it is the business of a signature, not of this check.

Without the model only 4 and the input's own digest and size can be checked; that is a check of
consistency, and is called so.

Shared with the fast path: the reader of ONNX files (``network/reader/read.py`` and the operations of
``network/ops.py``), the names in a file's metadata (``network/metadata.py``) and the names of the norms.
What both would misread, both would prove wrong. So the file itself is run in onnxruntime beside what was read
(``network/self_check.py``), and must give the same scores; that can only refuse, never prove.

* ``folded``       the weights that a file computes.
* ``numbers``      integers over a denominator; balls.
* ``evaluation``   the exact value of a network.
* ``spectral``, ``kernels``, ``operators``   norms of layers.
* ``ends``, ``lipschitz``, ``scaling``, ``rounding``      what is proved of a network.
* ``proof``        statements 1, 2, 3, 5; ``consistency``: 4.
* ``check``        all of it behind one function.
"""

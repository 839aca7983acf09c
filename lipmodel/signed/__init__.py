"""Signed certificates: who answered what to which input, small enough to travel with the answer.

A signed certificate is a compact JWS (RFC 7515) of one answer: digests of model and input, label, margin,
radius, and the bounds of the one rival that the radius follows from. It is the word of whoever holds the
key; given the model and the input, every number is computed again. The proof certificates of
``lipmodel/verify`` are the other kind: larger, unsigned, and proved in exact arithmetic.

* ``claims``    what is signed, written and strictly read.
* ``answers``   a predictor's answers as claims.
* ``key_sets``  keys: JSON Web Key Sets in files and at URLs.
* ``jws``       signing, and opening with every doubt a refusal.
* ``check``     an opened certificate against itself, a model, an input.
"""

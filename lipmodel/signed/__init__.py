"""Signed certificates: small enough to be sent with each prediction.

A signed certificate is a compact JWS (RFC 7515) of one prediction: digests of model and input, label, margin,
radius, and the bounds of the rival score that sets the radius. The signature proves the issuer; given the
model and the input, every number can be recomputed. The proof certificates of ``lipmodel/verify`` are larger,
unsigned, and proved in exact arithmetic.

* ``claims``    the signed members, their writer and strict reader.
* ``answers``   predictions as claims.
* ``key_sets``  keys: JSON Web Key Sets in files and at URLs.
* ``jws``       signing, and opening with strict refusals.
* ``check``     a certificate compared with itself, a model and an input.
"""

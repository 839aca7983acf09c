"""‖·‖_2 of convolutions on infinite signals, proved in integers.

A kernel is a matrix (channels out, channels in) of polynomials, one power a tap. Composing two
convolutions multiplies these matrices; with 2^bits put for the variable, bits enough to keep the
coefficients apart (Kronecker), it is one product of matrices of integers.
"""

from __future__ import annotations

import math

import numpy as np
from flint import arb

from lipmodel.verify.exact_numbers import (
    Float64s,
    Integers,
    array_of,
    largest,
    matrix,
    power_of_two,
    scaled_integers,
)
from lipmodel.verify.spectral import perron_direction, spectral_norm

MAX_POWER = 64
MAX_WORK = 1e10
"""Maximum products of numbers in one squaring; larger squarings are not tried."""
KEPT_BITS = 128


def kernel_spectral_norm(kernel: Float64s, strides: tuple[int, ...], dilations: tuple[int, ...]) -> arb:
    """At least ‖K‖_2 of the convolution with a kernel (out, in, *size); the least of three bounds.

    Padding by zeros and cutting out never raise a norm, so the infinite signal serves. A dilation
    acts on interleaved signals that do not meet, and is dropped, with the stride beside it, which only
    leaves outputs away. A stride s is a stride of 1 over s times as many channels.
    """
    strides = tuple(1 if d > 1 else s for s, d in zip(strides, dilations, strict=True))
    kernel = _without_strides(kernel, strides)
    integers, exponent = scaled_integers(kernel)
    taps = np.abs(integers).reshape(*integers.shape[:2], -1)
    rows, columns = taps.sum(axis=(1, 2)).max(), taps.sum(axis=(0, 2)).max()
    # Riesz-Thorin: ‖·‖_2² <= ‖·‖_1 ‖·‖_inf
    interpolated = arb(int(rows) * int(columns)).sqrt() * power_of_two(exponent)
    by_taps = sum((spectral_norm(kernel[:, :, *tap]) for tap in np.ndindex(*kernel.shape[2:])), arb(0))
    return min(interpolated, by_taps, gram_iteration(kernel))


def _without_strides(kernel: Float64s, strides: tuple[int, ...]) -> Float64s:
    """Tap s·t + r of input channel c becomes tap t of input channel (r, c)."""
    phases = math.prod(strides)
    size = [-(-k // s) for k, s in zip(kernel.shape[2:], strides, strict=True)]
    result = np.zeros((len(kernel), phases, kernel.shape[1], *size))
    for tap in np.ndindex(*kernel.shape[2:]):
        phase = np.ravel_multi_index([t % s for t, s in zip(tap, strides, strict=True)], strides)
        result[:, phase, :, *(t // s for t, s in zip(tap, strides, strict=True))] = kernel[:, :, *tap]
    return result.reshape(len(kernel), -1, *size)


def gram_iteration(kernel: Float64s) -> arb:
    """At least ‖K‖_2 = ‖G_k‖^(1/2^k) for G_1 = K*K, G_{i+1} = G_i*G_i (Delattre et al. 2023).

    G is kept as integers times 2^exponent, with the last bits cut off and N of what was cut off at most
    ``error``, N the largest absolute row sum: N(G² - (G + Δ)²) <= 2 N(G) N(Δ) + N(Δ)².
    """
    if kernel.shape[0] < kernel.shape[1]:
        kernel = _adjoint(kernel)  # of the same norm: the smaller side is squared
    integers, exponent = scaled_integers(kernel)
    gram, exponent, error = _compose(_adjoint(integers), integers), 2 * exponent, 0
    power, bounds = 2, []
    while True:
        total = int(np.abs(gram).reshape(len(gram), -1).sum(axis=1).max())
        bounds.append(_self_adjoint_norm(gram, error).root(power) * (arb(2).root(power)) ** exponent)
        if power >= MAX_POWER or math.prod(gram.shape[2:]) ** 2 * len(gram) ** 3 > MAX_WORK:
            return min(bounds)
        if (cut := total.bit_length() - KEPT_BITS) > 0:
            gram, exponent = gram >> cut, exponent + cut
            error = (error >> cut) + 1 + gram[0].size
            total = (total >> cut) + 1 + gram[0].size
        gram, exponent, power = _compose(gram, gram), 2 * exponent, 2 * power
        error = 2 * total * error + error**2


def _self_adjoint_norm(kernel: Integers, error: int) -> arb:
    """At least ‖G‖_2 of a self-adjoint convolution, off by N(Δ) <= error from the integers given.

    At each frequency it is a Hermitian matrix, entrywise at most A_cc' = Σ_t |G_cc't| + |Δ_cc't|; so ‖G‖_2
    is at most A's spectral radius, and that at most max (Av)_c / v_c for any v > 0.
    """
    sums = np.abs(kernel).reshape(*kernel.shape[:2], -1).sum(axis=2)
    bits = int(sums.max()).bit_length()
    rounded = (sums >> max(0, bits - 60)).astype(np.float64)
    v = perron_direction(lambda v: rounded @ v, len(sums))
    image = sums @ v + error * v.max()
    return largest([arb(int(top)) / int(below) for top, below in zip(image, v, strict=True)])


def _adjoint(kernel: Integers) -> Integers:
    return np.flip(kernel.swapaxes(0, 1), axis=tuple(range(2, kernel.ndim)))


def _compose(left: Integers, right: Integers) -> Integers:
    """The kernel of ``left`` after ``right``."""
    size = tuple(a + b - 1 for a, b in zip(left.shape[2:], right.shape[2:], strict=True))
    terms = left.shape[1] * min(left[0, 0].size, right[0, 0].size)
    bits = sum(int(np.abs(k).max()).bit_length() for k in (left, right)) + terms.bit_length() + 1
    digit = -(-bits // 8)  # bytes a coefficient, with its sign
    product = array_of(matrix(_packed(left, size, digit)) * matrix(_packed(right, size, digit)))
    result = np.empty((*product.shape, math.prod(size)), dtype=object)
    offset = _offset(result.shape[2], digit)
    half = 1 << 8 * digit - 1
    for place, value in np.ndenumerate(product):
        content = (value + offset).to_bytes(digit * result.shape[2] + 1, "little")
        result[place] = [
            int.from_bytes(content[i : i + digit], "little") - half
            for i in range(0, digit * result.shape[2], digit)
        ]
    return result.reshape(*product.shape, *size)


def _packed(kernel: Integers, size: tuple[int, ...], digit: int) -> Integers:
    """Each matrix of taps, spread over a grid of that size, as one integer with a digit a place."""
    half = 1 << 8 * digit - 1
    spread = np.full((*kernel.shape[:2], *size), 0, dtype=object)
    spread[:, :, *(slice(k) for k in kernel.shape[2:])] = kernel
    flat = spread.reshape(*kernel.shape[:2], -1)
    offset = _offset(flat.shape[2], digit)
    result = np.empty(kernel.shape[:2], dtype=object)
    for place in np.ndindex(*kernel.shape[:2]):
        content = b"".join(int(v + half).to_bytes(digit, "little") for v in flat[place])
        result[place] = int.from_bytes(content, "little") - offset
    return result


def _offset(places: int, digit: int) -> int:
    """Half a digit at every place: added, it makes every digit of a signed number non-negative."""
    return int.from_bytes((b"\0" * (digit - 1) + b"\x80") * places, "little")

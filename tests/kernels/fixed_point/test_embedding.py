"""Embeddings: rows of a mapped table, and integer sums of gradients."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from qexp.kernels import reference
from qexp.kernels.fixed_point.embedding import embedding, embedding_gradient
from qexp.kernels.fixed_point.linear import Arithmetic
from qexp.kernels.fixed_point.mapping import NotFiniteError

IDS = torch.tensor([3, 3, 0, 9, 5, 3, 9])


def tensors(rows=11, width=6):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(rows, width, generator=generator), torch.randn(len(IDS), width, generator=generator) * 1e-3


@pytest.mark.parametrize("padding", [None, 3, 0])
def test_sixteen_bits_are_torchs(padding, path):
    table, g = tensors()
    leaf = table.clone().requires_grad_()
    expected = F.embedding(IDS, leaf, padding_idx=padding)
    expected.backward(g)
    a = Arithmetic(16, 16, 16)
    y, saved = embedding(IDS, table, a)
    assert y.dtype == torch.float32 and (y - expected.detach()).norm() < 1e-3 * y.norm()
    found = embedding_gradient(g, saved, a, padding, seed=4)
    assert found.shape == table.shape and (found - leaf.grad).norm() < 1e-3 * leaf.grad.norm()


@pytest.mark.parametrize("bits", [4, 8, 12])
def test_rows_and_sums_are_exact(bits, path):
    table, g = tensors()
    a = Arithmetic(weight_bits=bits, gradient_bits=bits, gradient_rounding="nearest")
    codes, exponent = reference.fixed_point(table, bits)
    y, saved = embedding(IDS, table, a)
    assert torch.equal(y, (codes.double() * 2.0**exponent).float()[IDS])
    of_g, exponent = reference.fixed_point(g, bits)
    sums = [
        sum((of_g[m] for m, i in enumerate(IDS) if i == row), torch.zeros(6, dtype=torch.int64)) for row in range(11)
    ]
    assert torch.equal(embedding_gradient(g, saved, a), (torch.stack(sums).double() * 2.0**exponent).float())


def test_a_row_is_drawn_once_and_seeds_decide(path):
    table, g = tensors()
    a = Arithmetic(forward_rounding="stochastic")
    y, saved = embedding(IDS, table, a, 1)
    assert torch.equal(y[0], y[1]) and torch.equal(y[0], y[5]) and torch.equal(y[3], y[6])
    assert torch.equal(y, embedding(IDS, table, a, 1)[0]) and not torch.equal(y, embedding(IDS, table, a, 2)[0])
    drawn = [embedding_gradient(g, saved, a, seed=seed) for seed in (1, 1, 2)]
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])
    mean = torch.stack([embedding(IDS, table, a, seed)[0] for seed in range(400)]).mean(0)
    step = 2.0 ** reference.fixed_point(table, 8)[1]
    assert (mean - table[IDS]).abs().max() < 5 * 0.5 * step / math.sqrt(400)


def test_edges(path):
    table, _ = tensors()
    y, saved = embedding(IDS[:0], table, Arithmetic())
    assert y.shape == (0, 6) and not embedding_gradient(y, saved, Arithmetic()).any()
    table[10, 0] = math.nan
    with pytest.raises(NotFiniteError):
        embedding(IDS, table, Arithmetic())

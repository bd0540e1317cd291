"""Methods that work on the subspaces which the rows use. All stay low-rank: no full matrix is formed."""

from __future__ import annotations

import torch

from ..algebra.factorspace import Factors, concat, decompose
from .sparse import elected_sum, largest
from .weight import Parameters, Weight

_EIGENVALUE_FLOOR = 1e-12


def knots_ties(weight: Weight, parameters: Parameters) -> Factors:
    """TIES on coordinates in a shared output basis. Stoica et al. 2024 (KnOTS, arXiv 2410.19735):

    [dW_1 ... dW_N] = U S [V_1^T ... V_N^T]; TIES over C_i = S V_i^T; dW = U @ TIES(C_1 .. C_N).
    C_i = U^T dW_i, and U is the left basis of [B_1 .. B_N] @ blockdiag(A_i): with A_i^T = Q_i R_i it is that of
    [B_1 R_1^T ... B_N R_N^T], a matrix of joint rank columns.
    """
    sides = [term.up @ torch.linalg.qr(term.down.T)[1].T for term in weight.terms]
    joint = torch.cat(sides, 1)
    found = decompose(Factors(joint, torch.eye(joint.shape[1])))
    basis, _ = found.directions(found.numerical_rank)
    coordinates = [(basis.T @ term.up) @ term.down for term in weight.terms]
    trimmed = [largest(c, parameters.density) for c in coordinates]
    return Factors(basis, elected_sum(trimmed, weight.strengths, parameters.normalise))


def tsv_m(weight: Weight, _: Parameters) -> Factors:
    """Task singular vectors, made orthogonal over the rows. Gargiulo et al. 2025 (TSV-M, arXiv 2412.00081):

    U = [U_1 .. U_N], V likewise; dW = polar(U) diag(w S) polar(V)^T, polar(X) = X (X^T X)^(-1/2).
    Each row keeps at most a share 1/N of the matrix's own rank, as there.
    """
    most = max(1, min(weight.shape) // len(weight.terms))
    lefts, rights, values = [], [], []
    for term, strength in zip(weight.terms, weight.strengths, strict=True):
        found = decompose(term)
        rank = min(found.numerical_rank, most)
        left, right = found.directions(rank)
        lefts.append(left)
        rights.append(right)
        values.append(strength * found.s[:rank])
    spectrum = torch.cat(values).float()
    root = spectrum.abs().sqrt()
    up = _polar(torch.cat(lefts, 1)) * (root * spectrum.sign())
    return Factors(up, (_polar(torch.cat(rights, 1)) * root).T)


def _polar(columns: torch.Tensor) -> torch.Tensor:
    """The nearest matrix with orthonormal columns, X (X^T X)^(-1/2)."""
    wide = columns.double()
    values, vectors = torch.linalg.eigh(wide.T @ wide)
    kept = values > _EIGENVALUE_FLOOR * values[-1:].clamp(min=0)
    half = vectors[:, kept] * values[kept].rsqrt()
    return (wide @ (half @ vectors[:, kept].T)).float()


def orthogonal(weight: Weight, parameters: Parameters) -> Factors:
    """The rows that are not protected, kept off the protected ones:

    dW_i' = dW_i - p QQ^T dW_i PP^T, Q and P the output and input directions of the protected rows' sum,
    so that <dW_i', protected> = 0 at p = 1. Protected are rows of role "character"; where the stack has none, row 1.
    The projection that Orthogonal Adaptation (Po et al. 2024, arXiv 2312.02432) trains towards, done afterwards.
    """
    guarded = _protected(weight.roles)
    inside = [i for i, row in enumerate(weight.rows) if row in guarded]
    if not inside or len(inside) == len(weight.terms):
        return concat(weight.terms, weight.strengths)
    kept = concat([weight.terms[i] for i in inside], [weight.strengths[i] for i in inside])
    found = decompose(kept)
    outs, ins = found.directions(found.numerical_rank)
    terms = [
        term if i in inside else _off(term, outs, ins, parameters.protection)
        for i, term in enumerate(weight.terms)
    ]
    return concat(terms, weight.strengths)


def _protected(roles: tuple[str, ...]) -> set[int]:
    return {row for row, role in enumerate(roles) if role == "character"} or {0}


def _off(term: Factors, outs: torch.Tensor, ins: torch.Tensor, much: float) -> Factors:
    """dW - much * outs outs^T dW ins ins^T: twice the rank."""
    up = torch.cat([term.up, -much * (outs @ (outs.T @ term.up))], 1)
    return Factors(up, torch.cat([term.down, (term.down @ ins) @ ins.T]))


def zipper(weight: Weight, _: Parameters) -> Factors:
    """Every input column goes to one row alone, so that no two rows share a column.

    ZipLoRA (Shah et al. 2023, arXiv 2311.13600) trains column coefficients m_i in dW = sum_i m_i o dW_i until m_1 and m_2 do
    not overlap; here m_i is 1 where the row's share of its own energy, w_i^2 ||dW_i[:, j]||^2 / ||dW_i||^2, is the
    largest, and 0 elsewhere. Squared column norms are colsum(A o (B^T B A)).
    """
    shares = []
    for term, strength in zip(weight.terms, weight.strengths, strict=True):
        up, down = term.up.double(), term.down.double()
        columns = (down * ((up.T @ up) @ down)).sum(0).clamp(min=0)
        total = float(columns.sum())
        shares.append(strength**2 * columns / total if total > 0 else torch.zeros_like(columns))
    owner = torch.stack(shares).argmax(0)
    terms = [Factors(t.up, t.down * (owner == i)) for i, t in enumerate(weight.terms)]
    return concat(terms, weight.strengths)

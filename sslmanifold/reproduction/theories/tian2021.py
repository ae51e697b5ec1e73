"""Siamese networks with a predictor (Tian et al., ICML 2021): the parts of its reproduction."""

from sslmanifold.reproduction.theories import tian_balance, tian_collapse, tian_modes, tian_orthonormal

PARTS = {
    part.name: part
    for part in (tian_balance.PART, tian_collapse.PART, tian_modes.PART, tian_orthonormal.PART)
}

"""Stepwise learning (Simon et al., ICML 2023): the parts of its reproduction."""

from sslmanifold.reproduction.theories import simon_limit, simon_network, simon_steps

PARTS = {part.name: part for part in (simon_steps.PART, simon_limit.PART, simon_network.PART)}

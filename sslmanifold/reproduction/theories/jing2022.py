"""Dimensional collapse (Jing et al., ICLR 2022): the parts of its reproduction."""

from sslmanifold.reproduction.theories import jing_augmentation, jing_layers

PARTS = {part.name: part for part in (jing_augmentation.PART, jing_layers.PART)}

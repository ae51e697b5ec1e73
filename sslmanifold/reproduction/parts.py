"""Every part of the paper, in the order of the paper."""

from sslmanifold.reproduction.figures import constraints, fig1, fig2, fig3, fig4, fig5, fig6, losses, naive
from sslmanifold.reproduction.part import Part
from sslmanifold.reproduction.statements import (
    conjecture2,
    lemma1,
    moment,
    proposition2,
    proposition3,
    remarks,
    theorem1,
    theorem2,
    theorem3,
)

PARTS: dict[str, Part] = {
    part.name: part
    for part in (
        lemma1.PART,
        naive.PART,
        remarks.PART,
        losses.PART,
        proposition2.PART,
        proposition3.PART,
        fig1.PART,
        constraints.PART,
        theorem1.PART,
        fig2.PART,
        moment.PART,
        theorem2.PART,
        fig3.PART,
        theorem3.PART,
        conjecture2.PART,
        fig4.PART,
        fig5.PART,
        fig6.PART,
    )
}

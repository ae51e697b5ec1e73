"""Every part of the paper, in the order of the paper."""

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
        remarks.PART,
        proposition2.PART,
        proposition3.PART,
        theorem1.PART,
        moment.PART,
        theorem2.PART,
        theorem3.PART,
        conjecture2.PART,
    )
}

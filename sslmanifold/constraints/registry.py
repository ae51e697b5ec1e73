"""Constraints by name: every module of this package that defines one is found by itself."""

from importlib import import_module
from pkgutil import iter_modules
from typing import Any

from sslmanifold.constraints.base import Constraint
from sslmanifold.errors import UserError


def available_constraints() -> dict[str, type[Constraint]]:
    """Name → class, for every constraint in this package and every subclass the user has imported."""
    import sslmanifold.constraints as package

    for module in iter_modules(package.__path__, package.__name__ + "."):
        import_module(module.name)
    found: dict[str, type[Constraint]] = {}
    queue = list(Constraint.__subclasses__())
    while queue:
        cls = queue.pop()
        queue.extend(cls.__subclasses__())
        if "name" in cls.__dict__:
            found[cls.name] = cls
    return dict(sorted(found.items()))


def constraint_class(name: str) -> type[Constraint]:
    """The class of a constraint by name.

    Raises:
        UserError: for an unknown name; the choices are listed.
    """
    choices = available_constraints()
    if name not in choices:
        raise UserError(f"unknown constraint {name!r}: choose one of {', '.join(choices)}")
    return choices[name]


def make_constraint(name: str, **options: Any) -> Constraint:
    """A constraint by name: ``make_constraint("orthogonal", metric="grassmann")``.

    Raises:
        UserError: for an unknown name (the choices are listed) or an option the constraint does not have.
    """
    from sslmanifold.config.check import build

    return build(constraint_class(name), options, where="constraint")

"""From a ``_target_`` to the class it names: anybody's where the user typed it, ours where a folder says so.

A run folder may come from somebody else. What its ``config.yaml`` names is looked up among the public classes of this
package, and nothing else is imported for it, unless the user trusts a package by name.
"""

import inspect
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from sslmanifold.errors import UserError


@dataclass(frozen=True)
class Kind:
    """What a config group is a choice of.

    Attributes:
        noun: "constraint".
        faces: the modules whose public classes are this package's own options.
        bases: paths of the classes of which an option derives from one; empty where there is no such class.
        methods: what an option's class must define.
        attributes: what a built option must have.
    """

    noun: str
    faces: tuple[str, ...]
    bases: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    attributes: tuple[str, ...] = ()


KINDS = {
    "data": Kind("data set", ("sslmanifold.data",), ("sslmanifold.data.PairData",), attributes=("name",)),
    "augment": Kind(
        "augmentation",
        ("sslmanifold.data",),
        ("sslmanifold.data.augmentation.Augmentation",),
    ),
    "model": Kind(
        "model", ("sslmanifold.models",), methods=("shape", "build"), attributes=("layers", "activation")
    ),
    "loss": Kind(
        "loss",
        ("sslmanifold.losses",),
        methods=("__call__",),
    ),
    "constraint": Kind(
        "constraint",
        ("sslmanifold.constraints",),
        ("sslmanifold.constraints.Constraint",),
        attributes=("name",),
    ),
    "optimizer": Kind("optimizer", ("sslmanifold.geometry",), ("torch.optim.Optimizer",)),
    "scheduler": Kind("schedule", ("sslmanifold.training.schedule",), methods=("factor",)),
    "callbacks": Kind(
        "callback",
        ("sslmanifold.callbacks", "sslmanifold.training.figures", "sslmanifold.training.progress"),
        ("lightning.pytorch.Callback",),
    ),
    "checkpoint": Kind(
        "checkpointing",
        ("sslmanifold.training.checkpointing",),
        ("sslmanifold.training.checkpointing.Checkpointing",),
    ),
    "logger": Kind("logger", ("sslmanifold.loggers",), ("sslmanifold.loggers.RunLogger",)),
    "probe": Kind(
        "probe",
        ("sslmanifold.probes.classifiers", "sslmanifold.probes.finetune"),
        ("sslmanifold.probes.classifiers.EmbeddingProbe", "sslmanifold.probes.finetune.FineTune"),
    ),
}

# where earlier versions kept what their run folders name: add a line here when a class that a yaml names moves
RENAMED = {
    "sslmanifold.constraints.frobenius.Frobenius": "sslmanifold.constraints.Frobenius",
    "sslmanifold.constraints.none.Unconstrained": "sslmanifold.constraints.Unconstrained",
    "sslmanifold.constraints.operator_norm.OperatorNorm": "sslmanifold.constraints.OperatorNorm",
    "sslmanifold.constraints.orthogonal.Orthogonal": "sslmanifold.constraints.Orthogonal",
    "sslmanifold.constraints.product.Product": "sslmanifold.constraints.Product",
    "sslmanifold.constraints.scaled.Scaled": "sslmanifold.constraints.Scaled",
    "sslmanifold.reproduction.trace.MapTrace": "sslmanifold.callbacks.MapTrace",
    "sslmanifold.training.loggers.CSVOnly": "sslmanifold.loggers.CSVOnly",
    "sslmanifold.training.loggers.TensorBoard": "sslmanifold.loggers.TensorBoard",
    "sslmanifold.training.ode.ODEComparison": "sslmanifold.callbacks.ODEComparison",
    "sslmanifold.training.online_probe.OnlineProbe": "sslmanifold.callbacks.OnlineProbe",
    "sslmanifold.training.optimum.Optimum": "sslmanifold.callbacks.Optimum",
    "sslmanifold.training.spectrum.SpectrumMonitor": "sslmanifold.callbacks.SpectrumMonitor",
    "sslmanifold.training.weights_and_biases.WandB": "sslmanifold.loggers.WandB",
}


def trusted_packages(given: Any) -> tuple[str, ...]:
    """The packages that ``trust=`` names: one, or a list of them.

    Raises:
        UserError: for anything that is no package's name; there is no way to trust everything.
    """
    names = [given] if isinstance(given, str) or not isinstance(given, Iterable) else list(given)
    names = [part for name in names for part in (name.split(",") if isinstance(name, str) else [name])]
    if given is None:
        return ()
    for name in names:
        if not (isinstance(name, str) and all(part.isidentifier() for part in name.split("."))):
            raise UserError(
                f"trust={given} is not valid: name the package whose classes the run folder may use, trust=my_package, "
                "several as trust=[one,two]"
            )
    return tuple(names)


@dataclass(frozen=True)
class Opened:
    """The run folder that a configuration was read from, and the packages whose classes it may name besides ours.

    Where a function takes ``opened=None``, the user typed the configuration and every class in it is their choice.
    """

    folder: Path
    trust: tuple[str, ...] = ()

    def trusts(self, path: str) -> bool:
        """Whether ``path`` names something in a trusted package."""
        return any(path.startswith(f"{package}.") for package in self.trust)

    def refusal(self, path: Any, key: str, noun: str) -> UserError:
        """The error for a class that this folder may not name."""
        package = str(path).partition(".")[0]
        ours = package == "sslmanifold" or not package.isidentifier()
        name = "my_package" if ours or package in sys.stdlib_module_names else package
        return UserError(
            f"{key}={_shown(path)} in {self.folder} is no {noun} of sslmanifold, so it is not run: a run folder may "
            f"name classes of another package only where you trust that package, trust={name} (in Python: "
            f'load_run({str(self.folder)!r}, trust=["{name}"]))'
        )


def locate(path: Any, where: str, opened: Opened | None = None) -> type:
    """The class a ``_target_`` names, e.g. ``sslmanifold.data.HalfMoons``, checked to be an option of its group.

    Args:
        path: the value of ``_target_``.
        where: the group's key, "constraint" or "callbacks.ode".
        opened: the run folder that names it; None where the user does.

    Raises:
        UserError: naming ``where``, if there is no such class, it is no option of the group, or the folder may not
            name it.
    """
    kind = KINDS[where.partition(".")[0]]
    key = f"{where}._target_"
    if not (isinstance(path, str) and re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)*", path)):
        if opened is not None:
            raise opened.refusal(path, key, kind.noun)
        raise UserError(f"{key}={_shown(path)} is no path of a class: {_example(kind)}")
    found = _own(RENAMED.get(path, path), kind)
    if found is None:
        if opened is not None and not opened.trusts(path):
            raise opened.refusal(path, key, kind.noun)
        found = _imported(path, key, kind)
    return found


def _own(path: str, kind: Kind) -> type | None:
    """This package's class of that kind and path, looked up in the public names of the kind's modules alone."""
    module, _, name = path.rpartition(".")
    for face in kind.faces:
        if module != face and not module.startswith(f"{face}."):
            continue
        package = import_module(face)
        public = getattr(package, "__all__", None)
        if name not in (vars(package) if public is None else public):
            continue
        found = getattr(package, name)
        at_home = inspect.isclass(found) and found.__module__.startswith("sslmanifold.")
        if at_home and module in (face, found.__module__) and _mismatch(found, kind) is None:
            return found
    return None


def _imported(path: str, key: str, kind: Kind) -> type:
    """The class of anybody's module: imported, and checked to be of the kind."""
    module, _, name = path.rpartition(".")
    try:
        found = getattr(import_module(module or "builtins"), name)
    except Exception as error:  # a module of the user's may fail in any way while it is imported
        reason = str(error) or type(error).__name__
        if isinstance(error, ModuleNotFoundError):
            reason += "; a module of your own is found through PYTHONPATH=its/folder"
        raise UserError(f"{key}={path} cannot be imported: {reason}") from error
    wrong = _mismatch(found, kind)
    if wrong is not None:
        raise UserError(f"{key}={path} {wrong}: {_example(kind)}")
    return found


def _mismatch(found: Any, kind: Kind) -> str | None:
    """Why something is no option of a kind, as a verb phrase; None where it is one."""
    if not inspect.isclass(found):
        return f"is a {type(found).__name__}, not a class of {kind.noun}"
    bases = tuple(_class(path) for path in kind.bases)
    if bases and not issubclass(found, bases):
        return f"is no {kind.noun}: it does not derive from {' or '.join(kind.bases)}"
    defined = {name for base in found.__mro__ for name in vars(base)}
    missing = [name for name in kind.methods if name not in defined]
    if missing:
        return f"is no {kind.noun}: it has no {', '.join(missing)}"
    if inspect.isabstract(found):
        return f"is abstract, it lacks {', '.join(sorted(vars(found)['__abstractmethods__']))}"
    return None


def _parts(config: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The key and the options of everything in a configuration that names a class."""
    for group in KINDS:
        options = config.get(group)
        if not isinstance(options, Mapping):
            continue
        if group != "callbacks":
            yield group, options
            continue
        for name, part in options.items():
            if isinstance(part, Mapping):
                yield f"{group}.{name}", part


def require_targets(config: Mapping[str, Any], opened: Opened) -> None:
    """Raise UserError unless the folder may name every class that its configuration does; nothing is built."""
    for where, part in _parts(config):
        locate(part.get("_target_"), where, opened)
        refuse_nested({key: value for key, value in part.items() if key != "_target_"}, where, opened)


def named_packages(config: Mapping[str, Any]) -> tuple[str, ...]:
    """The packages, besides this one, of the classes that a configuration names."""
    paths = [str(part.get("_target_")) for _, part in _parts(config)]
    return tuple(sorted({path.partition(".")[0] for path in paths if "." in path} - {"sslmanifold"}))


def require_attributes(built: Any, where: str) -> None:
    """Raise UserError unless what was built has what its kind must have."""
    kind = KINDS[where.partition(".")[0]]
    missing = [name for name in kind.attributes if not hasattr(built, name)]
    if missing:
        raise UserError(
            f"{where}: {type(built).__module__}.{type(built).__qualname__} is no {kind.noun}, it has no "
            f"{', '.join(missing)}: {_example(kind)}"
        )


def refuse_nested(options: Mapping[str, Any], where: str, opened: Opened) -> None:
    """Raise UserError where the options of a group name a class deeper down: nothing of ours has such options."""
    for key, value in options.items():
        entries = (
            value if isinstance(value, Mapping) else dict(enumerate(value)) if isinstance(value, list) else {}
        )
        inner = f"{where}.{key}"
        target = entries.get("_target_") if isinstance(value, Mapping) else None
        if "_target_" in entries and not (isinstance(target, str) and opened.trusts(target)):
            raise opened.refusal(target, f"{inner}._target_", "option")
        refuse_nested({str(k): v for k, v in entries.items()}, inner, opened)


def _class(path: str) -> type:
    module, _, name = path.rpartition(".")
    return getattr(import_module(module), name)


def _example(kind: Kind) -> str:
    group = next(name for name, each in KINDS.items() if each is kind)
    own = {"optimizer": "sslmanifold.geometry.RiemannianSGD"}.get(group)
    if own is None:
        module = import_module(kind.faces[0])
        names = getattr(module, "__all__", None) or list(vars(module))
        own = next(
            f"{kind.faces[0]}.{name}" for name in names if _mismatch(getattr(module, name), kind) is None
        )
    return f"name a class such as {own}, or leave the line out and choose {group}=…"


def _shown(value: Any) -> str:
    text = str(value)
    return text if text.isprintable() else repr(text)

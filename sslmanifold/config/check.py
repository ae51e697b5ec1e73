"""A config group is checked against the constructor it names: the constructor is the schema."""

import difflib
import inspect
import typing
from collections.abc import Mapping
from typing import Any

from pydantic import ConfigDict, ValidationError, create_model
from pydantic.errors import PydanticSchemaGenerationError, PydanticUndefinedAnnotation

from sslmanifold.config.targets import Opened, locate, refuse_nested, require_attributes
from sslmanifold.errors import UserError


def unknown_key(where: str, key: str, choices: list[str]) -> UserError:
    """The error for a key that does not exist: the choices, and the nearest of them."""
    near = difflib.get_close_matches(key, choices, n=1)
    prefix = f"{where}." if where else ""
    if not choices:
        return UserError(
            f"unknown key {prefix}{key}: {where} has no keys as it is chosen; choose another {where}=… first"
        )
    hint = f"; did you mean {prefix}{near[0]}?" if near else ""
    owner = f"the keys of {where}" if where else "the top-level keys and groups"
    return UserError(f"unknown key {prefix}{key}: {owner} are {', '.join(sorted(choices))}{hint}")


def _fields(target: Any, skip: tuple[str, ...]) -> dict[str, tuple[Any, Any]]:
    """Name → (annotation, default) of every keyword a constructor or function takes."""
    function = target.__init__ if inspect.isclass(target) else target
    try:
        hints = typing.get_type_hints(function, include_extras=True)
    except Exception:  # an annotation that only exists for type checkers: the keys are still checked
        hints = {}
    fields: dict[str, tuple[Any, Any]] = {}
    for name, parameter in inspect.signature(target).parameters.items():
        if name in skip or parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        default = ... if parameter.default is parameter.empty else parameter.default
        fields[name] = (hints.get(name, Any), default)
    return fields


def _open_ended(target: Any) -> bool:
    parameters = inspect.signature(target).parameters.values()
    return any(p.kind is p.VAR_KEYWORD for p in parameters)


def validated(
    target: Any, options: Mapping[str, Any], where: str, skip: tuple[str, ...] = ()
) -> dict[str, Any]:
    """The options, checked by pydantic against the target's signature: names, types and ranges.

    Args:
        target: a class or function; ``Annotated[int, Field(gt=0)]`` and ``Literal`` state ranges and choices.
        options: keyword → value, as read from a config group.
        where: the group's name, used in messages.
        skip: parameters that are supplied in code, not by the user.

    Raises:
        UserError: one line per mistake, each naming the key, the value, the reason and the choices.
    """
    fields = _fields(target, skip)
    extra = [key for key in options if key not in fields]
    if extra and not _open_ended(target):
        raise unknown_key(where, extra[0], list(fields))
    # pydantic has ideas of its own about names such as model_* and json: fields get neutral names
    alias = {name: f"option_{name}" for name in fields}
    try:
        schema = create_model(
            "Options",
            __config__=ConfigDict(
                arbitrary_types_allowed=True, protected_namespaces=(), validate_default=False
            ),
            **{alias[name]: field for name, field in fields.items()},
        )  # type: ignore[call-overload]
    except (PydanticSchemaGenerationError, PydanticUndefinedAnnotation):
        return dict(options)
    try:
        model = schema(**{alias[key]: value for key, value in options.items() if key in alias})
    except ValidationError as error:
        raise UserError(_message(error, where)) from error
    checked = {key: getattr(model, alias[key]) for key in options if key in alias}
    return checked | {key: options[key] for key in extra}


def _message(error: ValidationError, where: str) -> str:
    """One line per key. A union reports every branch: they are alternatives, so they join with "or"."""
    reasons: dict[str, list[str]] = {}
    values: dict[str, Any] = {}
    for item in error.errors():
        key = str(item["loc"][0]).removeprefix("option_")
        values[key] = item["input"] if key not in values else values[key]
        message = item["msg"].removeprefix("Value error, ")
        reason = message[0].lower() + message[1:]
        if reason not in reasons.setdefault(key, []):
            reasons[key].append(reason)
    lines = []
    for key, alternatives in reasons.items():
        name = f"{where}.{key}" if where else key
        if alternatives == ["field required"]:
            lines.append(f"{name} is missing: set {name}=…")
        else:
            lines.append(f"{name}={values[key]} is not valid: {', or '.join(alternatives)}")
    return "\n".join(lines)


def build(target: Any, options: Mapping[str, Any], where: str, **supplied: Any) -> Any:
    """Check the options, then call the target with them and with what the program supplies."""
    checked = validated(target, options, where, skip=tuple(supplied))
    return target(**checked, **supplied)


def build_group(
    group: Mapping[str, Any] | None, where: str, opened: Opened | None = None, **supplied: Any
) -> Any:
    """Build what a config group describes: ``_target_`` names the class, the other keys are its options.

    Args:
        group: the group's keys.
        where: its name, "constraint" or "callbacks.ode"; it says what kind of class is wanted.
        opened: the run folder that the group was read from: it may name classes of this package and of trusted
            ones alone, and fetches nothing. None where the user typed the choice.
        supplied: parameters that are supplied in code.

    Raises:
        UserError: for a class that is no option of the group or that the folder may not name, and for wrong options.
    """
    if not isinstance(group, Mapping):
        place = f" in {opened.folder / 'config.yaml'}" if opened else ""
        raise UserError(f"{where}={group}{place} describes nothing: it needs keys, and `_target_` among them")
    options = dict(group)
    path = options.pop("_target_", None)
    if path is None:
        raise UserError(
            f"{where} names no class: set {where}._target_=package.module.Class, or write the line "
            "`_target_: package.module.Class` in its yaml"
        )
    target = locate(path, where, opened)
    if opened is not None:
        refuse_nested(options, where, opened)
        options |= {key: False for key in ("download",) if key in options}
    built = build(target, options, where, **supplied)
    require_attributes(built, where)
    return built

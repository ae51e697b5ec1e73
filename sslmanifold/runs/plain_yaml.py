"""``config.yaml`` as text, numbers, lists and mappings: nothing in it is resolved, expanded or executed."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

# a run's config.yaml has two kilobytes; as many as this take seconds to read
LARGEST = 1 << 18

_FLOAT = re.compile(
    r"""^(?:[-+]?(?:[0-9][0-9_]*)\.[0-9_]*(?:[eE][-+]?[0-9]+)?|[-+]?(?:[0-9][0-9_]*)(?:[eE][-+]?[0-9]+)
    |[-+]?\.[0-9_]+(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$""",
    re.VERBOSE,
)


class _Loader(yaml.SafeLoader):
    """YAML's plain types, with 1e-3 a number as Hydra reads it, no dates, and no aliases, which grow without end."""

    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith((":timestamp", ":float"))]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("it has an alias, which no run folder has")
        return super().compose_node(parent, index)

    def fetch_flow_collection_start(self, token: Any) -> None:
        if self.flow_level > 50:
            raise yaml.YAMLError("it is nested without end")
        super().fetch_flow_collection_start(token)


class _Dumper(yaml.SafeDumper):
    yaml_implicit_resolvers = _Loader.yaml_implicit_resolvers

    def ignore_aliases(self, data: Any) -> bool:
        return True


for _class in (_Loader, _Dumper):
    _class.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789."))


def read_plain(path: Path) -> Any:
    """What a small YAML file holds, every ``${…}`` in it as the text it is.

    Raises:
        OSError, ValueError: where it cannot be read, with the reason.
    """
    size = path.stat().st_size
    if size > LARGEST:
        raise ValueError(f"it has {size} bytes, and a run's configuration a few thousand")
    try:
        return yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from None
    except RecursionError:
        raise ValueError("it is nested without end") from None


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a file, as :func:`read_plain` reads it.

    Raises:
        OSError, ValueError: where it is no such file, with the reason.
    """
    found = read_plain(path)
    if not isinstance(found, dict):
        raise ValueError("it holds no keys")
    return found


def yaml_text(content: Mapping[str, Any]) -> str:
    """The YAML of plain containers, which :func:`read_yaml` reads back as they were."""
    return yaml.dump(dict(content), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)

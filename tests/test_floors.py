"""Imports run one way: from a floor to those below it, without a circle, deferred imports included."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "sslmanifold"

# from the ground up; a unit is a module or a package directly below sslmanifold
FLOORS = (
    "version",
    "errors",
    "interrupts",
    "console",
    "config",
    "theory",
    "geometry",
    "metrics",
    "constraints",
    "losses",
    "data",
    "models",
    "callbacks",
    "runs",
    "loggers",
    "plots",
    "training",
    "probes",
    "sweeps",
    "report",
    "reproduction",
    "export",
    "dynamics_embedding",
    "api",
    "commands",
    "cli",
)
# names that the package hands out lazily, and its entry points
_FACES = ("__init__", "__main__")


def imports() -> list[tuple[str, str]]:
    """(module, imported module) for every import inside the package, wherever in a file it stands."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        module = ".".join(("sslmanifold", *path.relative_to(PACKAGE).with_suffix("").parts))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "sslmanifold":
                assert node.level == 0, f"{module}: relative import"
                names = [f"sslmanifold.{alias.name}" for alias in node.names]
                found += [
                    (module, name) for name in (names if node.module == "sslmanifold" else [node.module])
                ]
            elif isinstance(node, ast.Import):
                found += [(module, a.name) for a in node.names if a.name.split(".")[0] == "sslmanifold"]
    return found


def _unit(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def test_every_unit_has_a_floor() -> None:
    units = {
        path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    assert units - set(_FACES) == set(FLOORS)


def test_no_import_from_a_lower_floor_to_a_higher_one() -> None:
    floor = {name: height for height, name in enumerate(FLOORS)}
    upward = [
        f"{module} imports {imported}"
        for module, imported in imports()
        if _unit(module) not in _FACES
        and _unit(imported) not in _FACES
        and floor[_unit(imported)] > floor[_unit(module)]
    ]
    assert not upward, "\n".join(upward)


def test_no_circle_among_modules() -> None:
    """Of imports that run when a module is loaded; a deferred one inside a package may point back."""
    graph: dict[str, set[str]] = {}
    for path in PACKAGE.rglob("*.py"):
        module = ".".join(("sslmanifold", *path.relative_to(PACKAGE).with_suffix("").parts))
        tree = ast.parse(path.read_text(encoding="utf-8"))
        targets = [n.module for n in tree.body if isinstance(n, ast.ImportFrom) and n.module]
        graph[module] = {t for t in targets if t.startswith("sslmanifold.")}
    modules = set(graph)
    graph = {m: {t for t in targets if t in modules} for m, targets in graph.items()}
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " → ".join((*path[path.index(module) :], module))
        if module not in done:
            for target in graph[module]:
                visit(target, (*path, module))
            done.add(module)

    for module in sorted(graph):
        visit(module, ())


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        (
            "sslmanifold",
            ("torch", "hydra", "wandb", "plotly", "matplotlib", "sklearn", "torchvision", "lightning"),
        ),
        (
            "sslmanifold.theory",
            ("lightning", "hydra", "wandb", "plotly", "matplotlib", "torchvision", "pandas"),
        ),
        ("sslmanifold.callbacks", ("hydra", "wandb", "plotly")),
        ("sslmanifold.constraints", ("hydra", "wandb", "plotly", "torchvision", "lightning")),
    ],
)
def test_importing_a_face_is_cheap(module: str, heavy: tuple[str, ...]) -> None:
    code = f"import sys, {module}; print(*sorted(set(sys.modules) & {set(heavy)!r}))"
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True
    )
    assert run.stdout.split() == []


def test_callbacks_bring_no_matplotlib_that_lightning_does_not() -> None:
    """Lightning imports matplotlib through torchmetrics; this package adds no import of its own."""
    code = (
        "import sys, lightning; before = 'matplotlib.pyplot' in sys.modules; import sslmanifold.callbacks; "
        "print(before == ('matplotlib.pyplot' in sys.modules))"
    )
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True
    )
    assert run.stdout.split() == ["True"]

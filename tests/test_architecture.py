"""Imports run one way; importing the package is cheap and pulls in nothing that is optional."""

import ast
import subprocess
import sys
from pathlib import Path

import flashdiffusion

ROOT = Path(flashdiffusion.__file__).parent
# Each room may import the rooms before it (and itself); docs/architecture.md draws the same order.
ORDER = [
    "errors",
    "record",
    "progress",
    "hosting",
    "plugins",
    "types",
    "seeds",
    "schedule",
    "data",
    "metrics",
    "physics",
    "priors",
    "severity",
    "regression",
    "published",
    "solvers",
    "methods",
    "presets",
    "model",
    "engine",
    "pipeline",
    "jobs",
    "experiments",
    "reports",
    "training",
    "client",
    "service",
    "app",
    "cli",
]


def _room(path: Path) -> str:
    relative = path.relative_to(ROOT)
    return relative.parts[0].removesuffix(".py")


def _imports(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("flashdiffusion."):
            names.add(node.module.split(".")[1])
        if isinstance(node, ast.Import):
            names |= {a.name.split(".")[1] for a in node.names if a.name.startswith("flashdiffusion.")}
    return names


def test_every_room_is_in_the_order():
    rooms = {_room(p) for p in ROOT.rglob("*.py")} - {"__init__", "__main__"}
    assert rooms == set(ORDER)


def test_imports_run_one_way():
    for path in ROOT.rglob("*.py"):
        if path.name in {"__init__.py", "__main__.py"} and path.parent == ROOT:
            continue
        room = _room(path)
        allowed = set(ORDER[: ORDER.index(room) + 1])
        assert _imports(path) <= allowed, f"{path.relative_to(ROOT)} imports {_imports(path) - allowed}"


def _modules() -> dict[str, Path]:
    """Every file by its module's name; a folder is its __init__.py."""
    paths = {".".join(path.relative_to(ROOT.parent).with_suffix("").parts): path for path in ROOT.rglob("*.py")}
    return {name.removesuffix(".__init__"): path for name, path in paths.items()}


def _targets(path: Path, modules: dict[str, Path]) -> set[str]:
    """The modules that a file names in its imports: at its top, in functions, and for type checkers."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            below = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= {name if name in modules else node.module for name in below}
    return names & modules.keys()


def _circles(edges: dict[str, set[str]]) -> list[set[str]]:
    """Groups of more than one node that all reach each other."""

    def reached(start: str) -> set[str]:
        found: set[str] = set()
        waiting = set(edges[start])
        while waiting:
            found.add(name := waiting.pop())
            waiting |= edges[name] - found
        return found

    reach = {name: reached(name) for name in edges}
    groups = {frozenset(other for other in reach[name] if name in reach[other]) for name in edges}
    return [set(group) for group in groups if group]


def test_circles_are_found():
    """A circle over three files, and a file that imports itself; what only leads into a circle is not part of it."""
    edges = {"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}, "e": {"e"}, "f": set()}
    assert sorted(sorted(group) for group in _circles(edges)) == [["a", "b", "c"], ["e"]]


def test_no_file_imports_in_a_circle():
    modules = _modules()
    edges = {name: _targets(path, modules) for name, path in modules.items()}
    assert _circles(edges) == []


def _modules_after(code: str) -> set[str]:
    script = f"import sys\n{code}\nprint('\\n'.join(m.split('.')[0] for m in sys.modules))"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(result.stdout.split())


def test_importing_the_package_imports_no_heavy_library():
    heavy = {
        "torch",
        "diffusers",
        "torchmetrics",
        "matplotlib",
        "gradio",
        "ray",
        "lpips",
        "torchvision",
        "accelerate",
        "optuna",
    }
    assert not _modules_after("import flashdiffusion") & heavy


def test_the_core_needs_no_torchvision_and_no_optional_library():
    loaded = _modules_after("from flashdiffusion import FlashPipeline, SNRMatch, LatentDPS, GaussianBlur")
    assert not loaded & {"torchvision", "lpips", "deepinv", "gradio", "ray", "matplotlib"}


def test_public_names_resolve():
    for name in flashdiffusion.__all__:
        assert getattr(flashdiffusion, name) is not None


def test_no_pickle_is_ever_loaded():
    for path in ROOT.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
                assert any(k.arg == "weights_only" and ast.unparse(k.value) == "True" for k in node.keywords), path
        assert "import pickle" not in path.read_text()

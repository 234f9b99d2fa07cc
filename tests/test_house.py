"""The rules of the house (docs/architecture.md): which way imports go, and how large things get."""

import ast
import fnmatch
import graphlib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# A room may import itself and the rooms before its row; rooms of one row, not each other.
ROWS = [
    {"core"},
    {"models", "optimizers", "datasets"},
    {"callbacks"},
    {"training"},
    {"evaluation"},
    {"reports"},
    {"deploy", "tracking"},
    {"launch"},
    {"recipe"},
]
LEVEL = {room: level for level, row in enumerate(ROWS) for room in row}
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for room in LEVEL
    for path in ([ROOT / "recipe.py"] if room == "recipe" else sorted((ROOT / room).rglob("*.py")))
}


def imports(tree, everywhere=True):
    """Names of modules that a file imports; at import time alone, or inside functions, too."""
    nodes = list(ast.walk(tree)) if everywhere else list(_at_import_time(tree))
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield whole if whole in MODULES else node.module


def _at_import_time(node):
    for child in ast.iter_child_nodes(node):
        is_typing = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
        if not is_typing and not isinstance(child, ast.FunctionDef):
            yield child
            yield from _at_import_time(child)


def wrong_arrows(module, source):
    """Imports of a module that go against the way."""
    own = module.partition(".")[0]
    for name in imports(ast.parse(source)):
        room = name.partition(".")[0]
        if room in LEVEL and room != own and LEVEL[room] >= LEVEL[own]:
            yield f"{module} imports {name}"


def test_imports_go_one_way():
    found = [
        line for name, path in MODULES.items() for line in wrong_arrows(name, path.read_text())
    ]
    assert not found


@pytest.mark.parametrize(
    ("module", "source", "wrong"),
    [
        ("core.workers", "def join():\n    from training.run import Run", True),
        ("models.resnet", "import optimizers.distributed", True),
        ("training.run_log", "from reports import report", True),
        ("callbacks.wall_clock", "from core.schedule import Schedule", False),
        ("launch.supervisor", "from reports.report import report", False),
    ],
)
def test_a_wrong_arrow_is_found(module, source, wrong):
    assert bool(list(wrong_arrows(module, source))) == wrong


def test_no_file_imports_one_that_imports_it_back():
    graph = {
        name: {m for m in imports(ast.parse(path.read_text()), False) if m in MODULES} - {name}
        for name, path in MODULES.items()
    }
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError, naming the circle


def test_no_folder_holds_more_than_14_modules():
    folders = {path.parent for path in MODULES.values()} - {ROOT}
    sizes = {folder: len([*folder.glob("[!_]*.py")]) for folder in folders}
    assert {folder: size for folder, size in sizes.items() if size > 14} == {}


def functions():
    for name, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                yield name, node


def arguments(function):
    """How many arguments a function takes, but for `self`, `cls`, `*args` and `**kwargs`."""
    listed = function.args
    names = [a.arg for a in (*listed.posonlyargs, *listed.args, *listed.kwonlyargs)]
    return len([name for name in names if name not in ("self", "cls")])


def test_no_function_takes_more_than_8_arguments():
    found = [f"{name}.{f.name}: {arguments(f)}" for name, f in functions() if arguments(f) > 8]
    assert not found


def test_recipe_tells_the_story_in_130_lines_and_train_in_45():
    assert len((ROOT / "recipe.py").read_text().splitlines()) <= 130
    (train,) = (f for name, f in functions() if (name, f.name) == ("recipe", "train"))
    assert train.end_lineno - train.lineno + 1 <= 45


def test_every_file_of_tests_is_collected(pytestconfig):
    """pytest's own settings skip folders of certain names, `build` among them."""
    skipped = pytestconfig.getini("norecursedirs")
    folders = {
        part
        for path in (ROOT / "tests").rglob("test_*.py")
        for part in path.relative_to(ROOT).parts
    }
    assert not [name for name in folders for rule in skipped if fnmatch.fnmatch(name, rule)]


def test_the_formatter_has_no_exceptions():
    python = [p for p in ROOT.rglob("*.py") if not p.relative_to(ROOT).parts[0].startswith(".")]
    mark = "fmt: " + "skip"
    assert [path for path in python if mark in path.read_text()] == []

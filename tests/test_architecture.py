"""The floors hold, every package ships, the trees in the docs are true, and no room outgrows one idea."""

import ast
import collections
import functools
import graphlib
import io
import itertools
import re
import runpy
import tokenize
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
TOPS = ("cli", "trainer", "kernels", "recipes", "galore")
SOURCES = [path for top in TOPS for path in sorted((ROOT / top).rglob("*.py"))]
LONGEST_FILE = 330  # lines
LARGEST_FOLDER = 14  # files, those of folders in it apart

FLOORS = [  # bottom first; of one floor, rooms may look into each other as long as no circle comes of it
    "kernels.family kernels.contradiction kernels.device kernels.span kernels.host kernels.cuda kernels.reference",
    "kernels.storage",
    "kernels.subspace kernels.decompose kernels.dct kernels.linear kernels.rules kernels.model",
    "kernels.triton",
    "kernels.ops",
    "kernels.predict",
    "trainer.common trainer.optim trainer.host",
    "trainer.machine trainer.recipe trainer.tasks trainer.checkpoint",
    "trainer.data trainer.memory trainer.parallel",
    "trainer.record trainer.models trainer.losses trainer.schedule trainer.optimizer trainer.time",
    "trainer.build trainer.step",
    "trainer.evaluate trainer.parameters",
    "trainer.fit trainer.trained trainer.recorder",
    "trainer.facts trainer.shortage",
    "trainer.saving",
    "trainer.rescue",
    "trainer.loop",
    "trainer.follow",
    "trainer.run",
    "trainer.sweep",
    "cli.errors cli.arguments cli.words",
    "cli.show",
    "cli.verbs",
    "cli.main cli.entry",
    "galore",
]
FLOOR_OF = {room: number for number, rooms in enumerate(FLOORS) for room in rooms.split()}


def module_of(path):
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_of(path) for path in SOURCES}
PACKAGES = {module_of(path) for path in SOURCES if path.name == "__init__.py"}


def floor(module):
    """Index in FLOORS of the longest room that holds `module`; KeyError for a module of no floor."""
    return FLOOR_OF[max((room for room in FLOOR_OF if f"{module}.".startswith(f"{room}.")), key=len, default=module)]


def imports(path, top_level_only=False):
    tree = ast.parse(path.read_text())
    nodes = tree.body if top_level_only else ast.walk(tree)
    found = set()
    for node in nodes:
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: absolute imports only"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found


@functools.cache
def arrows():
    """module → the modules of ours that it imports anywhere, for type checking too."""
    found = {}
    for path in SOURCES:
        own = {name.removeprefix("galore.") for name in imports(path) if name.startswith("galore.")}
        own = {name if name in MODULES else name.rpartition(".")[0] for name in own}
        found[module_of(path)] = own & MODULES - {"recipes"}
    return found


def upstairs(graph):
    """Arrows from a lower floor to a higher one."""
    return [
        (module, other)
        for module, others in graph.items()
        for other in others
        if module != "recipes" and floor(other) > floor(module)
    ]


def circles(graph):
    """Groups of more than one node, each of which leads to every other."""
    order = graphlib.TopologicalSorter(graph)
    try:
        order.prepare()
    except graphlib.CycleError as error:
        return error.args[1]
    return []


def folders(graph):
    """The same between folders; a file that stands beside folders is a node of its own."""
    leaves = {package for package in PACKAGES if not any(other.startswith(f"{package}.") for other in PACKAGES)}

    def node(module):
        parent = module.rpartition(".")[0]
        return parent if parent in leaves else module

    between = {}
    for module, others in graph.items():
        between.setdefault(node(module), set()).update(node(other) for other in others if node(other) != node(module))
    return between


def test_every_module_stands_on_a_floor():
    for module in MODULES - {"recipes", *PACKAGES}:
        floor(module)


def test_nobody_imports_upstairs():
    assert not upstairs(arrows())


def test_no_circle_of_files_and_no_knot_of_folders():
    assert not circles(arrows())
    assert not circles(folders(arrows()))


@pytest.mark.parametrize(("below", "above"), itertools.pairwise(FLOORS))
def test_a_wrong_arrow_is_seen_on_every_floor(below, above):
    low, high = (min(m for m in MODULES if f"{m}.".startswith(f"{rooms.split()[0]}.")) for rooms in (below, above))
    graph = arrows()
    assert (low, high) in upstairs({**graph, low: graph[low] | {high}})


def test_a_circle_is_seen():
    graph = arrows()
    module, other = next((module, other) for module, others in sorted(graph.items()) for other in sorted(others))
    assert circles({**graph, other: graph[other] | {module}})
    inside = {"cli.show": {"cli.verbs"}, "cli.verbs": {"cli.show"}}
    assert circles(inside)


@pytest.mark.parametrize("package", sorted(PACKAGES))
def test_no_folder_outgrows_one_idea(package):
    files = [path for path in (ROOT / package.replace(".", "/")).glob("*.py") if path.name != "__init__.py"]
    assert len(files) <= LARGEST_FOLDER


def test_the_floors_are_those_of_the_documentation():
    text = (ROOT / "docs/architecture.md").read_text()
    assert re.search(r"```text\n(.*?)\n```", text, re.S)[1].splitlines() == FLOORS


def test_the_optimizer_needs_nothing_but_torch_and_the_kernels():
    for path in [*(ROOT / "trainer/optim").rglob("*.py"), *(ROOT / "kernels").rglob("*.py")]:
        roots = {name.split(".")[0] for name in imports(path, top_level_only=True)}
        assert not roots & {"transformers", "pydantic", "typer", "rich", "datasets"}, path


def test_the_command_line_and_recipes_import_no_torch():
    for path in [path for room in ("cli", "galore", "trainer/recipe") for path in (ROOT / room).rglob("*.py")]:
        roots = {name.split(".")[0] for name in imports(path, top_level_only=True)}
        assert not roots & {"torch", "transformers", "numpy"}, path


@functools.cache
def imported_by_tests():
    """Modules that a test names in an import, each with what is taken from it, which may be a module too."""
    found = set()
    for path in (ROOT / "tests").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
            elif isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
    return found


def uncovered(sources, imported):
    """Sources that have no mirror, tests/X/test_Y.py or tests/X/test_Y_ASPECT.py, and that no test imports."""
    for path in sources:
        name = path.relative_to(ROOT)
        mirrors = [*(ROOT / "tests" / name.parent).glob(f"test_{name.stem}.py")]
        mirrors += (ROOT / "tests" / name.parent).glob(f"test_{name.stem}_*.py")
        if path.name != "__init__.py" and not mirrors and f"galore.{module_of(path)}" not in imported:
            yield str(name)


def test_every_source_is_covered_by_name():
    found = uncovered(SOURCES, imported_by_tests())
    assert not list(found)


def test_an_uncovered_source_is_seen():
    planted = [ROOT / "trainer/nobody.py", ROOT / "trainer/rescue.py", ROOT / "trainer/nobody/__init__.py"]
    assert list(uncovered(planted, imported_by_tests())) == ["trainer/nobody.py"]
    assert not list(uncovered(planted, {"galore.trainer.nobody"}))


KIND = {"global_batch", "losses"}  # who has one of these methods is a kind of data or of batch


def kinds():
    """Names of the kinds, their contract included, and of what names several of them at once."""
    trees = [ast.parse(path.read_text()) for path in (ROOT / "trainer/data").rglob("*.py")]
    classes = [node for tree in trees for node in tree.body if isinstance(node, ast.ClassDef)]
    return {each.name for each in classes if KIND & {getattr(part, "name", "") for part in each.body}}


def asks_the_kind(tree, names):
    """Lines that tell kinds apart: by isinstance, issubclass, a case, or by comparing classes."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("isinstance", "issubclass"):
            asked = node.args[1:]
        elif isinstance(node, (ast.Compare, ast.MatchClass)):
            asked = [node.cls] if isinstance(node, ast.MatchClass) else [node.left, *node.comparators]
        else:
            continue
        if names & {getattr(part, "id", getattr(part, "attr", "")) for each in asked for part in ast.walk(each)}:
            yield node.lineno


def test_nobody_asks_which_kind_of_data_it_has():
    """What differs between the kinds is a method of theirs; the contract is trainer/data/batch.py."""
    names = kinds()
    assert names >= {"Data", "Batch", "MappedData", "StreamedData", "LabelledData", "TokenBatch", "LabelledBatch"}
    outside = [path for path in SOURCES if not path.is_relative_to(ROOT / "trainer/data")]
    found = [f"{path}:{line}" for path in outside for line in asks_the_kind(ast.parse(path.read_text()), names)]
    assert not found


@pytest.mark.parametrize(
    "asks",
    [
        "isinstance(run.data, LabelledData)",
        "isinstance(batch, (int, labelled.LabelledBatch))",
        "type(batch) is TokenBatch",
        "match data:\n    case MappedData(): pass",
    ],
)
def test_a_question_after_the_kind_is_seen(asks):
    assert list(asks_the_kind(ast.parse(asks), kinds()))


def test_every_package_ships():
    listed = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    folders = [init.parent.relative_to(ROOT) for top in TOPS for init in (ROOT / top).rglob("__init__.py")]
    on_disk = {f"galore.{'.'.join(folder.parts)}".removesuffix(".galore") for folder in folders}
    on_disk = {name.replace("galore.galore.", "galore.") for name in on_disk}
    assert listed == on_disk


@pytest.mark.parametrize("path", SOURCES, ids=module_of)
def test_files_stay_small_and_say_what_they_are(path):
    text = path.read_text()
    assert text.count("\n") <= LONGEST_FILE
    assert ast.get_docstring(ast.parse(text)), f"{path} has no docstring"


def test_no_pickle_and_no_unsafe_yaml():
    unsafe = re.compile(
        r"\bimport pickle\b|torch\.(load|save)\(|yaml\.(load|unsafe_load|full_load)\(|trust_remote_code=True"
    )
    offenders = [str(path) for path in SOURCES if unsafe.search(path.read_text())]
    assert not offenders


def literals(text):
    """The choices of every `Literal` of two strings or more, whatever their order."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Subscript) and ast.unparse(node.value).rpartition(".")[2] == "Literal":
            choices = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
            words = {each.value for each in choices if isinstance(each, ast.Constant) and isinstance(each.value, str)}
            if len(words) > 1:
                yield frozenset(words)


def test_no_literal_stands_twice():
    """A choice has one name and one place, `kernels/family.py` where it is the optimizer's."""
    found = collections.Counter(each for path in SOURCES for each in literals(path.read_text()))
    assert len(found) > 25
    assert not [sorted(each) for each, count in found.items() if count > 1]
    again = "x: typing.Literal['b', 'a'] | None; y: list[Literal['a', 'b']]; z: Literal['a']"
    assert list(literals(again)) == [{"a", "b"}] * 2


UNBOUNDED = {  # function of a file → why it may read whatever is there
    "trainer/common/reading.py:open_regular": "the one that asks first",
    "trainer/common/lock.py:is_held": "opened to be locked, never read",
    "trainer/recipe/shipped.py:about": "a file of the package",
    "trainer/common/page.py:read_part": "a file of the package",
    "trainer/fit/shipped.py:candidates": "a table of the package",
    "trainer/machine/hardware.py:cpu_name": "/proc/cpuinfo",
    "cli/show/machine.py:_cpu_flags": "/proc/cpuinfo",
    "kernels/triton/tuning.py:_read": "a table of the package, or what `galore bench kernels` wrote; kernels stand below",
    "trainer/data/tokens/store.py:__init__": "a file of the cache, which was verified just now",
}


def reads(call):
    """Whether a call opens a path to read it, without asking what it is."""
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    of = getattr(getattr(call.func, "value", None), "id", "")
    if name != "open":
        return name in ("read_text", "read_bytes") and isinstance(call.func, ast.Attribute)
    if of == "os":
        return not {"O_DIRECTORY", "O_WRONLY", "O_RDWR"} & {
            node.attr for node in ast.walk(call) if isinstance(node, ast.Attribute)
        }
    if of in ("self", "cls") or of[:1].isupper():  # a method of our own
        return False
    words = [each.value for each in [*call.args, *(k.value for k in call.keywords)] if isinstance(each, ast.Constant)]
    return not any(set(str(word)) & set("wax+") and set(str(word)) <= set("rwaxbt+") for word in words)


def test_no_path_is_read_without_a_limit():
    """`galore.trainer.common.reading` opens regular files only, and reads them to a limit."""
    found = set()
    for path in SOURCES:
        for function in ast.walk(ast.parse(path.read_text())):
            if isinstance(function, ast.FunctionDef):
                calls = [node for node in ast.walk(function) if isinstance(node, ast.Call) and reads(node)]
                found |= {f"{path.relative_to(ROOT)}:{function.name}" for _ in calls}
    assert not found - set(UNBOUNDED)


def loading(path):
    """Every mention of what would import a model's own files: its line, and whether it is a call that forbids it.

    GenerationConfig is data alone.
    """
    nodes = list(ast.walk(ast.parse(path.read_text())))
    calls = {node.func: node for node in nodes if isinstance(node, ast.Call)}
    for node in [node for node in nodes if isinstance(node, ast.Attribute)]:
        if node.attr in ("from_pretrained", "from_config") and not re.search(
            "generation_?config", ast.unparse(node.value), re.IGNORECASE
        ):
            words = {word.arg: ast.unparse(word.value) for word in calls[node].keywords} if node in calls else {}
            yield node.lineno, words.get("trust_remote_code") == "False"


def test_no_code_of_a_model_or_tokenizer_runs():
    found = [(path, *each) for path in SOURCES for each in loading(path)]
    assert len(found) >= 5
    assert not [f"{path}:{line}" for path, line, forbidden in found if not forbidden]


def test_hooks_of_commits_download_nothing():
    repositories = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    hooks = [hook for repository in repositories for hook in repository["hooks"]]
    assert {repository["repo"] for repository in repositories} == {"local"}
    assert {(hook["language"], hook["entry"].split()[0]) for hook in hooks} == {("system", ".venv/bin/python")}


def test_the_data_sets_library_reads_no_loader_scripts():
    data = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["data"]
    assert "datasets>=5.1" in data  # 3 still asks on the terminal whether to run one


@pytest.mark.parametrize("page", ["README.md", "docs/tree.md"])
def test_the_tree_is_true(page):
    tree = runpy.run_path(str(ROOT / "docs/tree.py"))
    text = (ROOT / page).read_text()
    assert "```text\n.\n├── " in text
    assert tree["rewritten"](page, text) == text, "run `python docs/tree.py`"


# Words that lead to a subject which never comes. "Which …", "Where …", "When …" and "From … to …" have one.
NO_SUBJECT = re.compile(
    r"(Of|As|In|By|To|For|At|On|Under|With|Without|After|Before|During|Beside|Beyond|Inside|Within|Among|Between|Against"
    r"|Through|Like|While|Until|Since|Unless|Because|From(?!.* to )|That|It|Its|He|They|Their|Them|These|Those|None"
    r"|So|And|Or|But|Then|Such|Not|Nor|(Both|The same) (of|as|for)|One for|All of them)\b"
)


def subjectless(tree):
    """Docstrings that begin so, of a module and of all classes and functions in it."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            said = ast.get_docstring(node) or ""
            if NO_SUBJECT.match(said):
                yield getattr(node, "name", "module"), said.splitlines()[0]


def test_a_docstring_names_its_subject():
    assert not [(str(path), *each) for path in SOURCES for each in subjectless(ast.parse(path.read_text()))]


@pytest.mark.parametrize(
    ("said", "seen"),
    [
        ("Of what is kept.", True),
        ("As in torch.", True),
        ("Inside, nothing is counted.", True),
        ("The same of a stream.", True),
        ("From inputs of a layer.", True),
        ("All of them.", True),
        ("From a recipe to a run.", False),
        ("Which blocks are computed again.", False),
        ("All of `examples`, the longest first.", False),
        ("Offsets of documents.", False),
    ],
)
def test_a_docstring_without_a_subject_is_seen(said, seen):
    texts = f'"""{said}"""', f'class _A:\n    async def _f(self):\n        """{said}"""'
    assert all(bool(list(subjectless(ast.parse(text)))) is seen for text in texts)


# Stems whose verbs and nouns are spelled -ize, -yze.
STEMS = """
    categor central character compart custom diagonal digit discret emphas equal factor final formal general harmon
    initial item legal linear local material maxim memor minim modern modular neutral normal optim organ orthogonal
    orthonormal parallel parameter penal popular prior quant random rational real recogn regular sanit serial special
    stabil standard summar symbol symmetr synchron synthes token total util vector visual
"""
BRITISH = re.compile(rf"(?i)(({'|'.join(STEMS.split())})is(e[drs]?|ers|ing|able|ations?)|(ana|cata)lys(e[drs]?|ing))$")
# What others write in a recipe, and we understand.
FROM_USERS = {"trainer/recipe/explain/aliases.py": "optimisation", "tests/test_architecture.py": "optimisation"}


def written():
    """Every file of ours that somebody wrote, but for what was measured."""
    suffixes = {".py", ".md", ".yaml", ".json", ".js", ".css", ".html", ".toml"}
    tops = [ROOT / top for top in (*TOPS, "tests", "bench", "docs")]
    apart = {ROOT / "bench/LOG.md", *(ROOT / "bench/results").rglob("*")}
    found = [path for top in tops for path in top.rglob("*") if path.suffix in suffixes and path not in apart]
    return [*ROOT.glob("*.md"), *found]


def with_s(text):
    """Words of a text, or parts of its names, whose -is- is to be -iz-."""
    return {word for word in set(re.findall(r"[A-Z]?[a-z]+|[A-Z]+", text)) if BRITISH.search(word)}


def test_words_are_spelled_with_z():
    found = {}
    for path in written():
        name = path.relative_to(ROOT).as_posix()
        words = with_s(path.read_text()) - {FROM_USERS.get(name)}
        found |= {name: words} if words else {}
    assert not found


@pytest.mark.parametrize(
    "word", ["tokeni-sed", "Quanti-serTest", "_summari-se", "analy-sing", "test_normali-sation", "REALI-SE"]
)
def test_a_word_with_s_is_seen(word):
    assert len(with_s(f"({word.replace('-', '')})")) == 1
    assert not with_s("raise noise precise advise otherwise premise blockwise, tokenized analysis")


def ill_laid(text):
    """Lines over 120, but for code with a long message in it, and comments right behind an opening bracket."""
    strings = [node.value for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Expr)]
    words = {
        line for each in strings if isinstance(each, ast.Constant) for line in range(each.lineno, each.end_lineno + 1)
    }
    found = set()
    for before, token in itertools.pairwise(tokenize.generate_tokens(io.StringIO(text).readline)):
        if token.type == tokenize.COMMENT and not re.match("# (type: ignore|noqa)", token.string):
            words.add(token.start[0])
            found |= {token.start[0]} if before.string in ("(", "[", "{") else set()
    for number, line in enumerate(text.splitlines(), start=1):
        code = re.sub(r"  # (type: ignore|noqa).*", "", line)
        if len(code) > 120 and (number in words or not set("'\"") & set(code)):
            found.add(number)
    return found


@pytest.mark.parametrize("path", SOURCES, ids=module_of)
def test_comments_stand_above_and_lines_end_in_time(path):
    assert not ill_laid(path.read_text())


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("kept = {  # why\n    1: 2,\n}", True),
        (f"# {'long ' * 30}", True),
        (f'"""Short.\n\n{"long " * 30}\n"""', True),
        (f"x = 1  # {'long ' * 30}", True),
        (f"x = {'1 + ' * 40}1", True),
        (f"x = '{'long ' * 30}'", False),
        (f"x = {'1 + ' * 27}1  # type: ignore[no-untyped-call]", False),
        ("# why\nkept = {\n    1: 2,  # which\n}", False),
    ],
)
def test_an_ill_laid_line_is_seen(text, seen):
    assert bool(ill_laid(text)) is seen

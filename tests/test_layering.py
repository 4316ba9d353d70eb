"""The rules of the code's layers: what may include, import or name what."""

import ast
import re
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CODE = [
    *sorted(
        path
        for folder in ("csrc", "segext", "benchmarks", "docs", "examples", "tests")
        for path in (ROOT / folder).rglob("*")
        if path.suffix in {".h", ".cpp", ".cu", ".cuh", ".py"}
    ),
    ROOT / "setup.py",
]
PACKAGE = sorted((ROOT / "segext").rglob("*.py"))
NATIVE = [path for path in CODE if path.suffix != ".py"]
KERNELS = [path for path in NATIVE if path.is_relative_to(ROOT / "csrc" / "kernels")]

# A module imports only modules further right.
LAYERS = (
    "__main__",
    "training",
    "models",
    "_convert",
    "memory",
    "nn",
    "functional",
    "_explain",
    "unpool_conv2d",
    "max_unpool2d",
    "max_pool2d",
    "conv_transpose2d",
    "conv_routes",
    "criterion",
    "conv_arguments",
    "onnx",
    "bilinear",
    "switches",
    "value_checks",
    "flops",
    "fakes",
    "fake_checks",
    "batching",
    "ops",
    "derivatives",
    "geometry",
    "overriding",
    "arguments",
    "_library",
)


def relative(path):
    return str(path.relative_to(ROOT))


def includes(path):
    return re.findall(r'^\s*#\s*include\s*[<"]([^>"]+)', path.read_text(), re.MULTILINE)


def without_comments(text):
    return re.sub(r"//[^\n]*|/\*.*?\*/", "", text, flags=re.DOTALL)


def imports(path):
    """Modules that a file of the package imports, in any scope, as full names."""
    package = ["segext", *path.relative_to(ROOT / "segext").parent.parts]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            start = ".".join([*base, *(node.module or "").split(".")]).strip(".")
            yield start
            yield from (f"{start}.{alias.name}" for alias in node.names)


def own_imports(path):
    """Names right below segext that a file of the package imports."""
    return {name.split(".")[1] for name in imports(path) if name.startswith("segext.")}


def test_the_rules_have_something_to_rule():
    assert len(KERNELS) > 10
    assert {"ops.py", "functional.py", "nn.py", "switches.py", "reference.py"} <= {path.name for path in PACKAGE}


@pytest.mark.parametrize("path", KERNELS, ids=relative)
def test_kernels_know_no_torch_and_no_python(path):
    forbidden = re.compile(r"^(torch|ATen|c10|caffe2|pybind11)/|^Python\.h")
    assert not [header for header in includes(path) if forbidden.match(header)]
    names = r"\b(at|c10|torch|pybind11|py)::|\bPyObject\b|\bTORCH_\w+"
    assert not re.search(names, without_comments(path.read_text()))


@pytest.mark.parametrize("path", [path for path in KERNELS if path.suffix in {".h", ".cpp"}], ids=relative)
def test_host_kernels_need_no_cuda(path):
    assert not [header for header in includes(path) if re.search(r"cuda|\.cuh$", header)]


@pytest.mark.parametrize("path", KERNELS, ids=relative)
def test_kernels_include_only_kernels(path):
    for header in includes(path):
        for base in (path.parent, ROOT / "csrc" / "kernels", ROOT / "csrc"):
            if (found := (base / header).resolve()).exists():
                assert found.is_relative_to(ROOT / "csrc" / "kernels")


@pytest.mark.parametrize("folder", ["cpu", "cuda"])
def test_headers_of_kernels_share_no_name_of_a_class(folder):
    """Files that are linked together may not know two classes by one name, whether or not one file includes both."""
    defined = defaultdict(set)
    for path in KERNELS:
        if path.suffix in {".h", ".cuh"} and path.parent.name in {folder, "kernels"}:
            # Specialisations have arguments behind the name, classes in classes are indented.
            for name in re.findall(
                r"^(?:class|struct)(?: alignas\(.*\))? (\w+)(?: final)?(?: :[^{;]*)? \{", path.read_text(), re.M
            ):
                defined[name].add(relative(path))
    assert len(defined) > 20
    assert not {name: paths for name, paths in defined.items() if len(paths) > 1}


@pytest.mark.parametrize("path", sorted((ROOT / "csrc" / "ops").glob("*")), ids=relative)
def test_glue_stands_on_the_stable_abi(path):
    assert not [
        header for header in includes(path) if re.match(r"ATen/|c10/|pybind11/|Python\.h|torch/extension", header)
    ]


def test_only_the_library_file_declares_schemas():
    declared = [path for path in NATIVE if re.search(r"STABLE_TORCH_LIBRARY\(", without_comments(path.read_text()))]
    assert declared == [ROOT / "csrc" / "library.cpp"]


def test_only_the_bindings_know_pybind11():
    assert [path for path in NATIVE if any("pybind11" in header for header in includes(path))] == [
        ROOT / "csrc" / "bindings.cpp"
    ]


@pytest.mark.parametrize("path", [path for path in PACKAGE if path != ROOT / "segext" / "__init__.py"], ids=relative)
def test_imports_run_one_way(path):
    """Files of one layer may import each other where the layer is a package."""
    layer, *inside = path.relative_to(ROOT / "segext").with_suffix("").parts
    if layer == "reference":
        assert own_imports(path) == set()
    else:
        allowed = LAYERS[LAYERS.index(layer) + (0 if inside else 1) :]
        assert own_imports(path) & {*LAYERS, "reference"} <= set(allowed)


def test_reference_imports_only_torch():
    roots = {name.split(".")[0] for name in imports(ROOT / "segext" / "reference.py")}
    assert roots == {"__future__", "typing", "torch"}


def test_nothing_of_the_package_imports_the_reference():
    assert not [path for path in PACKAGE if "reference" in own_imports(path)]


def test_only_ops_names_torch_ops_segext():
    named = [
        path.name for path in PACKAGE if re.search(r"torch\.ops\.segext\b|\bops\.segext\b|segext::", path.read_text())
    ]
    assert named in (["ops.py"], ["_library.py", "ops.py"])
    assert not re.search(r"ops\.segext\b", (ROOT / "segext" / "_library.py").read_text())


def test_only_the_loader_loads():
    loading = re.compile(r"load_library|ctypes|CDLL|import _C\b|_C import")
    assert [path.name for path in PACKAGE if loading.search(path.read_text())] == ["_library.py"]


def test_the_bit_layout_has_one_home():
    """Codes are shifted out of bytes in switches.h and its vector forms alone; glue and Python shift nothing."""
    homes = {"switches.h", "codes.h", "codes.cuh"}
    by_width = re.compile(r"(?:>>|<<)=?\s*\(?[\w.> *-]*\bbits\b|\b8\s*(?:/|>>)\s*\(?[\w.>-]*\bbits\b")
    shifts = [path for path in NATIVE if path.name not in homes and by_width.search(without_comments(path.read_text()))]
    glue = [path for path in NATIVE if path.parent.name == "ops"]
    shifts += [path for path in glue if re.search(r">>=?\s*\w|<<=?\s*\w*bits", without_comments(path.read_text()))]
    assert not shifts
    for path in PACKAGE:
        nodes = ast.walk(ast.parse(path.read_text()))
        lines = [n.lineno for n in nodes if isinstance(n, ast.BinOp) and isinstance(n.op, (ast.LShift, ast.RShift))]
        assert path.name == "reference.py" or not lines, (path, lines)


@pytest.mark.parametrize("path", CODE, ids=relative)
def test_every_file_says_what_it_is_responsible_for(path):
    text = path.read_text()
    opening = (ast.get_docstring(ast.parse(text)) or "") if path.suffix == ".py" else text.split("\n\n")[0]
    if path.suffix != ".py":
        assert opening.startswith("//"), "a comment comes first"
    assert len(re.findall(r"\w+", opening.split("#")[0])) >= 2, "too short to say anything"


@pytest.mark.parametrize(
    "path",
    [*CODE, *ROOT.glob("*.toml"), *ROOT.glob("*.md"), *ROOT.glob("*.in"), *ROOT.glob("docs/**/*.md")],
    ids=relative,
)
def test_no_file_names_a_place_on_a_machine(path):
    """No absolute path into a home, a work tree or a temporary folder."""
    assert not re.search(r"(?<![\w./-])/(home|root|work|Users|tmp|mnt|data|workspace)/\w", path.read_text())


def test_every_schema_has_a_kernel_contract_and_a_test():
    """One stem runs through all layers: each op of library.cpp is named in ops.py and has arguments for its tests."""
    schemas = set(re.findall(r'"(\w+)\(', (ROOT / "csrc" / "library.cpp").read_text()))
    assert len(schemas) >= 13
    python = (ROOT / "segext" / "ops.py").read_text()
    samples = (ROOT / "tests" / "op_samples.py").read_text()
    assert not {op for op in schemas if not re.search(rf"\b{op}\b", python)}
    assert not {op for op in schemas if f"\ndef {op}(of):" not in samples}

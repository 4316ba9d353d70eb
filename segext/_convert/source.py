"""Finds the calls in a method's source and rewrites methods with other callees at some of them.

A rewritten method keeps its globals, closure, defaults, lines and file; only its code differs, by names added to its
closure. Calls are identified by their number in the method, which is unaffected by changes elsewhere in the file.
"""

import __future__

import ast
import copy
import dis
import functools
import hashlib
import inspect
import itertools
import linecache
import sysconfig
import types
from collections.abc import Iterator
from pathlib import Path

import torch

_STDLIB = sysconfig.get_path("stdlib")
_LIBRARY = (str(Path(torch.__file__).parent), str(Path(__file__).parents[1]))
_FUTURE = functools.reduce(int.__or__, (getattr(__future__, n).compiler_flag for n in __future__.all_feature_names))
_PREFIX = "_segext_"
_OPERATORS = ("add", "sub", "mul", "matmul", "truediv", "floordiv", "mod", "pow", "and", "or", "xor")
IN_PLACE = tuple(f"i{name}" for name in _OPERATORS)  # in the module operator
# Names that change a tensor, or may be the flag that asks a stock function for it.
_CHANGING = {"inplace", *IN_PLACE}


def is_users(code: types.CodeType) -> bool:
    """Whether code is neither torch's, nor segext's, nor the standard library's."""
    path = code.co_filename
    return not (path.startswith((*_LIBRARY, "<frozen")) or (path.startswith(_STDLIB) and "-packages" not in path))


def methods(kind: type) -> dict[str, types.FunctionType]:
    """The plain, user-written functions of a class and its bases, as an instance finds them."""
    found: dict[str, object] = {}
    for base in kind.__mro__:
        found = {**vars(base), **found}
    return {name: f for name, f in found.items() if inspect.isfunction(f) and is_users(f.__code__)}


def functions(kind: type) -> Iterator[tuple[str, types.FunctionType]]:
    """All user-written functions in a class and its bases, by name: also overridden, decorated and of properties."""
    for base in kind.__mro__:
        for name, value in vars(base).items():
            parts = (value.fget, value.fset, value.fdel) if isinstance(value, property) else (value,)
            for part in parts:
                function = inspect.unwrap(getattr(part, "__func__", part))
                if inspect.isfunction(function) and is_users(function.__code__):
                    yield name, function


def reached(kind: type) -> Iterator[types.CodeType]:
    """The user-written code of a class's forward and of what it calls by name, with all code nested in it."""
    found = methods(kind)
    return run_by(found["forward"], found) if "forward" in found else iter(())


def run_by(function: types.FunctionType, found: dict[str, types.FunctionType]) -> Iterator[types.CodeType]:
    """The code of a function and of what it calls by name, globals and the methods ``found``, with all code nested."""
    functions = [function]
    for function in functions:  # grows
        codes = nested(function.__code__)
        yield from codes
        names = {name for code in codes for name in code.co_names}
        for value in (place.get(name) for name in names for place in (found, function.__globals__)):
            if inspect.isfunction(value) and is_users(value.__code__) and value not in functions:
                functions.append(value)


@functools.lru_cache(maxsize=1024)
def works_in_place(code: types.CodeType) -> bool:
    """Whether code may change a tensor in place: ``x += y``, ``x[i] = y``, ``x.relu_()``, ``inplace=``, ``out=``.

    ``self.inplace`` and a variable of that name count too, for they may be given by place.
    """
    names = set(code.co_names) - {"requires_grad_"}
    if any(name.endswith("_") and not name.endswith("__") for name in names) or names & _CHANGING:
        return True
    if "inplace" in (*code.co_varnames, *code.co_freevars):
        return True
    if any(isinstance(c, tuple) and any(word in c for word in ("inplace", "out")) for c in code.co_consts):
        return True
    if any(c is True for c in code.co_consts) and names & _takes_inplace():  # by place
        return True

    def changes(before: dis.Instruction, i: dis.Instruction) -> bool:
        if i.opname == "STORE_SLICE":  # of Python 3.12 and later
            return True
        if i.opname == "STORE_SUBSCR":
            return not (before.opname == "LOAD_CONST" and isinstance(before.argval, str))  # else into a dict
        return i.opname.startswith("INPLACE_") or (i.opname == "BINARY_OP" and i.argrepr.endswith("="))

    return any(changes(before, i) for before, i in itertools.pairwise(dis.get_instructions(code)))


@functools.cache
def _takes_inplace() -> frozenset[str]:
    """The names of stock functions that have an argument ``inplace``."""
    functions = {name: value for name, value in vars(torch.nn.functional).items() if inspect.isfunction(value)}
    return frozenset(name for name, value in functions.items() if "inplace" in inspect.signature(value).parameters)


def definition(function: types.FunctionType) -> ast.FunctionDef | None:
    """A method's definition, if that is what runs: not if it was decorated, or edited since."""
    return _definition(function)[0]


def defining(kind: type, code: types.CodeType) -> ast.FunctionDef | None:
    """The definition of a method of a class or its bases that has this code, or has had it before it was rewritten."""
    place = code.co_filename, code.co_name, code.co_firstlineno
    for base in kind.__mro__:
        for function in filter(inspect.isfunction, vars(base).values()):
            own = function.__code__
            if (own.co_filename, own.co_name, own.co_firstlineno) == place and (found := definition(function)):
                return found
    return None


def calls(definition: ast.FunctionDef) -> list[ast.Call]:
    """The calls in a method's body, in a fixed order."""
    return [node for statement in definition.body for node in ast.walk(statement) if isinstance(node, ast.Call)]


def digest(function: types.FunctionType) -> str:
    """A digest of a method's content."""
    return hashlib.sha256(ast.unparse(definition(function)).encode()).hexdigest()[:16]


def local_names(function: types.FunctionType) -> set[str]:
    """Every name that a method or a function inside it binds or takes from a closure."""
    codes = nested(function.__code__)
    return {name for code in codes for name in (*code.co_varnames, *code.co_cellvars, *code.co_freevars)}


def rewrite(function: types.FunctionType, callees: dict[int, object]) -> types.FunctionType:
    """A method with some of its calls redirected; a call of a tensor's method passes the tensor as an argument."""
    changed, owner = copy.deepcopy(_definition(function))
    changed.decorator_list = []
    found = calls(changed)
    cells = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=True))
    for index, callee in callees.items():
        call, name = found[index], f"{_PREFIX}{index}_{callee.__name__}"
        if is_method_call(call):
            call.args.insert(0, call.func.value)
        call.func = ast.copy_location(ast.Name(name, ast.Load()), call.func)
        cells[name] = types.CellType(callee)
    code = _compile(changed, owner, function.__code__, cells)
    closure = tuple(cells[name] for name in code.co_freevars)
    new = types.FunctionType(code, function.__globals__, function.__name__, function.__defaults__, closure)
    functools.update_wrapper(new, function)
    new.__kwdefaults__ = function.__kwdefaults__
    vars(new).clear()  # removes what update_wrapper adds
    vars(new).update(vars(function))
    return new


def is_method_call(call: ast.Call) -> bool:
    """Whether a call is ``x.relu()`` or ``x.relu_()``."""
    return (
        isinstance(call.func, ast.Attribute) and call.func.attr in ("relu", "relu_") and not call.args + call.keywords
    )


def _definition(function: types.FunctionType) -> tuple[ast.FunctionDef | None, str | None]:
    """A function's definition and the class around it; not cached, so that functions can be freed."""
    code = function.__code__
    found, codes = _file("".join(linecache.getlines(code.co_filename, function.__globals__)))
    key = code.co_name, code.co_firstlineno
    return found[key] if key in found and codes.get(key) == code else (None, None)


@functools.lru_cache(maxsize=64)
def _file(text: str) -> tuple[dict[tuple, tuple[ast.FunctionDef, str | None]], dict[tuple, types.CodeType]]:
    """All functions of a file with the innermost class around them, and all code objects, by name and first line."""
    try:
        tree = ast.parse(text)
        module = compile(tree, "", "exec", dont_inherit=True)
    except SyntaxError:
        return {}, {}
    found: dict[tuple, tuple[ast.FunctionDef, str | None]] = {}

    def look(node: ast.AST, owner: str | None) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef):
                first = child.decorator_list[0] if child.decorator_list else child
                found[child.name, first.lineno] = child, owner
            look(child, child.name if isinstance(child, ast.ClassDef) else owner)

    look(tree, None)
    return found, {(code.co_name, code.co_firstlineno): code for code in nested(module)}


def _compile(definition: ast.FunctionDef, owner: str | None, code: types.CodeType, free) -> types.CodeType:
    """The code of a function with ``free`` names in its closure; the class around it mangles private names."""
    names = ", ".join(name for name in free if name != "__class__")
    outside = "" if owner in free else f" global {owner}\n"  # or the method would find its own class here
    tree = ast.parse(f"def around({names}):\n{outside} class {owner}: pass" if owner else f"def around({names}): pass")
    (tree.body[0].body[-1] if owner else tree.body[0]).body = [definition]
    around = compile(tree, code.co_filename, "exec", code.co_flags & _FUTURE, dont_inherit=True)
    key = definition.name, definition.lineno
    return next(c for c in nested(around) if (c.co_name, c.co_firstlineno) == key)


def nested(code: types.CodeType) -> list[types.CodeType]:
    """A code object and those nested in it."""
    codes = [code]
    for outer in codes:  # grows
        codes.extend(c for c in outer.co_consts if isinstance(c, types.CodeType))
    return codes

"""Reads one module's own forward as a torch.fx graph, children as leaves, and says what such a graph may hide.

A trace runs the forward once with stand-ins for tensors. It is complete only if that code runs the same way every
time: without branches, contexts, type tests, its own hooks, and tensors kept beyond the call. Whether a module has an
optional layer is the same every time.
"""

import contextlib
import dis
import functools
import gc
import inspect
import operator
import random
import sys
import threading
import types
import weakref
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import fx, nn
from torch.nn.utils import parametrize
from torch.utils import checkpoint

from .. import functional
from . import reach, source

IN_PLACE = tuple(getattr(operator, name) for name in source.IN_PLACE)
# What asks for a type: a stand-in answers it wrongly for a tensor.
_TYPE_TESTS = {"type", "isinstance", "issubclass", "callable"}
_TYPE_ATTRIBUTES = {"__class__", "_get_name"}
_CONTEXTS = (torch.autograd.grad_mode.__file__, torch.amp.autocast_mode.__file__)


_LOCK = threading.RLock()  # traces that overlap would leave each other's patches behind


class Untraceable(Exception):
    """Why a forward cannot be read."""


class _Proxy(fx.Proxy):
    """Records ``x += y`` as in place, which fx treats as ``x = x + y``; has only the attributes that a tensor has."""

    def __getattr__(self, name: str):
        if not hasattr(torch.Tensor, name):
            raise Untraceable(f"its forward asks a tensor for {name}")
        return super().__getattr__(name)

    def __setattr__(self, name: str, value) -> None:
        if hasattr(torch.Tensor, name):
            raise Untraceable(f"its forward sets {name} of a tensor")
        super().__setattr__(name, value)


def _in_place(operation):
    return lambda self, other: self.tracer.create_proxy("call_function", operation, (self, other), {})


for _operation in IN_PLACE:
    setattr(_Proxy, f"__{_operation.__name__}__", _in_place(_operation))


class Tracer(fx.Tracer):
    """Records one forward, children as leaves, of the thread that makes it: fx patches modules for all threads."""

    proxy_buffer_attributes = True

    def __init__(self) -> None:
        ours = ("max_pool2d", "relu_max_pool2d", "max_unpool2d", "conv_transpose2d")
        calls = (*(getattr(functional, name) for name in ours), checkpoint.checkpoint)
        super().__init__(autowrap_functions=calls)  # recorded as calls; looked for in forwards, and in these modules:
        self._autowrap_search += [functional, checkpoint]
        self._thread = threading.get_ident()
        self.proxies: weakref.WeakSet[fx.Proxy] = weakref.WeakSet()

    def proxy(self, node: fx.Node) -> fx.Proxy:
        proxy = _Proxy(node, self)
        self.proxies.add(proxy)
        return proxy

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return True

    def to_bool(self, obj: fx.Proxy) -> bool:
        if obj.node.op == "get_attr" and obj.node.target.split(".")[-1] == "training":
            raise Untraceable("its forward runs other calls in training than in evaluation")
        return super().to_bool(obj)

    def call_module(self, m: nn.Module, forward: Callable, args: tuple, kwargs: dict):
        if threading.get_ident() != self._thread:
            return forward(*args, **kwargs)
        return super().call_module(m, forward, args, kwargs)

    def getattr(self, attr: str, attr_val, parameter_proxy_cache: dict):
        if threading.get_ident() != self._thread:
            return attr_val
        return super().getattr(attr, attr_val, parameter_proxy_cache)


def read(module: nn.Module, changing: set[str]) -> tuple[fx.Graph, str]:
    """The graph of a module's own forward, for training and evaluation alike, and what it may hide, or "".

    ``module`` must be a copy made for this: its mode is lost. ``changing`` is what ``reach.changing`` found in the
    model.
    """
    if "forward" in vars(module):
        raise Untraceable("its forward was replaced on the instance")
    if not inspect.isfunction(getattr(type(module), "forward", None)):
        raise Untraceable("its forward is compiled")
    if parametrize.is_parametrized(module):
        raise Untraceable("it is parametrized")
    with _LOCK:
        return _read(module, changing)


def _read(module: nn.Module, changing: set[str]) -> tuple[fx.Graph, str]:
    _hide_mode(module)
    tracer = Tracer()
    states = [(torch.get_rng_state, torch.set_rng_state), (random.getstate, random.setstate)]
    if "numpy" in sys.modules:
        numpy = sys.modules["numpy"]
        states.append((numpy.random.get_state, numpy.random.set_state))
    before, collecting = [get() for get, _ in states], gc.isenabled()
    gc.disable()  # a collection calls what others have registered for it, which is no part of the forward
    try:
        with _watching() as ran:
            graph = tracer.trace(module)
    except Untraceable:
        raise
    except Exception as error:  # whatever user code raises when it meets a proxy
        reason = str(error).strip().split("\n")[0].split(". ")[0] or type(error).__name__
        raise Untraceable(f"torch.fx cannot trace its forward: {reason}") from None
    finally:
        if collecting:
            gc.enable()
        for (_, restore), state in zip(states, before, strict=True):
            restore(state)
    for generation in range(3):  # unpacking a stand-in leaves a cycle
        if tracer.proxies:
            gc.collect(generation)
    return graph, "its forward keeps tensors" if tracer.proxies else _doubt(ran, changing)


@contextlib.contextmanager
def _watching() -> Iterator[dict[types.CodeType, set[nn.Module | None]]]:
    """Collects the code that this thread runs, with the modules of which users' code that branches is a method.

    Python has two hooks, one for profilers and one for debuggers. A hook in use is left alone as long as the other is
    free, since one set from C, such as by cProfile or ``torch.profiler``, can be removed but not restored. If both are
    in use, one that Python can restore is suspended meanwhile.
    """
    ran: dict[types.CodeType, set[nn.Module | None]] = defaultdict(set)
    hooks = ((sys.getprofile(), sys.setprofile), (sys.gettrace(), sys.settrace))
    holder, set_hook = min(hooks, key=lambda hook: (hook[0] is not None, not callable(hook[0])))
    if holder is not None and not callable(holder):
        raise Untraceable("its forward cannot be watched beside a profiler and a debugger")

    def note(frame: types.FrameType, event: str, _) -> None:
        if event == "call":
            code, owners = frame.f_code, ran[frame.f_code]
            if source.is_users(code) and _branches(code):
                owner = frame.f_locals.get(next(iter(code.co_varnames), None))
                owners.add(owner if isinstance(owner, nn.Module) else None)

    set_hook(note)
    try:
        yield ran
    finally:
        set_hook(holder)


def _doubt(ran: dict[types.CodeType, set[nn.Module | None]], changing: set[str]) -> str:
    """Why code that ran once may run differently another time."""
    if any(code.co_filename in _CONTEXTS for code in ran):
        return "its forward enters a context such as no_grad or autocast"
    if any(code.co_name.startswith("register_") and "hook" in code.co_name for code in ran):
        return "its forward registers hooks"
    for code, owners in ran.items():
        for line in filter(None, (reach.undecided(code, owner, changing) for owner in owners)):
            return f"its forward branches at {Path(code.co_filename).name}:{line}"
    if any(_asks(code, _TYPE_TESTS) or "is_tensor" in code.co_names for code in ran if source.is_users(code)):
        return "its forward looks at types"
    return ""


@functools.lru_cache(maxsize=1024)
def _branches(code: types.CodeType) -> bool:
    """Whether code has a condition, a handler or a context; loops do not count."""
    names = {instruction.opname for instruction in dis.get_instructions(code)}
    handlers = {"PUSH_EXC_INFO", "SETUP_FINALLY", "SETUP_WITH", "IS_OP", "CONTAINS_OP"}
    return bool(names & handlers) or any("JUMP" in name and "IF" in name for name in names)


def _asks(code: types.CodeType, functions: set[str]) -> bool:
    """Whether code uses one of the given built-in functions, or an attribute that reveals a type."""
    used = {i.argval for i in dis.get_instructions(code) if i.opname == "LOAD_GLOBAL"}
    return bool(used & functions or _TYPE_ATTRIBUTES.intersection(code.co_names))


def reads_types(module: nn.Module) -> bool:
    """Whether a forward, or what it calls by name, may tell a class from its subclasses."""
    return any(_asks(code, {"type"}) for code in source.reached(type(module)))


def changes_tensors(module: nn.Module) -> bool:
    """Whether a forward that cannot be read, or what it calls by name, may change a tensor in place."""
    if "forward" in vars(module) or "forward" not in source.methods(type(module)):
        return True
    return any(map(source.works_in_place, source.reached(type(module))))


def _hide_mode(module: nn.Module) -> None:
    """Turn the mode of a module and its submodules into a buffer, so that a trace records reads of it."""
    for m in module.modules():
        if not isinstance(m, torch.jit.ScriptModule):
            vars(m).pop("training", None)
            m._buffers["training"] = torch.tensor(True)

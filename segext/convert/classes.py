"""Makes subclasses of users' classes in which some methods are replaced, and turns modules into instances of them."""

import abc
import types

from torch import nn

from . import source


class _Unannounced:
    """Comes before a user's class among the bases, so that the hooks and registries of that class do not hear of it.

    Without slots it has the layout of a module, without which an instance could not change its class.
    """

    def __init_subclass__(cls, **keywords: object) -> None:
        pass


def subclass(base: type, replaced: dict[types.FunctionType, types.FunctionType], **members: object) -> type:
    """A subclass of ``base`` with other methods, under all their names; it looks like ``base`` itself.

    It is for modules that become its instances. What it constructs is an instance of ``base``, with the methods that
    fit new layers: ``type(self)(...)`` is common in code that clones networks.
    """

    def __init__(self, *args, **kwargs) -> None:
        if type(self) is kind:
            become(self, base)
        base.__init__(self, *args, **kwargs)

    named = {"__module__": base.__module__, "__qualname__": base.__qualname__, "__doc__": base.__doc__}
    methods = {name: replaced[function] for name, function in source.methods(base).items() if function in replaced}
    # Not by calling the metaclass, which may be a registry too.
    metaclass = next(known for known in type(base).__mro__ if known in (abc.ABCMeta, type))
    members = {**named, "__init__": __init__, **methods, **members}
    kind = metaclass.__new__(type(base), base.__name__, (_Unannounced, base), members)
    return kind


def become(module: nn.Module, kind: type) -> None:
    """Change a module's class, keeping its contents and all references to it.

    A layer of segext has the same attributes as torch's of the same name, so a swap needs nothing more.
    """
    object.__setattr__(module, "__class__", kind)

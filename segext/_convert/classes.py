"""Makes subclasses of users' classes in which some methods are replaced, and turns modules into instances of them."""

import abc
import functools
import types

from torch import nn

from . import source, swaps


class _Unannounced:
    """Comes before a user's class among the bases, so that the hooks and registries of that class do not hear of it.

    Without slots it has the layout of a module, without which an instance could not change its class.
    """

    def __init_subclass__(cls, **keywords: object) -> None:
        pass


def subclass(base: type, replaced: dict[types.FunctionType, types.FunctionType], **members: object) -> type:
    """A subclass of ``base`` with other methods, under all their names; it looks like ``base`` itself.

    It is for modules that become its instances. What it constructs is an instance of ``base``, with the methods that
    fit new layers: ``type(self)(...)`` is common in code that clones networks. Only if it was given layers in which a
    ReLU was fused, it stays as it is.
    """

    @functools.wraps(base.__init__)
    def __init__(self, *args, **kwargs) -> None:
        if type(self) is not kind:
            return base.__init__(self, *args, **kwargs)
        become(self, base)
        base.__init__(self, *args, **kwargs)
        if any(map(swaps.is_fused_relu, self.modules())):
            become(self, kind)

    named = {"__module__": base.__module__, "__qualname__": base.__qualname__, "__doc__": base.__doc__}
    methods = {name: replaced[function] for name, function in source.methods(base).items() if function in replaced}
    # Not by calling the metaclass, which may be a registry too.
    metaclass = next(known for known in type(base).__mro__ if known in (abc.ABCMeta, type))
    members = {**named, "__init__": __init__, **methods, **members}
    bases = (base,) if issubclass(base, _Unannounced) else (_Unannounced, base)
    kind = metaclass.__new__(type(base), base.__name__, bases, members)
    return kind


def become(module: nn.Module, kind: type) -> None:
    """Change a module's class, keeping its contents and all references to it.

    A layer of segext has the same attributes as torch's of the same name, so a swap needs nothing more.
    """
    object.__setattr__(module, "__class__", kind)

"""Put wrappers in place and take them away again.

Rules: a library is patched when it is imported, so that instrumenting costs nothing for those that are not used. A
wrapper passes copying and pickling on to the method it wraps. A function that is not where we expect it is reported,
and refused where it runs guarded tools: a tool path without a guard must not look like one with. Whoever else
instruments a library, before or after, comes inside ours: what they make of a call is made under our span.
"""

from __future__ import annotations

import copy
import functools
import logging
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import wrapt
from opentelemetry.instrumentation.instrumentor import BaseInstrumentor  # type: ignore[attr-defined]

from spanledger.errors import WrapMissing
from spanledger.instrument import _registry
from spanledger.instrument._engine import Engine
from spanledger.instrument._job import is_tool
from spanledger.instrument._proxies import PROXY
from spanledger.instrument._wrapping import DEFER, HIDE, wrapper_for
from spanledger.instrument.library import TELL, Library, Wrap, no_call
from spanledger.telemetry import gate

logger = logging.getLogger("spanledger.instrument")


@dataclass(frozen=True, slots=True)
class Report:
    """What is instrumented.

    Attributes:
        attached: Libraries that are instrumented, or will be when they are imported.
        missing: Targets that were not found in the installed version of their library.
        broken: Libraries of other packages that cannot be used, and why.
    """

    attached: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    broken: tuple[str, ...] = ()


if TYPE_CHECKING:
    _BoundFunctionWrapper = wrapt.BoundFunctionWrapper[Any, Any]
    _FunctionWrapper = wrapt.FunctionWrapper[Any, Any]
else:  # only their stubs are generic
    _BoundFunctionWrapper, _FunctionWrapper = wrapt.BoundFunctionWrapper, wrapt.FunctionWrapper


class _BoundWrapper(_BoundFunctionWrapper):
    """A bound method that can be copied and pickled as the plain one can."""

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        # Looked up at the class it is a function, of which there is one.
        owner = getattr(self, "__self__", None)
        return self if owner is None else getattr(copy.deepcopy(owner, memo), self.__name__)

    def __copy__(self) -> Any:
        return self

    def __reduce_ex__(self, protocol: Any) -> Any:
        owner = getattr(self, "__self__", None)
        if owner is None:
            *path, name = self.__qualname__.split(".")
            return getattr, (functools.reduce(getattr, path, sys.modules[self.__module__]), name)
        return getattr, (owner, self.__name__)


class _Wrapper(_FunctionWrapper):
    """Marks a function as wrapped by us; it can be copied and pickled as the plain one can."""

    __bound_function_wrapper__ = _BoundWrapper

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return self

    def __copy__(self) -> Any:
        return self

    def __reduce_ex__(self, protocol: Any) -> Any:
        # A text: found again by its name in its module.
        return self.__qualname__


@dataclass(slots=True)
class _Place:
    """Where a wrapper of ours is.

    Attributes:
        owner: The class or module.
        name: The name in it.
        inner: What is wrapped there now.
        function: What our wrapper does.
    """

    owner: Any
    name: str
    inner: Any
    function: Callable[..., Any]

    def put(self) -> None:
        """Put our wrapper there."""
        setattr(self.owner, self.name, _Wrapper(self.inner, self.function))

    def put_on_top(self) -> None:
        """Put our wrapper there again, around what somebody else has put around it, or instead of it."""
        found = vars(self.owner).get(self.name)
        if isinstance(found, wrapt.BoundFunctionWrapper):
            # What lies under a wrapper was looked up at the class when the one above was taken away.
            found = getattr(found, "_self_parent", None) or found
        if found is None:
            return
        if not isinstance(found, _Wrapper):
            # Others take away what is on top, which was ours, and mean their own.
            taken = found is self.inner and isinstance(found, PROXY)
            self.inner = found.__wrapped__ if taken else found
            _without_ours(self.inner)
            found = _Wrapper(self.inner, self.function)
        if found is not vars(self.owner)[self.name]:
            setattr(self.owner, self.name, found)


def _without_ours(wrapper: Any) -> None:
    """Take a wrapper of ours out from under those of others."""
    while isinstance(wrapper, PROXY):
        inner = wrapper.__wrapped__
        if isinstance(inner, _Wrapper):
            wrapper.__wrapped__ = inner.__wrapped__
            return
        wrapper = inner


class Patches:
    """The wrappers of one engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._active = True
        self._places: list[_Place] = []
        self._missing: list[str] = []

    def attach(self, names: Iterable[str | Library]) -> Report:
        """Patch libraries that are imported, and the others when they will be.

        Args:
            names: Names of libraries that the registry knows, or libraries.

        Raises:
            WrapMissing: A function that runs tools was not found, and the configuration is about tools. Where the
                library is imported later, its import raises this.
        """
        attached: dict[str, Library] = {}
        broken: list[str] = []
        for name in names:
            try:
                library = _registry.load(name) if isinstance(name, str) else name
            except Exception as error:
                if name in _registry.LIBRARIES:
                    raise
                by = ", ".join(_registry.publishers(str(name)))
                logger.warning("the library %s that %s publishes cannot be used", name, by, exc_info=True)
                broken.append(f"{name}: {type(error).__name__}: {error} (published by {by})")
                continue
            version = _registry.installed(library)
            if version is not None:
                attached[library.name] = library
                self._attach(library, version)
        for method in ("instrument", "uninstrument"):
            self._put(_Place(BaseInstrumentor, method, vars(BaseInstrumentor)[method], self._then_on_top))
        gate.leave(mark for library in attached.values() for mark in library.own_spans)
        return Report(tuple(attached), tuple(self._missing), tuple(broken))

    def _attach(self, library: Library, version: str) -> None:
        if not _registry.is_known(library, version):
            logger.warning("%s %s is not known to spanledger (%s): look whether its calls appear in the trace",
                library.name, version, library.requires)  # fmt: skip
        others = [Wrap(target, describe=no_call, operation=HIDE) for target in library.hides]
        others += [Wrap(target, describe=no_call, operation=TELL) for target in library.tells]
        others += [Wrap(target, describe=no_call, operation=DEFER) for target in library.defers]
        known = [*_registry.wraps_of(library, version), *others]
        for module in dict.fromkeys(wrap.module for wrap in known):
            wraps = [wrap for wrap in known if wrap.module == module]
            if module in sys.modules:
                self._patch(sys.modules[module], wraps)
            elif _registry.has_module(module):
                wrapt.register_post_import_hook(self._later(wraps), module)
            else:
                for wrap in wraps:
                    self._not_found(wrap)

    def _not_found(self, wrap: Wrap) -> None:
        """Say that a target does not exist.

        Raises:
            WrapMissing: It runs tools, and something in the configuration is about tools; or it sends requests, and
                there are egress rules.
        """
        self._missing.append(wrap.target)
        if wrap.egress is not None and self._engine.guard.config.egress:
            raise WrapMissing(
                f"{wrap.target} does not exist in the installed version: requests would leave past your egress rules. "
                "Install a version of the library that spanledger knows, or leave it out: instrument(libraries=[…])"
            )
        if not is_tool(wrap):
            logger.warning("%s does not exist in the installed version: its calls are not traced", wrap.target)
            return
        if self._engine.guard.config.about_tools():
            raise WrapMissing(
                f"{wrap.target} does not exist in the installed version: tools would run past your rules. Install a "
                "version of the library that spanledger knows, or leave it out: instrument(libraries=[…])"
            )
        logger.warning("%s does not exist in the installed version: its tools run unguarded", wrap.target)

    def detach(self) -> None:
        """Put back what was there before."""
        self._active = False
        gate.leave(())
        for place in reversed(self._places):
            if isinstance(vars(place.owner).get(place.name), _Wrapper):
                setattr(place.owner, place.name, place.inner)
        self._places.clear()

    def _put(self, place: _Place) -> None:
        self._places.append(place)
        place.put()

    def _then_on_top(self, wrapped: Any, _instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Let somebody else instrument what they do, or stop it."""
        try:
            return wrapped(*args, **kwargs)
        finally:
            for place in self._places:
                try:
                    place.put_on_top()
                except Exception:
                    logger.exception("%s.%s is not wrapped as it was", place.owner, place.name)

    def _later(self, wraps: list[Wrap]) -> Callable[[Any], None]:
        def hook(module: Any) -> None:
            if self._active:
                self._patch(module, wraps)

        return hook

    def _patch(self, module: Any, wraps: list[Wrap]) -> None:
        for wrap in wraps:
            try:
                owner, name, original = wrapt.resolve_path(module, wrap.path)
            except AttributeError:
                self._not_found(wrap)
                continue
            if isinstance(original, _Wrapper):
                # Imported by name from where it was wrapped already.
                self._places.append(
                    _Place(owner, name, original.__wrapped__, wrapper_for(self._engine, wrap, original))
                )
                continue
            self._put(_Place(owner, name, original, wrapper_for(self._engine, wrap, original)))

"""What a sweep is, as a hash of its content: the same in every process, another one for what gives other results.

Numbers and arrays by value; functions by their code and all that it reads: constants, defaults, enclosed and global
variables; objects by their class and state. What cannot be told that way is refused rather than guessed.
"""

import dataclasses
import dis
import enum
import functools
import hashlib
import os
import sys
import sysconfig
from collections.abc import Mapping
from types import BuiltinFunctionType, CodeType, EllipsisType, FunctionType, MethodType, ModuleType, NoneType
from typing import Any

import jax
import jaxlib
import numpy as np

from jaxinterp.metrics import Metric

#: Where installed packages lie: what they hold is told by its name alone.
LIBRARIES = tuple(
    {os.path.realpath(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
)

#: Types whose `repr` says all.
PLAIN = (bool, int, float, complex, str, bytes, range, slice, enum.Enum, NoneType, EllipsisType)

#: This library's own folder: `fingerprint_of_code` tells of it as a whole.
OWN = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))


def fingerprint(value: Any) -> str:
    """A hash of anything by its content.

    Raises:
      ValueError: it holds something that only this process knows (a generator, a file, a lock, a compiled object).

    Example:
      >>> from jaxinterp.patching.fingerprints import fingerprint
      >>> fingerprint({"a": [1, 2]}) == fingerprint({"a": [1, 2]})
      True
      >>> fingerprint(lambda x: x) == fingerprint(lambda x: -x)
      False
    """
    told = hashlib.sha256()
    _tell(value, told, {})
    return told.hexdigest()


def fingerprint_of_metric(metric: Metric) -> str:
    """A hash of a metric: its function, its data, and what it reads."""
    return fingerprint((metric.fn, metric.data, metric.positions, metric.columns, metric.capture))


def fingerprint_of_code() -> str:
    """A hash of this library's sources, of the versions of jax, and of how it computes."""
    paths = sorted(os.path.join(folder, f) for folder, _, files in os.walk(OWN) for f in files if f.endswith(".py"))
    sources = []
    for path in paths:
        with open(path, "rb") as file:
            sources.append(hashlib.sha256(file.read()).hexdigest())
    settings = [str(getattr(jax.config, name)) for name in ("jax_enable_x64", "jax_default_matmul_precision")]
    settings.append(jax.local_devices()[0].device_kind)
    return fingerprint([jax.__version__, jaxlib.__version__, *settings, *sources])


def _tell(value: Any, told: Any, seen: dict[int, tuple[int, Any]]) -> None:
    """Feeds a hash with what a value is. `seen`: the number and the object of whatever was told, by address."""

    def say(*words: Any) -> None:
        told.update(("|".join(map(str, words)) + ";").encode())

    def also(*values: Any) -> None:
        for one in values:
            _tell(one, told, seen)

    if isinstance(value, PLAIN):
        return say(type(value).__qualname__, repr(value))
    if isinstance(value, jax.Array) and jax.dtypes.issubdtype(value.dtype, jax.dtypes.prng_key):
        value = jax.random.key_data(value)
    if isinstance(value, (np.ndarray, np.generic, jax.Array)):
        array = np.asarray(value)
        say("array", array.dtype, array.shape)
        if array.dtype == object:
            return also(*array.ravel().tolist())
        # large arrays, which may lie on disk, are not copied
        return told.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    if isinstance(value, (np.dtype, ModuleType)):
        return say(type(value).__qualname__, getattr(value, "__name__", value))
    if isinstance(value, (set, frozenset)):
        return say(_name(type(value)), *sorted(map(fingerprint, value)))
    if isinstance(value, tuple):
        say(_name(type(value)), len(value))
        return also(*value)
    if id(value) in seen:
        return say("as before", seen[id(value)][0])
    seen[id(value)] = len(seen), value
    if isinstance(value, list):
        say("list", len(value))
        return also(*value)
    if isinstance(value, Mapping):
        items = sorted((fingerprint(key), number) for number, key in enumerate(value))
        held = list(value.values())
        say(_name(type(value)), *(key for key, _ in items))
        return also(*(held[number] for _, number in items))
    if isinstance(value, functools.partial):
        say("partial")
        return also(value.func, value.args, value.keywords)
    if isinstance(value, (MethodType, staticmethod, classmethod)):
        say("method")
        return also(value.__func__, getattr(value, "__self__", None))
    if isinstance(value, property):
        return also(value.fget)
    if isinstance(value, CodeType):
        say("code", value.co_name, value.co_code.hex(), value.co_names, value.co_varnames, value.co_freevars)
        return also(*value.co_consts)
    if isinstance(value, FunctionType):
        say("function", _name(value))
        also(value.__code__, value.__defaults__, value.__kwdefaults__, *map(_content, value.__closure__ or ()))
        return None if _is_library(value.__module__) else also(*_globals_of(value))
    if isinstance(value, type):
        say("class", _name(value))
        if not _is_library(value.__module__):
            also(value.__bases__, {name: part for name, part in vars(value).items() if _matters(name, part)})
        return None
    if callable(value) and hasattr(value, "__wrapped__"):  # jax.jit(f), and whatever else stands around a function
        say("around", _name(type(value)))
        return also(value.__wrapped__)
    if isinstance(value, (BuiltinFunctionType, np.ufunc)) or (hasattr(value, "__name__") and callable(value)):
        return say("named", _name(value))
    state = _state(value)
    if state is None:
        raise ValueError(
            f"{type(value).__qualname__} {value!r:.60} cannot be told by its content, so that another process could "
            "not know it again: leave it out of what the sweep is given, or run without resume="
        )
    say("object")
    return also(type(value), state)


def _name(value: Any) -> str:
    return f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', getattr(value, '__name__', ''))}"


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not yet assigned
        return "empty cell"


def _globals_of(fn: FunctionType) -> list[tuple[str, Any]]:
    """The global variables that a function and its inner ones read; of the user's own modules, what they read there."""
    found: dict[str, Any] = {}
    codes = [fn.__code__]
    while codes:
        code = codes.pop()
        codes += [constant for constant in code.co_consts if isinstance(constant, CodeType)]
        for name in {step.argval for step in dis.get_instructions(code) if step.opname in ("LOAD_GLOBAL", "LOAD_NAME")}:
            if name not in fn.__globals__:
                continue
            found[name] = value = fn.__globals__[name]
            if isinstance(value, ModuleType) and not _is_library(value.__name__):
                found |= {f"{name}.{part}": getattr(value, part) for part in code.co_names if hasattr(value, part)}
    return sorted(found.items(), key=lambda item: item[0])


def _matters(name: str, part: Any) -> bool:
    """Whether part of a class decides what its objects do."""
    if isinstance(part, (FunctionType, staticmethod, classmethod, property)):
        return True
    return not (name.startswith("__") and name.endswith("__")) and not hasattr(part, "__get__")


def _state(value: Any) -> dict[str, Any] | None:
    """What tells an object from others of its class; None if that is not known."""
    if dataclasses.is_dataclass(value):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    slots: list[str] = []
    for cls in type(value).__mro__:
        own = vars(cls).get("__slots__", ())
        slots += [own] if isinstance(own, str) else own
    if not hasattr(value, "__dict__") and not slots:
        return None
    computed = {
        n for cls in type(value).__mro__ for n, p in vars(cls).items() if isinstance(p, functools.cached_property)
    }
    held = {name: part for name, part in getattr(value, "__dict__", {}).items() if name not in computed}
    return held | {
        name: getattr(value, name) for name in slots if name not in ("__dict__", "__weakref__") and hasattr(value, name)
    }


@functools.cache
def _is_library(module: str) -> bool:
    """Whether a module is installed, or this library's own: told by its name, since its code is not the user's."""
    file = getattr(sys.modules.get(module), "__file__", None)
    if module.split(".")[0] in (*sys.builtin_module_names, *sys.stdlib_module_names):
        return True
    return file is not None and os.path.realpath(file).startswith((*LIBRARIES, OWN + os.sep))

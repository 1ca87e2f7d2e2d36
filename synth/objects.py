"""Objects of other people's libraries as JSON and tensors, for those that know how to store themselves by pickle alone.

A pickle is a program: reading one runs whatever it calls. What is written here is data: numbers, words, containers,
arrays, frames, and objects of classes on a list, each as its attributes. Reading it makes objects of these classes
without calling anything of theirs, and sets their attributes.
"""

import json
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

PLAIN = "biuf"
"""Kinds of NumPy's types that are stored as tensors or numbers."""


def written(thing: object, classes: Sequence[str]) -> dict[str, Tensor]:
    """An object as tensors; equal objects give equal bytes.

    Args:
        thing: the object.
        classes: what it may be made of, as "module:name".

    Raises:
        TypeError: a part of it is of another class.
    """
    writer = _Writer(classes)
    text = json.dumps(writer.node(thing), ensure_ascii=False, separators=(",", ":"))
    described = torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8)
    return {"described": described, **{f"tensor.{i}": t for i, t in enumerate(writer.tensors)}}


def read(tensors: Mapping[str, Tensor], classes: Sequence[str]) -> Any:
    """The inverse of `written`.

    Raises:
        ValueError: they hold something else.
    """
    try:
        described = json.loads(tensors["described"].numpy().tobytes())
        return _Reader(tensors, classes).thing(described)
    except (AttributeError, ImportError, IndexError, KeyError, RecursionError, RuntimeError, TypeError) as e:
        raise ValueError(f"an object must be stored as it was written, however: {type(e).__name__}") from None


class _Writer:
    """Turns things into lists of a tag and what it needs; an object that stands twice is written once."""

    def __init__(self, classes: Sequence[str]) -> None:
        self._classes = frozenset(classes)
        self._numbers: dict[int, int] = {}
        self._kept: list[object] = []
        self.tensors: list[Tensor] = []

    def node(self, thing: Any) -> Any:
        """What stands for a thing."""
        if thing is None or isinstance(thing, bool | str) or type(thing) in (int, float):
            return thing
        for kind, write in _WRITERS:
            if isinstance(thing, kind):
                return write(self, thing)
        return self._object(thing)

    def nodes(self, things: Any) -> list[Any]:
        """What stands for each of them."""
        return [self.node(t) for t in things]

    def tensor(self, tensor: Tensor) -> int:
        """Keeps a tensor: its number."""
        self.tensors.append(tensor.detach().cpu().clone().contiguous())
        return len(self.tensors) - 1

    def array(self, array: Any) -> list[Any]:
        """An array of numbers as a tensor, any other as its items."""
        if array.dtype.kind in PLAIN and array.dtype.str[1:] not in ("u2", "u4", "u8", "f16"):
            shape = list(array.shape)
            flat = torch.from_numpy(np.array(array, array.dtype.newbyteorder("=")).ravel())
            return ["array", self.tensor(flat), shape]
        return ["items", array.dtype.str, list(array.shape), self.nodes(array.ravel().tolist())]

    def tuple(self, thing: Any) -> list[Any]:
        """A tuple, or one whose places have names."""
        if type(thing) is tuple:
            return ["tuple", self.nodes(thing)]
        return ["named", self.class_of(type(thing)), self.nodes(thing)]

    def class_of(self, kind: type) -> str:
        """The name of a class that is on the list."""
        name = f"{kind.__module__}:{kind.__qualname__}"
        if name not in self._classes:
            raise TypeError(f"an object must be made of listed classes, however: there is {name}")
        return name

    def _object(self, thing: Any) -> list[Any]:
        name = self.class_of(type(thing))
        if id(thing) in self._numbers:
            return ["same", self._numbers[id(thing)]]
        self._numbers[id(thing)] = len(self._kept)
        self._kept.append(thing)
        return ["object", name, [[k, self.node(v)] for k, v in vars(thing).items()]]


_WRITERS: tuple[tuple[Any, Any], ...] = (
    (type, lambda w, t: ["class", w.class_of(t)]),
    (tuple, lambda w, t: w.tuple(t)),
    (list, lambda w, t: ["list", w.nodes(t)]),
    ((set, frozenset), lambda w, t: ["set", sorted(w.nodes(t), key=json.dumps)]),
    (OrderedDict, lambda w, t: ["ordered", [[w.node(k), w.node(v)] for k, v in t.items()]]),
    (dict, lambda w, t: ["dict", [[w.node(k), w.node(v)] for k, v in t.items()]]),
    (np.ndarray, lambda w, t: w.array(t)),
    (np.dtype, lambda w, t: ["dtype", t.str]),
    (np.generic, lambda w, t: ["scalar", t.dtype.str, w.node(t.item())]),
    (np.random.RandomState, lambda w, t: ["random"]),
    (torch.nn.Parameter, lambda w, t: ["parameter", w.tensor(t)]),
    (Tensor, lambda w, t: ["tensor", w.tensor(t)]),
    (torch.device, lambda w, t: ["device"]),
    (pd.Index, lambda w, t: ["index", w.node(t.name), w.array(t.to_numpy())]),
    (pd.Series, lambda w, t: ["series", w.node(t.name), w.node(t.index), w.array(t.to_numpy())]),
    (
        pd.DataFrame,
        lambda w, t: [
            "frame", w.node(t.columns), w.node(t.index), [w.array(t.iloc[:, i].to_numpy()) for i in range(t.shape[1])],
        ],
    ),
)  # fmt: skip


class _Reader:
    """Makes things of what stands for them."""

    def __init__(self, tensors: Mapping[str, Tensor], classes: Sequence[str]) -> None:
        self._tensors = tensors
        self._classes = frozenset(classes)
        self._made: list[object] = []

    def thing(self, node: Any) -> Any:
        """The thing that a node stands for."""
        if not isinstance(node, list):
            return node
        tag, *rest = node
        return getattr(self, f"_{tag}")(*rest)

    def _things(self, nodes: list[Any]) -> list[Any]:
        return [self.thing(n) for n in nodes]

    def _class(self, name: str) -> Any:
        if name not in self._classes:
            raise ValueError(f"an object must be made of listed classes, however: it names {name}")
        module, _, own = name.partition(":")
        return getattr(import_module(module), own)

    def _object(self, name: str, attributes: list[Any]) -> Any:
        kind = self._class(name)
        made = object.__new__(kind)
        self._made.append(made)
        for key, value in attributes:
            made.__dict__[str(key)] = self.thing(value)
        return made

    def _same(self, number: int) -> Any:
        return self._made[number]

    def _named(self, name: str, nodes: list[Any]) -> Any:
        kind = self._class(name)
        if not issubclass(kind, tuple):
            raise ValueError(f"a tuple must be of a class of tuples, however: it names {name}")
        return tuple.__new__(kind, self._things(nodes))

    def _tuple(self, nodes: list[Any]) -> tuple[Any, ...]:
        return tuple(self._things(nodes))

    def _list(self, nodes: list[Any]) -> list[Any]:
        return self._things(nodes)

    def _set(self, nodes: list[Any]) -> set[Any]:
        return set(self._things(nodes))

    def _dict(self, pairs: list[Any]) -> dict[Any, Any]:
        return {self.thing(k): self.thing(v) for k, v in pairs}

    def _ordered(self, pairs: list[Any]) -> OrderedDict[Any, Any]:
        return OrderedDict((self.thing(k), self.thing(v)) for k, v in pairs)

    def _array(self, number: int, shape: list[int]) -> Any:
        return self._tensors[f"tensor.{int(number)}"].numpy().reshape(shape)

    def _items(self, kind: str, shape: list[int], nodes: list[Any]) -> Any:
        things = self._things(nodes)
        if np.dtype(kind).kind != "O":
            return np.array(things, _plain(kind)).reshape(shape)
        array = np.empty(len(things), object)
        for i, thing in enumerate(things):
            array[i] = thing
        return array.reshape(shape)

    def _dtype(self, kind: str) -> Any:
        return np.dtype(object) if kind == "|O" else _plain(kind)

    def _scalar(self, kind: str, node: Any) -> Any:
        return _plain(kind).type(self.thing(node))

    def _random(self) -> np.random.RandomState:
        return np.random.RandomState(0)

    def _tensor(self, number: int) -> Tensor:
        return self._tensors[f"tensor.{int(number)}"]

    def _parameter(self, number: int) -> torch.nn.Parameter:
        return torch.nn.Parameter(self._tensor(number))

    def _device(self) -> torch.device:
        return torch.device("cpu")

    def _index(self, name: Any, values: list[Any]) -> pd.Index:
        made: pd.Index = pd.Index(self.thing(values), name=self.thing(name))
        return made

    def _series(self, name: Any, index: Any, values: list[Any]) -> pd.Series:
        return pd.Series(self.thing(values), index=self.thing(index), name=self.thing(name))

    def _frame(self, columns: Any, index: Any, arrays: list[Any]) -> pd.DataFrame:
        own = {i: self.thing(a) for i, a in enumerate(arrays)}
        return pd.DataFrame(own, index=self.thing(index)).set_axis(self.thing(columns), axis=1)


def _plain(kind: str) -> Any:
    """A type of numbers, words or times; no other, which may hold pointers."""
    found = np.dtype(str(kind))
    if found.kind not in PLAIN + "UMm" or found.names is not None:
        raise ValueError("an array must hold numbers, words or times, however: it does not")
    return found

"""Graphs: edges with features and labels of nodes in npz files, and lists of edges."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from whet.data.parts import Array, Graph, Part
from whet.data.tables import opened
from whet.errors import InputError

PER_NODE = {"y", "x_indptr", "labels"}
LARGEST = np.iinfo(np.int64).max
DIGITS = 100  # of a number that names a node; Python reads no more than 4300
FEW, SPARSE = 1 << 20, 100  # so many nodes may be alone; more may be so many times the edges' ends
CELLS = 1 << 27  # of the table of nodes and groups, which is dense: 1 GiB
INDICES = {"train": "train_idx", "valid": "val_idx", "test": "test_idx"}


def read_arrays(held: Mapping[str, Array], path: Path) -> dict[str, Any]:
    """The fields of a `Loaded` from a graph's arrays, but for those that tell of the targets.

    `edges` (M, 2); features `x_indptr`, `x_indices`, `x_shape`; classes `y` with -1 for none and
    the rows of the parts `train_idx`, `val_idx`, `test_idx`; or `labels` (K, 2), pairs of node and
    group. All nodes are train where no parts are given.
    """
    graph = _graph(held, path)
    targets = _targets(held, graph.nodes, path)
    given = {part: held[key] for part, key in INDICES.items() if key in held}
    if "train" not in given:
        given = {"train": np.arange(graph.nodes)}
    parts = {part: _part(given, part, targets, graph.nodes, path) for part in given}
    return {**parts, "kind": "graph", "graph": graph}


def read_edges(files: Mapping[str, Path], wishes: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a `Loaded` from a list of edges: two names of nodes in each line.

    Nodes are numbered in the order of their names, numbers as numbers. A further column, such as a
    weight, is refused; lines that begin with # are left out.
    """
    path = files["train"]
    with opened(path) as file:
        lines = [(at, line.split()) for at, line in enumerate(file, 1) if line.strip()]
    pairs = [(at, words) for at, words in lines if not words[0].startswith("#")]
    for at, words in pairs:
        if len(words) != 2:
            raise InputError(f"{path}, line {at}: {len(words)} fields; an edge is two nodes.")
    if not pairs:
        raise InputError(f"{path} holds no edge.")
    found = {name for _, words in pairs for name in words}
    numbered = all(name.isdecimal() and len(name) <= DIGITS for name in found)
    names = sorted(found, key=(lambda name: (int(name), name)) if numbered else None)
    ids = {name: at for at, name in enumerate(names)}
    edges = np.array([[ids[name] for name in words] for _, words in pairs], np.int64)
    graph = Graph(len(names), edges, names=tuple(names))
    return {"train": Part(np.arange(len(names))), "kind": "graph", "graph": graph}


def _graph(held: Mapping[str, Array], path: Path) -> Graph:
    edges = held["edges"]
    if edges.ndim != 2 or edges.shape[1] != 2 or edges.dtype.kind not in "iu":
        raise InputError(f"{path}: edges is {edges.dtype} {edges.shape}; give integers (M, 2).")
    shape = _numbers(held, "x_shape", path, 2) if "x_shape" in held else None
    if shape is not None:
        nodes = shape[0]
    elif "y" in held or "n_nodes" in held:
        nodes = held["y"].size if "y" in held else _numbers(held, "n_nodes", path, 1)[0]
    else:
        nodes = int(edges.max(initial=-1)) + 1
    if nodes > FEW + SPARSE * (edges.size + sum(held[key].size for key in PER_NODE & {*held})):
        raise InputError(f"{path}: {nodes} nodes for {len(edges)} edges; number them without gaps.")
    if edges.size and not 0 <= edges.min() <= edges.max() < nodes:
        raise InputError(f"{path}: an edge names a node outside 0..{nodes - 1}.")
    edges = edges.astype(np.int64)
    if shape is None:
        return Graph(nodes, edges)
    indptr, indices = (_line(held, key, path) for key in ("x_indptr", "x_indices"))
    whole = len(indptr) == nodes + 1 and indptr[0] == 0 and indptr[-1] == len(indices)
    if not whole or (np.diff(indptr) < 0).any() or not _inside(indices, shape[1]):
        raise InputError(f"{path}: x_indptr and x_indices are no rows of shape {tuple(shape)}.")
    return Graph(nodes, edges, indptr, indices, shape[1])


def _line(held: Mapping[str, Array], key: str, path: Path) -> Array:
    """An array of integers in one dimension, as int64; empty where there is none."""
    array = held.get(key, np.zeros(0, np.int64))
    if array.ndim != 1 or array.dtype.kind not in "iu" or array.max(initial=0) > LARGEST:
        raise InputError(f"{path}: {key} is {array.dtype} {array.shape}; give integers (N,).")
    return array.astype(np.int64)


def _numbers(held: Mapping[str, Array], key: str, path: Path, count: int) -> list[int]:
    """So many integers from 0 on."""
    found: list[int] = _line({key: held[key].reshape(-1)}, key, path).tolist()
    if len(found) != count or min(found) < 0:
        raise InputError(f"{path}: {key} is {found[:6]}; give {count} sizes from 0 on.")
    return found


def _targets(held: Mapping[str, Array], nodes: int, path: Path) -> Array | None:
    if "y" in held:
        if len(classes := _line(held, "y", path)) != nodes:
            raise InputError(f"{path}: y has shape {classes.shape} for {nodes} nodes.")
        return classes
    if "labels" not in held:
        return None
    pairs = held["labels"]
    if pairs.ndim != 2 or pairs.shape[1] != 2 or pairs.dtype.kind not in "iu":
        raise InputError(f"{path}: labels is {pairs.dtype} {pairs.shape}; give integers (K, 2).")
    told = _numbers(held, "n_labels", path, 1) if "n_labels" in held else None
    groups = told[0] if told else int(pairs[:, 1].max(initial=-1)) + 1
    if nodes * groups > CELLS:
        raise InputError(f"{path}: {groups} groups of {nodes} nodes do not fit one dense table.")
    if not _inside(pairs[:, 0], nodes) or not _inside(pairs[:, 1], groups):
        raise InputError(f"{path}: labels names a node or a group that is not there.")
    targets = np.zeros((nodes, groups), np.int64)
    targets[pairs[:, 0], pairs[:, 1]] = 1
    return targets


def _part(
    given: Mapping[str, Array], part: str, targets: Array | None, nodes: int, path: Path
) -> Part:
    rows = _line(given, part, path)
    if not _inside(rows, nodes):
        raise InputError(f"{path}: a part names a node outside 0..{nodes - 1}.")
    own = None if targets is None else targets[rows]
    if own is not None and own.min(initial=0) < 0:
        raise InputError(f"{path}: a part names a node without a class.")
    return Part(rows, own)


def _inside(values: Array, count: int) -> bool:
    return not values.size or bool(values.min() >= 0 and values.max() < count)

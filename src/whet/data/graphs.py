"""Graphs: edges with features and labels of nodes in npz files, and lists of edges."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from whet.data.parts import Array, Graph, Part
from whet.data.tables import opened
from whet.errors import InputError

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
    parts = {part: _part(rows, targets, graph.nodes, path) for part, rows in given.items()}
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
    numbered = all(name.isdecimal() for name in found)
    names = sorted(found, key=(lambda name: (int(name), name)) if numbered else None)
    ids = {name: at for at, name in enumerate(names)}
    edges = np.array([[ids[name] for name in words] for _, words in pairs], np.int64)
    graph = Graph(len(names), edges, names=tuple(names))
    return {"train": Part(np.arange(len(names))), "kind": "graph", "graph": graph}


def _graph(held: Mapping[str, Array], path: Path) -> Graph:
    edges = held["edges"]
    if edges.ndim != 2 or edges.shape[1] != 2 or edges.dtype.kind not in "iu":
        raise InputError(f"{path}: edges is {edges.dtype} {edges.shape}; give integers (M, 2).")
    shape = held.get("x_shape")
    if shape is not None:
        nodes = int(shape[0])
    elif "y" in held or "n_nodes" in held:
        nodes = len(held["y"]) if "y" in held else int(held["n_nodes"])
    else:
        nodes = int(edges.max(initial=-1)) + 1
    if edges.size and not 0 <= edges.min() <= edges.max() < nodes:
        raise InputError(f"{path}: an edge names a node outside 0..{nodes - 1}.")
    edges = edges.astype(np.int64)
    if shape is None:
        return Graph(nodes, edges)
    indptr, indices = (held.get(key, np.zeros(0, int)) for key in ("x_indptr", "x_indices"))
    whole = len(indptr) == nodes + 1 and indptr[0] == 0 and indptr[-1] == len(indices)
    if not whole or (np.diff(indptr) < 0).any() or not _inside(indices, int(shape[1])):
        raise InputError(f"{path}: x_indptr and x_indices are no rows of shape {tuple(shape)}.")
    return Graph(nodes, edges, indptr.astype(np.int64), indices.astype(np.int64), int(shape[1]))


def _targets(held: Mapping[str, Array], nodes: int, path: Path) -> Array | None:
    if "y" in held:
        if held["y"].shape != (nodes,):
            raise InputError(f"{path}: y has shape {held['y'].shape} for {nodes} nodes.")
        return held["y"].astype(np.int64)
    if "labels" not in held:
        return None
    pairs = held["labels"]
    groups = int(held["n_labels"]) if "n_labels" in held else int(pairs[:, 1].max()) + 1
    if pairs.ndim != 2 or not _inside(pairs[:, 0], nodes) or not _inside(pairs[:, 1], groups):
        raise InputError(f"{path}: labels names a node or a group that is not there.")
    targets = np.zeros((nodes, groups), np.int64)
    targets[pairs[:, 0], pairs[:, 1]] = 1
    return targets


def _part(rows: Array, targets: Array | None, nodes: int, path: Path) -> Part:
    rows = rows.astype(np.int64)
    if not _inside(rows, nodes):
        raise InputError(f"{path}: a part names a node outside 0..{nodes - 1}.")
    own = None if targets is None else targets[rows]
    if own is not None and own.min(initial=0) < 0:
        raise InputError(f"{path}: a part names a node without a class.")
    return Part(rows, own)


def _inside(values: Array, count: int) -> bool:
    return not values.size or bool(values.min() >= 0 and values.max() < count)

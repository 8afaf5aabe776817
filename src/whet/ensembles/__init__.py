"""Several predictions as one: views of the rows, several models, mixed weights.

Each function makes a predictor of predictors. They nest in any order, are saved to one file by
`save`, and read again by `whet.Predictor.load`. What is fitted or chosen here (weights,
temperatures, what goes into a soup) is fitted to rows that are given: the select part, never the
one that judges. A stack is fitted to answers about rows that the answering models never saw.
"""

from whet.ensembles.averaging import calibrate, fit_weights, mean, tta
from whet.ensembles.classifiers import concatenated, pairs
from whet.ensembles.concatenation import Concatenation
from whet.ensembles.diversity import Diversity, diversity
from whet.ensembles.onnx_file import export_onnx
from whet.ensembles.soups import Soup, greedy_soup, uniform_soup
from whet.ensembles.stacking import Stacking, stack

__all__ = [
    "Concatenation", "Diversity", "Soup", "Stacking", "calibrate", "concatenated", "diversity",
    "export_onnx", "fit_weights", "greedy_soup", "mean", "pairs", "stack", "tta", "uniform_soup",
]  # fmt: skip

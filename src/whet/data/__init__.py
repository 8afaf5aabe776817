"""Reading and preparing data: splits, tables, texts, and what lies in a folder.

Everything that is fitted (columns, labels, vocabularies) is fitted on the training part alone, is
plain data afterwards, and goes through JSON and back. torch is imported where tensors are made.
"""

from whet.data.columns import Columns as Columns
from whet.data.folders import load as load
from whet.data.images import pixels as pixels
from whet.data.labels import Labels as Labels
from whet.data.parts import Graph as Graph
from whet.data.parts import Loaded as Loaded
from whet.data.parts import Part as Part
from whet.data.splitting import Split as Split
from whet.data.splitting import split as split
from whet.data.tables import read_table as read_table
from whet.data.vocabulary import Vocabulary as Vocabulary

__all__ = [
    "Columns", "Graph", "Labels", "Loaded", "Part", "Split", "Vocabulary", "load", "pixels",
    "read_table", "split",
]  # fmt: skip

"""What is done to a model before it is trained."""

from whet.preparing.beginnings import Initialised, initialise
from whet.preparing.branches import zero_init_residual
from whet.preparing.memory import channels_last
from whet.preparing.top import reinitialise_top

__all__ = ["Initialised", "channels_last", "initialise", "reinitialise_top", "zero_init_residual"]

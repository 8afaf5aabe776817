"""Other people's trainers: the same Stack inside Hugging Face's Trainer and inside Lightning.

Import `whet.hosts.transformers` or `whet.hosts.lightning`; this package itself imports neither.
"""

from whet.hosts.reading import Order

__all__ = ["Order"]

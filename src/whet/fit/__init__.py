"""One training of a task to a model in a folder, and what is done with such a model."""

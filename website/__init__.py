"""The documentation site: what is made at build time, from the code that it documents."""

"""Programs for development, not part of the product: run them as `python -m tools.NAME`."""

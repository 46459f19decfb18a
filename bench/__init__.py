"""Benchmarks: figures against the targets of performance.md. Run each as a module."""

"""Figures of stored runs, one module a kind: its options, and how rows become marks."""

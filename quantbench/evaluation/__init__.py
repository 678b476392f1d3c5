"""Evaluation: perplexity protocols, divergence from full precision, lm-eval tasks."""

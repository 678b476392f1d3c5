"""Text: corpora, calibration sets and the embedded world."""

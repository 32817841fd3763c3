"""Cohere Command-R checkpoints in the Hugging Face layout to GGUF files, quantized on the way.

The command line is ``python -m convert``; from Python, :func:`convert.pipeline.convert` does the same.
"""

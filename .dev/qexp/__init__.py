"""qexp: run, quantize and table the experiments of five papers on low-precision transformers."""

__version__ = "0.1.0"

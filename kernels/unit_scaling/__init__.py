"""Unit scaling (arXiv 2303.11257): ops whose outputs and gradients have standard deviation 1 at initialisation."""

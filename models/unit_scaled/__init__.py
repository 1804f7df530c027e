"""Unit-scaled networks (arXiv 2303.11257): the architecture of a network with unit-scaled ops and new weights."""

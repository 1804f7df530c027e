"""The baseline: the network as it is."""

from qexp.methods.base import BaseMethod


class Vanilla(BaseMethod):
    """Ordinary softmax attention."""

    name = "vanilla"
    changes_nothing = True


METHOD = Vanilla

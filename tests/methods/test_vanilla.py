from qexp.methods.base import Context
from qexp.methods.registry import create
from qexp.models.adapt import adapt


def test_changes_nothing_and_says_so(network):
    adapted = adapt(network("bert"))
    method = create("vanilla", {})
    assert method.changes_nothing
    assert method.prepare(adapted, Context(8, pretrained=True)).replaced == ()
    assert method.parameter_rules() == () and float(method.extra_loss(adapted)) == 0.0

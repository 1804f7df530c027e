"""A loss scale falls at once and rises slowly."""

from __future__ import annotations

from qexp.runner.loss_scale import GROWTH_INTERVAL, INITIAL, LossScale


def test_a_number_stays_and_none_is_one() -> None:
    for setting, value in ((None, 1.0), (2048.0, 2048.0)):
        scale = LossScale(setting)
        for _ in range(GROWTH_INTERVAL + 1):
            scale.rise()
        assert scale.value == value and not scale.can_fall


def test_a_dynamic_one_halves_at_an_overflow_and_doubles_after_so_many_good_steps_in_a_row() -> None:
    scale = LossScale("dynamic")
    scale.rise()
    scale.fall()
    assert scale.value == INITIAL / 2 and scale.skipped == 1
    for _ in range(GROWTH_INTERVAL - 1):
        scale.rise()
    assert scale.value == INITIAL / 2
    scale.rise()
    assert scale.value == INITIAL


def test_it_falls_no_lower_than_one() -> None:
    scale = LossScale("dynamic")
    while scale.can_fall:
        scale.fall()
    assert scale.value == 1.0


def test_a_state_brings_back_the_same_future() -> None:
    one, other = LossScale("dynamic"), LossScale("dynamic")
    one.fall()
    for _ in range(5):
        one.rise()
    other.load(one.state())
    assert other.state() == one.state()

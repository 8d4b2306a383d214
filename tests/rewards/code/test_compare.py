"""Comparison of answers with expected values."""

from decimal import Decimal

from rlcore.rewards.code.compare import Tolerance, same_output, same_value


def test_comparison_of_texts_and_values():
    tolerance = Tolerance()
    assert same_output("a b\n", "a  b", tolerance=tolerance)
    assert not same_output("1.0\n2", "1.0 2", tolerance=tolerance)
    assert same_output("0.1234567", "0.12345672", tolerance=tolerance)
    assert not same_output("1" * 500 + ".5", "2" * 500 + ".5", tolerance=tolerance)
    assert not same_output("1e999999999", "1e999999998", tolerance=tolerance)
    assert same_value([1, (2, 3)], ([1, [2, 3]]), tolerance)
    assert not same_value("1", 1, tolerance)
    assert not same_value(1, "1", tolerance)
    assert not same_value([1], [1, 2], tolerance)
    assert same_value(float("nan"), float("nan"), tolerance)
    assert not same_value(10**400, 1.5, tolerance)
    assert not same_value(1.5, 10**400, tolerance)
    assert not same_value(1, Decimal("sNaN"), tolerance)
    assert same_value(1, Decimal(1), tolerance)

"""What sympy and math-verify decide."""

from rlcore.rewards.math.values import symbolic


def test_an_infinity_is_no_number_whatever_sympy_says(monkeypatch):
    monkeypatch.setattr(symbolic, "verify", lambda *_, **__: True)  # as it says for some orders of its hashes
    assert not symbolic.equal(symbolic.parse(r"\sqrt{5}"), symbolic.parse(r"0^0 \cdot \infty"))
    assert symbolic.equal(symbolic.parse("1"), symbolic.parse(r"\sum_{n=1}^{\infty} \frac{1}{2^n}"))

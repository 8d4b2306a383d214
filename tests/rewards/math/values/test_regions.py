"""Regions of the real line."""

from fractions import Fraction

from rlcore.rewards.math.values import regions


def test_complement_and_intersection():
    zero, one, three = (regions.end(("num", Fraction(n))) for n in (0, 1, 3))
    region = regions.region([regions.Piece(zero, True, one, False), regions.Piece(three, True, three, True)])
    assert regions.complement(regions.complement(region)) == region
    assert regions.intersection(region, regions.complement(region)) == ()

"""Units of measure, and things counted."""

from rlcore.rewards.math.grammar import units
from rlcore.rewards.math.values import exact


def test_what_may_be_a_unit():
    for words in (["cm"], ["apples"], ["square", "feet"], ["kg"], ["hours", "per", "day"], []):
        assert units.is_unit(words), words
    for words in (["dozen"], ["x"], ["or", "so"], ["hundredths"], ["pair"], ["a", "very", "long", "tail", "here"]):
        assert not units.is_unit(words), words
    assert not units.is_unit(["apples"], spaced=False)


def test_things_counted_are_alike_when_one_says_more():
    apples, red, pears = (units.counted(words) for words in (["apples"], ["red", "apples"], ["pears"]))
    assert units.alike(apples, red)
    assert units.alike(apples, None)
    assert not units.alike(apples, pears)
    assert not units.alike(apples, units.read("kg"))
    assert units.counted(["square", "units"]) is None


def test_units():
    assert units.read("cm^2") == units.read("square centimeters") == units.read("sq cm")
    assert units.read("km/h") == units.read("kilometers per hour")
    assert units.read("m").dimension != units.read("m^2").dimension != units.read("kg").dimension
    assert units.read("apples") is None
    assert units.read("m/s/s") is None
    assert exact.same(exact.number("100 cm"), exact.number("1 m"))
    assert exact.same(exact.number("36 km/h"), exact.number("10 m/s"))
    assert exact.same(exact.number("5 cm"), exact.number("5"))
    assert not exact.same(exact.number("5 cm"), exact.number("5 kg"))

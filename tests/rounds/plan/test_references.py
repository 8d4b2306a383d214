from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlcore.rounds.plan.references import MAX_NAME, Alternative, Reference, ReferenceFault, When, name_fault, parse

NAMES = st.from_regex(r"[A-Za-z][A-Za-z0-9_]{0,8}(-[a-z0-9]{1,5})?", fullmatch=True)
ALTERNATIVES = st.one_of(
    st.builds(Alternative, NAMES, st.sampled_from([When.same, When.previous, When.latest, When.all])),
    st.builds(lambda name, n: Alternative(name, When.numbered, n), NAMES, st.integers(1, 999)),
)


@pytest.mark.parametrize(
    ("text", "alternatives"),
    [
        ("best", [Alternative("best")]),
        ("dpo@previous", [Alternative("dpo", When.previous)]),
        ("dpo@latest", [Alternative("dpo", When.latest)]),
        ("best@all", [Alternative("best", When.all)]),
        ("dpo@2", [Alternative("dpo", When.numbered, 2)]),
        (" dpo @ 02 |sft ", [Alternative("dpo", When.numbered, 2), Alternative("sft")]),
        ("a@previous|b@latest|c", [Alternative("a", When.previous), Alternative("b", When.latest), Alternative("c")]),
    ],
)
def test_grammar(text, alternatives):
    assert parse(text) == Reference(tuple(alternatives))


@given(st.lists(ALTERNATIVES, min_size=1, max_size=4))
def test_what_is_written_is_read_again(alternatives):
    reference = Reference(tuple(alternatives))
    assert parse(str(reference)) == reference
    assert reference.several == any(a.when is When.all for a in alternatives)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "names nothing"),
        ("a||b", "names nothing"),
        ("|a", "names nothing"),
        ("@previous", "names nothing"),
        ("a@", "a@previous, a@latest, a@all"),
        ("a@next", "'next'"),
        ("a@0", "from 1"),
        ("a@-1", "from 1"),
        ("a@1.5", "from 1"),
        ("a@previous@all", "previous@all"),
        ("../etc", "begins with a letter"),
        ("a b", "'a b'"),
        ("a/b", "folder"),
        (7, "not int"),
    ],
)
def test_what_is_no_reference(text, words):
    with pytest.raises(ReferenceFault, match=None) as caught:
        parse(text)
    assert words in str(caught.value)
    assert caught.value.cure


def test_names():
    assert name_fault("rejection_sample-2") is None
    assert name_fault("x" * MAX_NAME) is None
    for bad in ("x" * (MAX_NAME + 1), "2nd", "a.draft", "a-", "a--b", "a@b", "a|b", "", "ü", "a\n"):
        assert name_fault(bad), bad

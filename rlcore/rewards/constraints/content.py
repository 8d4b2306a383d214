"""Constraints on content: keywords, letters, lengths, language, case. The package docstring lists differences to
IFEval.
"""

from __future__ import annotations

import re

from rlcore.rewards import text as rules
from rlcore.rewards.constraints.kinds import ConstraintError, Relation, compare, constraint


@constraint("keywords:existence")
def _existence(text: str, keywords: list[str]) -> bool:
    """Contains every keyword, case-insensitive, also inside longer words (as IFEval counts: `run` is in `running`)."""
    lower = text.lower()
    return all(word.lower() in lower for word in keywords)


@constraint("keywords:frequency")
def _frequency(text: str, keyword: str, frequency: int, relation: Relation = "at least") -> bool:
    """Counts non-overlapping occurrences, case-insensitive, also inside longer words."""
    return compare(text.lower().count(keyword.strip().lower()), relation, frequency)


@constraint("keywords:forbidden_words")
def _forbidden(text: str, forbidden_words: list[str]) -> bool:
    """Contains none of them as a separate word, case-insensitive."""
    return not any(re.search(rf"(?<!\w){re.escape(word.strip())}(?!\w)", text, re.I) for word in forbidden_words)


@constraint("keywords:letter_frequency")
def _letters(text: str, letter: str, let_frequency: int, let_relation: Relation = "at least") -> bool:
    """Counts one character, case-insensitive."""
    if len(letter) != 1:
        raise ConstraintError(f"keywords:letter_frequency: letter must be one character, it is {letter!r}")
    return compare(text.lower().count(letter.lower()), let_relation, let_frequency)


@constraint("language:response_language")
def _language(text: str, language: str) -> bool:
    """The response is in the language of an ISO 639-1 code. A text without letters fails."""
    code = rules.language_code(language)
    if code is None:
        raise ConstraintError(f"language:response_language: no language has the code {language!r}")
    return rules.written_in(text, code)


@constraint("length_constraints:number_sentences")
def _sentences(text: str, num_sentences: int, relation: Relation = "at least") -> bool:
    return compare(len(rules.sentences(text)), relation, num_sentences)


@constraint("length_constraints:number_words")
def _words(text: str, num_words: int, relation: Relation = "at least") -> bool:
    return compare(len(rules.words(text)), relation, num_words)


@constraint("length_constraints:number_characters")
def _characters(text: str, num_characters: int, relation: Relation = "at least") -> bool:
    """Not in IFEval. Counts characters without surrounding white space."""
    return compare(len(text.strip()), relation, num_characters)


@constraint("length_constraints:number_paragraphs")
def _paragraphs(text: str, num_paragraphs: int) -> bool:
    """Exactly `num_paragraphs`, divided by `***`; only the first and the last may be empty."""
    parts = [part.strip() for part in re.split(r"(?<!\*)\*\*\*(?!\*)", text.strip())]
    inner = parts[1:-1]
    return all(inner) and sum(map(bool, parts)) == num_paragraphs


@constraint("length_constraints:nth_paragraph_first_word")
def _first_word(text: str, num_paragraphs: int, nth_paragraph: int, first_word: str) -> bool:
    """Exactly `num_paragraphs`, divided by blank lines; the n-th (from 1) begins with the word, case-insensitive."""
    if not 1 <= nth_paragraph <= num_paragraphs:
        raise ConstraintError(
            f"length_constraints:nth_paragraph_first_word: nth_paragraph is {nth_paragraph} of {num_paragraphs}"
        )
    found = rules.paragraphs(text)
    if len(found) != num_paragraphs:
        return False
    begin, word = found[nth_paragraph - 1].lstrip("\"'“‘«([*_ ").lower(), first_word.strip().lower()
    return begin.startswith(word) and not begin[len(word) : len(word) + 1].isalnum()


@constraint("change_case:capital_word_frequency")
def _capital_words(text: str, capital_frequency: int, capital_relation: Relation = "at least") -> bool:
    """Counts words without a lower-case letter, including `I` and `3D`."""
    return compare(sum(word.isupper() for word in rules.words(text)), capital_relation, capital_frequency)


@constraint("change_case:english_capital")
def _all_capital(text: str) -> bool:
    """English without lower-case letters."""
    return text.isupper() and rules.written_in(text.lower(), "en")


@constraint("change_case:english_lowercase")
def _all_lowercase(text: str) -> bool:
    """English without capital letters."""
    return text.islower() and rules.written_in(text, "en")


@constraint("punctuation:no_comma")
def _no_comma(text: str) -> bool:
    """Contains neither `,` nor the full-width `，`."""
    return not re.search("[,，]", text)


@constraint("startend:end_checker")
def _ends(text: str, end_phrase: str) -> bool:
    """Ends with the phrase, case-insensitive; only white space and closing quotation marks may follow."""
    return _unquoted(text).endswith(_unquoted(end_phrase))


@constraint("startend:quotation")
def _quoted(text: str) -> bool:
    """The response is enclosed in double quotation marks, straight or curly."""
    bare = text.strip()
    return len(bare) > 2 and (bare[0], bare[-1]) in {('"', '"'), ("“", "”"), ("”", "”"), ("„", "“"), ("«", "»")}


@constraint("combination:repeat_prompt")
def _repeated(text: str, prompt_to_repeat: str) -> bool:
    """Begins with the prompt, case-insensitive, followed by an answer."""
    bare, prompt = text.strip().lower(), prompt_to_repeat.strip().lower()
    return bare.startswith(prompt) and any(c.isalnum() for c in bare[len(prompt) :])


def _unquoted(text: str) -> str:
    return text.strip().strip('"“”').rstrip().lower()

"""Language detection. Importing this module loads the detector's model, which takes one or two seconds.

`rlcore.rewards.text.language_of` imports it at first use, outside of the time limit of a sample.
"""

from __future__ import annotations

try:
    import py3langid  # type: ignore[import-untyped, unused-ignore]
except ImportError as error:
    raise RuntimeError("needs the package py3langid (pip install 'rlcore[rewards]')") from error

KNOWN = frozenset(code for code, _ in py3langid.rank("the model is loaded here")) - {"zxx"}  # zxx: no language
_OTHER_CODES = {"iw": "he", "in": "id", "nb": "no", "fil": "tl"}
_VARIETIES = {"yue": "zh", "wuu": "zh", "ary": "ar", "arz": "ar", "nn": "no", "hbo": "he", "grc": "el", "uzs": "uz"}


def canonical(code: str) -> str | None:
    """The detector's code for an ISO 639-1 code with or without a region (`zh-CN`); None if unknown."""
    base = code.strip().lower().replace("_", "-").split("-")[0]
    return next((c for c in (base, _OTHER_CODES.get(base)) if c in KNOWN), None)


def includes(code: str, detected: str) -> bool:
    """True if `detected` is the language `code`, or a variety of it with another code."""
    return detected == code or _VARIETIES.get(detected) == code


def detect(text: str) -> str:
    """Code of the most likely language; `zxx` for text without letters."""
    return str(py3langid.classify(text)[0])

"""The words by which prompts name the classes of a detector: COCO's, or those of a user's own file."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import cache

from freeroam.models.class_names import CLASSES, GROUPS, IRREGULAR_PLURALS, NOT_MEANT, SYNONYMS

Words = tuple[str, ...]

_TOKEN = re.compile(r"[^\W_]+(?:['\u2019][^\W_]+)?|[.,;:!?()\n]")
_HUMP = re.compile(r"(?<=[a-z])(?=[A-Z])")


def tokens_of(text: str) -> list[str]:
    """Return words and stops of a text, in lower case, without a genitive's end."""
    found = _TOKEN.findall(text.lower().replace("\u2019", "'"))
    return [re.sub(r"'s$", "", token) for token in found]


def plural(noun: str) -> str:
    """Return the plural of a noun or of a phrase whose last word is one."""
    *lead, last = noun.split(" ")
    if last in IRREGULAR_PLURALS:
        last = IRREGULAR_PLURALS[last]
    elif last.endswith(("s", "x", "z", "ch", "sh")):
        last += "es"
    elif last.endswith("y") and last[-2:-1] not in set("aeiou"):
        last = last[:-1] + "ies"
    else:
        last += "s"
    return " ".join([*lead, last])


def phrases_of(names: Sequence[str]) -> dict[Words, frozenset[int]]:
    """Return every phrase, singular and plural (persons as well as people), with the classes it means.

    A name that is one of COCO's is found by that class's synonyms too. A name that is such a synonym ("pedestrian") is
    found by the class's own name ("person") and by its groups, but not by other synonyms ("woman"), which may speak of
    something else. What is itself a class name means that class and nothing else.
    """
    if tuple(names) == CLASSES:
        return _coco_phrases()
    same: dict[int, frozenset[int]] = {}
    narrower: dict[int, frozenset[int]] = {}
    for number, name in enumerate(names):
        for concept, is_same in _concepts(_spread(name)):
            kind = same if is_same else narrower
            kind[concept] = kind.get(concept, frozenset()) | {number}
    borrowed: dict[Words, frozenset[int]] = {}
    for words, concepts in _coco_phrases().items():
        kinds = (same, narrower) if words in _wide_phrases() else (same,)
        meant = frozenset().union(*(kind.get(concept, frozenset()) for kind in kinds for concept in concepts))
        if meant or not concepts:
            borrowed[words] = meant
    return {**borrowed, **_own_phrases(names)}


def _own_phrases(names: Sequence[str]) -> dict[Words, frozenset[int]]:
    """Return the forms of the names themselves: ``NO-Hardhat`` is "no hardhat", ``safetyVest`` "safety vests"."""
    own: dict[Words, frozenset[int]] = {}
    exact: dict[Words, frozenset[int]] = {}
    for number, name in enumerate(names):
        spread = _spread(name)
        for text in dict.fromkeys((spread, " ".join(tokens_of(name)), spread.replace(" ", ""))):
            for words in _forms(text) if text else ():
                own[words] = own.get(words, frozenset()) | {number}
        words = tuple(spread.split())
        exact[words] = exact.get(words, frozenset()) | {number}
    exact.pop((), None)
    # "glass" is a name by itself even where another class is called so in the plural.
    return {**own, **exact}


def _spread(name: str) -> str:
    """Return a class name as words in lower case with single spaces."""
    return " ".join(tokens_of(_HUMP.sub(" ", name)))


def _concepts(name: str) -> list[tuple[int, bool]]:
    """Return the COCO classes that a name speaks of, and whether it is the class's own name (or joined, as in VOC).

    A name of a group, such as "vehicle", speaks of itself.
    """
    joined = name.replace(" ", "")
    for number, concept in enumerate(CLASSES):
        if joined == concept.replace(" ", ""):
            return [(number, True)]
    words = tuple(name.split())
    return [] if words in _wide_phrases() else [(number, False) for number in _coco_phrases().get(words, frozenset())]


@cache
def _wide_phrases() -> frozenset[Words]:
    """Return the forms of COCO's own names and of the groups."""
    groups = (name for names in GROUPS for name in names.split(", "))
    return frozenset(words for text in (*CLASSES, *groups) for words in _forms(text))


def _forms(text: str) -> Iterator[Words]:
    for form in (text, plural(text), f"{text}s"):
        yield tuple(re.sub(r"'s$", "", word) for word in form.split(" "))


@cache
def _coco_phrases() -> dict[Words, frozenset[int]]:
    numbers = {name: frozenset({number}) for number, name in enumerate(CLASSES)}
    table: dict[Words, frozenset[int]] = {}

    def put(text: str, meant: frozenset[int]) -> None:
        for words in _forms(text):
            table[words] = table.get(words, frozenset()) | meant

    for names, members in GROUPS.items():
        meant = frozenset().union(*(numbers[member] for member in members.split(", ")))
        for name in names.split(", "):
            put(name, meant)
    for class_name, others in SYNONYMS.items():
        for other in others.split(", "):
            put(other, numbers[class_name])
    for class_name, meant in numbers.items():
        table.pop(tuple(class_name.split(" ")), None)
        put(class_name, meant)
    for phrase in NOT_MEANT.split(", "):
        table[tuple(phrase.split(" "))] = frozenset()
    return table

"""What a prompt asks a detector to report, and the sentence that answers it.

No language model: words are looked up whole, the longest phrase first ("hot dog" is no dog), and negations reach as far
as the list they begin. A prompt that names nothing known asks for everything. Which words there are is the business of
``class_phrases``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

from freeroam.models.class_names import CLASSES
from freeroam.models.class_phrases import phrases_of, plural, tokens_of

__all__ = ["CLASSES", "COCO", "Vocabulary", "Wanted", "plural", "read_prompt", "sentence"]

NOTHING_FOUND = "nothing found"
NOTHING_KNOWN = "the prompt names nothing that this detector knows, so everything is reported"

_WIDE, _NARROW = "wide", "narrow"
_STOPS = frozenset(".;:!?()\n")
_EVERYTHING = {
    ("everything",),
    ("anything",),
    *((word, noun) for word in ("all", "any", "every", "each") for noun in ("object", "objects", "thing", "things")),
    *((word, noun) for word in ("all", "any", "every") for noun in ("item", "items", "class", "classes")),
    ("all", "the", "objects"),
    ("all", "the", "things"),
    ("all", "kinds", "of", "objects"),
    ("all", "kinds", "of", "things"),
    ("whatever",),
}
_WIDE_NEGATIONS = {
    *((word,) for word in ("without", "except", "excluding", "excepting", "ignore", "ignoring", "minus", "exclude")),
    *((("apart", "from"), ("aside", "from"), ("other", "than"), ("but", "not"), ("but", "no"), ("rather", "than"))),
    *((("instead", "of"), ("leave", "out"), ("leaving", "out"), ("except", "for"), ("filter", "out"))),
}
_NARROW_NEGATIONS = {("no",), ("not",), ("never",), ("don't",), ("dont",), ("non",)}
_ONLY = {("only",), ("just",), ("solely",), ("exclusively",), ("nothing", "but"), ("nothing", "except"), ("purely",)}
_CONDITIONS = ("if", "when", "whenever", "until", "whether", "once")
_NEUTRAL = {
    ("not", "only"),
    ("not", "just"),
    ("but", "also"),
    ("no", "matter"),
    ("whether", "or", "not"),
    ("or", "not"),
    # To tell when something is gone it must be reported while it is there.
    *((word, *rest, "no") for word in _CONDITIONS for rest in ((), ("there",), ("there", "is"), ("there", "are"))),
}
_LIST_WORDS = {"and", "or", "nor", "as", "well", "any", "the", "a", "an", "all", "other", "of", "also"}
_SCOPE_ENDS = {
    *("on", "in", "at", "near", "with", "by", "to", "from", "for", "next", "behind", "beside", "under", "over"),
    *("inside", "outside", "into", "is", "are", "was", "were", "that", "which", "who", "but", "if", "when", "while"),
    *("then", "find", "show", "count", "include", "including", "plus", "also"),
}


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a prompt asks for.

    Attributes:
        classes: Numbers of the classes to report.
        is_known: Whether the prompt named anything known; if not, ``classes`` is everything.
    """

    classes: frozenset[int]
    is_known: bool


class Vocabulary:
    """The classes of one detector, as prompts speak of them.

    Args:
        names: Class names by number; doubles are allowed, and all of one name are meant by it.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self.read = lru_cache(maxsize=512)(self._read)
        """Return what a prompt asks to be reported; see ``read_prompt``."""

    @cached_property
    def phrases(self) -> Mapping[tuple[str, ...], frozenset[int]]:
        """Every phrase that is known, in words, with the classes it means; none for what is no class at all."""
        return phrases_of(self.names)

    @cached_property
    def longest(self) -> int:
        """Words in the longest phrase, those of negations included."""
        return max([_LONGEST, *map(len, self.phrases)])

    def meaning(self, words: tuple[str, ...]) -> frozenset[int] | None:
        """Return the classes that a phrase means, None if it is no phrase; "hard hat" finds a class ``Hardhat``."""
        found = self.phrases.get(words)
        if found is None and len(words) > 1 and self.names != CLASSES:
            found = self.phrases.get(("".join(words),))
        return found

    def classes_named(self, text: str) -> frozenset[int]:
        """Return the classes that ``text`` names by itself, as "a car" does; empty if it says anything else."""
        words = tuple(tokens_of(text))
        if len(words) > 1 and words[0] in {"a", "an", "the"} and self.meaning(words) is None:
            words = words[1:]
        return self.meaning(words) or frozenset()

    def sentence(self, labels: Sequence[str], wanted: Wanted) -> str:
        """Return the answer in words, such as ``2 people, 1 bus``: most first, then in the order of the classes."""
        counts = Counter(labels)
        ordered = sorted(counts, key=lambda label: (-counts[label], self._places[label]))
        said = ", ".join(_counted(label, counts[label]) for label in ordered) or NOTHING_FOUND
        return said if wanted.is_known else f"{said} ({NOTHING_KNOWN})"

    def _read(self, prompt: str) -> Wanted:
        return _Reading(tokens_of(prompt), self).result()

    @cached_property
    def _places(self) -> dict[str, int]:
        return {name: place for place, name in reversed(list(enumerate(self.names)))}


def sentence(labels: Sequence[str], wanted: Wanted) -> str:
    """Return the answer in words for the 80 COCO classes."""
    return COCO.sentence(labels, wanted)


def _counted(label: str, count: int) -> str:
    if label in {"scissors", "skis"}:
        return f"{count} {'pair' if count == 1 else 'pairs'} of {label}"
    return f"{count} {label if count == 1 else plural(label)}"


def read_prompt(prompt: str) -> Wanted:
    """Return what ``prompt`` asks to be reported of the 80 COCO classes.

    Names, plurals, synonyms and groups are united; what stands behind "without", "except", "no" and the like is taken
    away; "only" drops what was named before it. Exclusions alone leave everything else.
    """
    return COCO.read(prompt)


class _Reading:
    """One pass over the words of a prompt."""

    def __init__(self, tokens: list[str], vocabulary: Vocabulary) -> None:
        self._tokens = tokens
        self._meaning = vocabulary.meaning
        self._longest = vocabulary.longest
        self._all = frozenset(range(len(vocabulary.names)))
        self._included: set[int] = set()
        self._excluded: set[int] = set()
        self._is_everything = False
        self._negation: str | None = None
        self._at = 0

    def result(self) -> Wanted:
        """Read all and sum up."""
        while self._at < len(self._tokens):
            self._at += self._read_one()
        if self._is_everything or (self._excluded and not self._included):
            return Wanted(self._all - self._excluded or self._all, is_known=True)
        wanted = frozenset(self._included - self._excluded)
        if self._included and not wanted:
            # "cars, but not the red cars": what is left would be nothing at all.
            wanted = frozenset(self._included)
        return Wanted(wanted or self._all, is_known=bool(wanted))

    def _read_one(self) -> int:
        """Read the phrase at the current place; return its length in words."""
        for length in range(min(self._longest, len(self._tokens) - self._at), 0, -1):
            phrase = tuple(self._tokens[self._at : self._at + length])
            if self._read_phrase(phrase):
                return length
        self._read_other(self._tokens[self._at])
        return 1

    def _read_phrase(self, phrase: tuple[str, ...]) -> bool:
        if phrase in _NEUTRAL:
            return True
        if phrase in _EVERYTHING:
            self._read_everything(phrase)
        elif phrase in _ONLY:
            if self._names_follow(len(phrase)):
                self._included.clear()
                self._is_everything = False
            self._negation = None
        elif phrase in _WIDE_NEGATIONS:
            self._negation = _WIDE
        elif phrase in _NARROW_NEGATIONS:
            self._negation = _NARROW
        elif (meant := self._meaning(phrase)) is not None:
            if phrase == ("orange",) and self._is_noun(self._at + 1):
                return True  # a colour
            target = self._excluded if self._negation else self._included
            target |= meant
        else:
            return False
        return True

    def _read_everything(self, phrase: tuple[str, ...]) -> None:
        if self._negation:
            return
        self._is_everything = True
        following = self._tokens[self._at + len(phrase) : self._at + len(phrase) + 2]
        if following[:1] == ["but"] and following[1:] not in (["not"], ["also"], ["only"]):
            self._negation = _WIDE
            self._tokens[self._at + len(phrase)] = "except"

    def _read_other(self, word: str) -> None:
        """A word of no meaning here; some of them end the reach of a negation."""
        is_list_end = word == "," and self._negation == _NARROW
        if word in _STOPS or word in _SCOPE_ENDS or is_list_end:
            self._negation = None

    def _names_follow(self, offset: int) -> bool:
        """Whether a name stands close behind, so that "only" speaks of it and not of what came before."""
        for place in range(self._at + offset, min(len(self._tokens), self._at + offset + 4)):
            token = self._tokens[place]
            if token in _STOPS or token in {",", "and", "or", "no", "not", "without"}:
                return False
            if self._is_noun(place):
                return True
        return False

    def _is_noun(self, place: int) -> bool:
        return any(
            self._meaning(tuple(self._tokens[place : place + length])) is not None
            for length in range(1, min(self._longest, len(self._tokens) - place) + 1)
        )


_LONGEST = 4

COCO = Vocabulary(CLASSES)

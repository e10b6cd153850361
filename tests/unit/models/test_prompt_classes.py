"""Which classes a prompt asks for, and the sentence that answers."""

from __future__ import annotations

import pytest

from freeroam.models.class_names import GROUPS, SYNONYMS
from freeroam.models.prompt_classes import CLASSES, Wanted, plural, read_prompt, sentence

VEHICLES = {"car", "bus", "truck", "motorcycle", "bicycle", "train", "boat", "airplane"}
ANIMALS = {"bird", "cat", "dog", "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe"}
FURNITURE = {"chair", "couch", "bed", "dining table", "bench"}
FOOD = {"banana", "apple", "sandwich", "orange", "broccoli", "carrot", "hot dog", "pizza", "donut", "cake"}
LUGGAGE = {"backpack", "handbag", "suitcase"}
ELECTRONICS = {"tv", "laptop", "mouse", "remote", "keyboard", "cell phone"}
ALL = set(CLASSES)

NAMED = [
    # the issue's own, and the seeds'
    ("Detect all people and vehicles", {"person"} | VEHICLES),
    ("Detect only vehicles", VEHICLES),
    # absence can only be told by what is reported while it is there
    ("Notify me when there is no person at the desk", {"person", "dining table"}),
    ("Alert me if there are no cars", {"car"}),
    ("Tell me when there's no dog", {"dog"}),
    ("Warn if no people are near the bed", {"person", "bed"}),
    # singular and plural, regular and not
    ("person", {"person"}),
    ("people", {"person"}),
    ("Find persons.", {"person"}),
    ("men, women and children", {"person"}),
    ("a man", {"person"}),
    ("the child", {"person"}),
    ("mice", {"mouse"}),
    ("knives and forks", {"knife", "fork"}),
    ("BUSES", {"bus"}),
    ("busses", {"bus"}),
    ("benches", {"bench"}),
    ("sheep", {"sheep"}),
    ("sandwiches", {"sandwich"}),
    ("toothbrushes", {"toothbrush"}),
    ("wine glasses", {"wine glass"}),
    ("oxen and calves", {"cow"}),
    ("geese", {"bird"}),
    # synonyms
    ("automobile", {"car"}),
    ("bikes", {"bicycle"}),
    ("motorbikes", {"motorcycle"}),
    ("planes", {"airplane"}),
    ("an aeroplane", {"airplane"}),
    ("aircraft", {"airplane"}),
    ("TV", {"tv"}),
    ("televisions", {"tv"}),
    ("sofa", {"couch"}),
    ("cellphone", {"cell phone"}),
    ("mobile phones", {"cell phone"}),
    ("smartphones", {"cell phone"}),
    ("lorries", {"truck"}),
    ("kittens and puppies", {"cat", "dog"}),
    ("fridge", {"refrigerator"}),
    ("doughnuts", {"donut"}),
    ("cyclists", {"person", "bicycle"}),
    ("motorcyclists", {"person", "motorcycle"}),
    ("vans", {"car", "truck"}),
    ("pedestrians", {"person"}),
    ("glass of wine", {"wine glass"}),
    ("Is anybody there?", {"person"}),
    ("Is there a person?", {"person"}),
    ("How many people are sitting on chairs?", {"person", "chair"}),
    ("passers-by", {"person"}),
    # groups
    ("animals", ANIMALS),
    ("pets", {"cat", "dog"}),
    ("furniture", FURNITURE),
    ("pieces of furniture", FURNITURE),
    ("food", FOOD),
    ("fruit", {"banana", "apple", "orange"}),
    ("fruits", {"banana", "apple", "orange"}),
    ("electronics", ELECTRONICS),
    ("electronic devices", ELECTRONICS),
    ("luggage", LUGGAGE),
    ("bags", LUGGAGE),
    ("sports equipment", {"frisbee", "skis", "snowboard", "sports ball", "kite", "baseball bat", "baseball glove"}
     | {"skateboard", "surfboard", "tennis racket"}),
    ("kitchen items", {"bottle", "wine glass", "cup", "fork", "knife", "spoon", "bowl"}
     | {"microwave", "oven", "toaster", "refrigerator", "sink"}),
    ("cutlery", {"fork", "knife", "spoon"}),
    ("two-wheelers", {"bicycle", "motorcycle"}),
    ("livestock", {"horse", "sheep", "cow"}),
    # everything
    ("everything", ALL),
    ("anything", ALL),
    ("Detect all objects", ALL),
    ("find any object", ALL),
    ("every thing", ALL),
    # whole words and the longest match
    ("hot dog", {"hot dog"}),
    ("hot dogs and dogs", {"hot dog", "dog"}),
    ("teddy bears", {"teddy bear"}),
    ("a teddy-bear", {"teddy bear"}),
    ("dining table", {"dining table"}),
    ("traffic light", {"traffic light"}),
    ("traffic lights and traffic", {"traffic light", "car", "bus", "truck", "motorcycle", "bicycle"}),
    ("computer mouse", {"mouse"}),
    ("baseball bats", {"baseball bat"}),
    ("tennis rackets", {"tennis racket"}),
    ("fire truck", {"truck"}),
    ("sports car", {"car"}),
    ("cars at the bus stop", {"car"}),
    ("people in the car park", {"person"}),
    ("carpets and scars, people", {"person"}),
    ("category: dog", {"dog"}),
    ("orange cars", {"car"}),
    ("oranges", {"orange"}),
    ("an orange and an apple", {"orange", "apple"}),
    ("people in the kitchen", {"person"}),
    # negation
    ("vehicles without trucks", VEHICLES - {"truck"}),
    ("vehicles except trucks and buses", VEHICLES - {"truck", "bus"}),
    ("vehicles, excluding cars, buses or trains", VEHICLES - {"car", "bus", "train"}),
    ("animals but not dogs", ANIMALS - {"dog"}),
    ("animals but no dogs or cats", ANIMALS - {"dog", "cat"}),
    ("vehicles, no cars", VEHICLES - {"car"}),
    ("vehicles, not cars, and people", (VEHICLES - {"car"}) | {"person"}),
    ("everything except people", ALL - {"person"}),
    ("anything but cars", ALL - {"car"}),
    ("everything but the dogs and cats", ALL - {"dog", "cat"}),
    ("all objects other than furniture", ALL - FURNITURE),
    ("no people", ALL - {"person"}),
    ("ignore cars", ALL - {"car"}),
    ("Ignore cars. Report people.", {"person"}),
    ("Don't report cars, report people", {"person"}),
    ("vehicles without trucks. Also people and trucks' drivers", (VEHICLES - {"truck"}) | {"person"}),
    ("cars but no trucks near people", {"car", "person"}),
    ("a person with no helmet on a motorcycle", {"person", "motorcycle"}),
    ("food but not fruit", FOOD - {"banana", "apple", "orange"}),
    # only
    ("only cars", {"car"}),
    ("cars only", {"car"}),
    ("Report people only and the dog", {"person", "dog"}),
    ("people and vehicles, but only trucks and buses", {"truck", "bus"}),
    ("nothing but cats", {"cat"}),
    ("Just dogs please", {"dog"}),
    ("not only cars but also trucks", {"car", "truck"}),
    ("only animals, except birds", ANIMALS - {"bird"}),
    # spelling and noise
    ("  DETECT:\n- person\n- car\n", {"person", "car"}),
    ("person,car;dog", {"person", "car", "dog"}),
    ("person/dog", {"person", "dog"}),
    ("the dog\u2019s bowl", {"dog", "bowl"}),
    ("cell_phone", {"cell phone"}),
    ("\u26a0 people \U0001f697 cars", {"person", "car"}),
]  # fmt: skip

UNKNOWN = ["", "Describe the scene", "Was ist zu sehen?", "unicorns", "?", "what is happening here", "1234", "helmets"]


@pytest.mark.parametrize(("prompt", "expected"), NAMED, ids=[prompt.strip() for prompt, _ in NAMED])
def test_a_prompt_chooses_the_classes(prompt: str, expected: set[str]) -> None:
    wanted = read_prompt(prompt)

    assert {CLASSES[number] for number in wanted.classes} == expected
    assert wanted.is_known


@pytest.mark.parametrize("prompt", UNKNOWN)
def test_a_prompt_that_names_nothing_known_asks_for_everything_and_says_so(prompt: str) -> None:
    wanted = read_prompt(prompt)

    assert {CLASSES[number] for number in wanted.classes} == ALL
    assert not wanted.is_known
    assert "everything is reported" in sentence(["cat"], wanted)


@pytest.mark.parametrize("name", CLASSES)
def test_every_class_is_found_by_its_name_and_its_plural(name: str) -> None:
    for prompt in (name, plural(name), f"Find the {name}.", f"{plural(name)}!"):
        assert {CLASSES[number] for number in read_prompt(prompt).classes} == {name}


def test_synonyms_and_groups_name_real_classes() -> None:
    members = {member for group in GROUPS.values() for member in group.split(", ")}

    assert len(CLASSES) == len(set(CLASSES)) == 80
    assert set(SYNONYMS) <= ALL
    assert members <= ALL


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (["person", "bus", "person"], "2 people, 1 bus"),
        (["bus", "bus", "knife", "knife", "knife"], "3 knives, 2 buses"),
        (["sheep", "sheep"], "2 sheep"),
        (["scissors"], "1 pair of scissors"),
        (["skis", "skis"], "2 pairs of skis"),
        (["mouse", "mouse", "cup"], "2 mice, 1 cup"),
        (["wine glass", "wine glass"], "2 wine glasses"),
        (["sandwich", "sandwich", "bench", "bench"], "2 benches, 2 sandwiches"),
        ([], "nothing found"),
    ],
)
def test_the_sentence_counts_in_good_english(labels: list[str], expected: str) -> None:
    assert sentence(labels, Wanted(frozenset(), is_known=True)) == expected


def test_a_very_long_prompt_is_read_quickly() -> None:
    wanted = read_prompt("people and cars without trucks " * 1000)

    assert {CLASSES[number] for number in wanted.classes} == {"person", "car"}

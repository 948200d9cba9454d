"""What is asked, which answers are taken, and the bank of captions."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest

from genaug.captioning.bank import make_captions, planned_captions
from genaug.captioning.base import Captioner, Request
from genaug.captioning.engine import (
    PromptSets,
    check,
    clean,
    combinations,
    forbidden_pattern,
    forbidden_words,
    llm_prompt,
    plurals,
    read_sets,
)
from genaug.captioning.template import Template

CLASSES = ["Snowy-winged Jay", "House Sparrow", "Ruddy_Goose", "Fly Catcher"]


# --- the three sets ------------------------------------------------------------------------------------------------


def test_the_sets_have_the_sizes_of_the_paper():
    sets = read_sets()
    assert [len(set(entries)) for entries in vars(sets).values()] == [3, 18, 13]
    assert len(sets) == 702


def test_own_sets_are_read_line_by_line(tmp_path):
    for name, text in (("instructions", "Say\n"), ("spatial", " a moor \n\na bog\n"), ("temporal", "at dawn")):
        (tmp_path / f"{name}.txt").write_text(text)
    assert read_sets(tmp_path) == PromptSets(("Say",), ("a moor", "a bog"), ("at dawn",))


def test_a_missing_an_empty_and_a_repeating_set_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no instructions\.txt"):
        read_sets(tmp_path)
    with pytest.raises(ValueError, match="spatial needs entries"):
        PromptSets(("Say",), (), ("at dawn",))
    with pytest.raises(ValueError, match="temporal needs entries, each once"):
        PromptSets(("Say",), ("a moor",), ("at dawn", "at dawn"))


def test_places_named_like_a_class_are_left_out():
    sets = PromptSets(("Say",), ("a moor", "sandy beaches", "a beech wood"), ("at dawn",))
    assert sets.without(["beach"]).spatial == ("a moor", "a beech wood")
    with pytest.raises(ValueError, match="every entry of the prompt set temporal"):
        sets.without(["dawn"])


# --- the requests --------------------------------------------------------------------------------------------------


def triples(requests):
    return [(request.instruction, request.spatial, request.temporal) for request in requests]


def test_all_combinations_come_before_any_comes_again():
    found = triples(combinations(read_sets(), 2 * 702, seed=3))
    assert len(set(found[:702])) == len(set(found[702:])) == 702
    assert found[:702] != found[702:]


def test_places_take_turns():
    places = [request.spatial for request in combinations(read_sets(), 36, seed=0)]
    assert set(places[:18]) == set(places[18:]) == set(read_sets().spatial)


def test_a_shorter_list_is_the_beginning_of_a_longer_one():
    sets = read_sets()
    assert combinations(sets, 100, seed=1) == combinations(sets, 800, seed=1)[:100]
    assert triples(combinations(sets, 100, seed=1)) != triples(combinations(sets, 100, seed=2))
    assert combinations(sets, 0, seed=1) == []
    with pytest.raises(ValueError, match="at least 0, got -1"):
        combinations(sets, -1, seed=1)


def test_every_caption_and_every_attempt_has_its_own_seed():
    requests = combinations(read_sets(), 1000, seed=0)
    attempts = [Request(0, "Say", 0, "a moor", "at dawn", seed=5, attempt=attempt) for attempt in range(10)]
    assert len({request.sampling_seed for request in requests}) == 1000
    assert len({request.sampling_seed for request in attempts}) == 10
    assert all(0 <= request.sampling_seed < 2**63 for request in requests)


def test_the_question_has_all_three_parts_and_the_words_to_avoid():
    request = Request(0, "Describe", 0, "a calm lake", "at dusk", seed=0)
    prompt = llm_prompt(request, forbidden_words(["Blue Jay", "Grey Jay", "Mallard"], ["bird"]))
    assert prompt.startswith("Describe a calm lake at dusk.")
    assert prompt.endswith("Do not use any of these words: bird, jay, mallard.")
    assert "avoid" not in llm_prompt(request, [])
    many = [f"Name{chr(97 + i // 26)}{chr(97 + i % 26)}" for i in range(200)]
    assert llm_prompt(request, many).count(",") - llm_prompt(request, ["x"]).count(",") == 39


# --- words to avoid ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("noun", "expected"),
    [
        ("jay", {"jays"}),
        ("finch", {"finches"}),
        ("albatross", {"albatrosses"}),
        ("fox", {"foxes"}),
        ("fly", {"flies"}),
        ("goose", {"geese"}),
        ("mouse", {"mice"}),
        ("vireo", {"vireos"}),
        ("flamingo", {"flamingos", "flamingoes"}),
        ("wolf", {"wolfs", "wolves"}),
        ("knife", {"knifes", "knives"}),
        ("woman", {"women", "womans"}),
        ("human", {"humans"}),
    ],
)
def test_plurals(noun, expected):
    assert plurals(noun) == expected


def test_the_words_are_the_superclass_the_nouns_and_the_names():
    assert forbidden_words(CLASSES, ["bird"]) == [
        "*bird*", "jay", "sparrow", "goose", "catcher",
        "snowy-winged jay", "house sparrow", "ruddy goose", "fly catcher",
    ]  # fmt: skip
    assert forbidden_words(["bird of paradise", "BMW X5 SUV 2007", "tabby, tabby cat"], ["car"]) == [
        "car", "bird", "suv", "tabby", "cat", "bird of paradise", "bmw x5 suv 2007", "tabby cat",
    ]  # fmt: skip
    assert forbidden_words(["747", "Bird"], ["bird"]) == ["*bird*", "747"]
    assert forbidden_words([], []) == []
    assert forbidden_words(["Sea Snake", "Tick"], ["snake", "bird", "snake", "ass"]) == [
        "*snake*", "*bird*", "ass", "tick", "sea snake",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("A snowy house on the shore, winged clouds above", None),
        ("A jay on a branch", "jay"),
        ("JAYS everywhere", "JAYS"),
        ("the jay's nest", "jay"),
        ("a jay-filled garden", "jay"),
        ("a popinjay", None),
        ("sparrows chirp", "sparrows"),
        ("Geese on the water", "Geese"),
        ("a gooseberry bush", None),
        ("many songbirds", "songbirds"),
        ("birdsong in the air", "birdsong"),
        ("fly away", None),
        ("fly-catchers", "fly-catchers"),
    ],
)
def test_whole_words_are_found_in_singular_and_plural(text, found):
    match = forbidden_pattern(tuple(forbidden_words(CLASSES, ["bird"]))).search(text)
    assert (match and match.group()) == found


def test_names_of_several_words_match_with_blanks_or_hyphens():
    pattern = forbidden_pattern(("snowy-winged jay", "box turtle"))
    assert pattern.search("a snowy winged jay")
    assert pattern.search("two Box-Turtles")
    assert not pattern.search("a box by the turtle")


def test_a_class_named_in_the_plural_forbids_its_singular():
    pattern = forbidden_pattern(("finches", "ponies", "cars", "grass"))
    assert all(pattern.search(word) for word in ("finch", "pony", "car", "grass"))
    assert not pattern.search("gras")


def test_nothing_forbidden_finds_nothing():
    assert not forbidden_pattern(()).search("")


# --- answers -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "caption"),
    [
        ("A calm lake at dusk.", "A calm lake at dusk."),
        ("  \n\n A  calm\tlake. \nMore of it.", "A calm lake."),
        ('1. "A calm lake."\n2. "Another."', "A calm lake."),
        ("2) A calm lake", "A calm lake"),
        ("- A calm lake", "A calm lake"),
        ("* A calm lake", "A calm lake"),
        ("**Prompt 1:** A calm lake.", "A calm lake."),
        ("Image caption: “A calm lake”", "A calm lake"),
        ("Sure! Here is a caption: A calm lake.", "A calm lake."),
        ("Certainly! Here are two prompts:\n\n1. A calm lake.", "A calm lake."),
        ("Here's one: A calm lake.", "A calm lake."),
        ("## Caption\nA calm lake by night.", "Caption"),  # too short: asked again
        ("A calm lake. Mist rises from the", "A calm lake."),
        ("A calm lake where mist rises from the", "A calm lake where mist rises"),
        ("A calm lake, silent and", "A calm lake, silent"),
        ("A lake at 3.5 degrees", "A lake at 3.5 degrees"),
        (" ".join(["word"] * 40) + ". " + " ".join(["more"] * 20) + ".", " ".join(["word"] * 40) + "."),
        ("", ""),
        ("...\n---", ""),
    ],
)
def test_clean(answer, caption):
    assert clean(answer) == caption


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("A calm lake at dusk.", None),
        ("", "empty"),
        ("!?", "empty"),
        ("A lake.", "too short"),
        ("lake " * 51, "too long"),
        ("lake " * 50, None),
        ("I cannot help with that.", "refusal"),
        ("As an AI language model, there are no photos.", "refusal"),
        ("Sorry, that is not possible.", "refusal"),
        ("Describe in one sentence a lake.", "echo"),
        ("Describe a lake in words.", None),
        ("Two jays at a lake.", "forbidden: jays"),
    ],
)
def test_check(text, reason):
    assert check(text, ["jay"], instruction="Describe in one short sentence") == reason


# --- the bank ------------------------------------------------------------------------------------------------------


class Scripted(Captioner):
    """Answers from a function of the request; counts what it is asked."""

    def __init__(self, answer, batch_size=4, samples=True):
        self.answer, self.batch_size, self.samples = answer, batch_size, samples
        self.asked, self.loaded = [], []

    @property
    def settings(self):
        return {}

    def load(self, device):
        self.loaded.append(device)

    def write(self, requests, forbidden):
        assert len(requests) <= self.batch_size
        self.asked += [(request.number, request.attempt) for request in requests]
        return [self.answer(request) for request in requests]


def plain(request):
    return f"1. A view of {request.spatial} {request.temporal}, number {request.number}."


def unreliable(request):
    """One of a few answers, by the seed: many are refused, many are the same."""
    places = ("lake", "moor", "hill", "dune", "marsh", "wood", "cliff", "field", "bay", "glen", "jay", "bird")
    return f"A quiet {places[request.sampling_seed % len(places)]} in {['mist', 'sun', 'rain'][request.seed % 3]}."


def bank(captioner, folder, n, **options):
    return make_captions(captioner, n, 0, ["Blue Jay"], ["bird"], folder, **options)


def test_captions_are_cleaned_and_traceable(tmp_path):
    captioner = Scripted(plain)
    captions = bank(captioner, tmp_path, 6, device="cpu")
    requests = combinations(read_sets(), 6, seed=0)
    assert [caption.text for caption in captions] == [plain(request)[3:] for request in requests]
    assert [(c.number, c.instruction, c.spatial, c.temporal, c.seed) for c in captions] == [
        (r.number, r.instruction, r.spatial, r.temporal, r.seed) for r in requests
    ]
    assert {caption.source for caption in captions} == {"llm"}
    assert captioner.loaded == ["cpu"]


def test_refused_answers_are_asked_for_again_and_in_the_end_replaced(tmp_path):
    answers = {
        (0, 0): "A bird on a lake.",
        (0, 1): "A lake without anyone.",
        (1, 0): "",
        (1, 1): "I cannot do that.",
        (1, 2): "Jays, jays, jays.",
        (2, 0): "a LAKE — without anyone",  # the same words as caption 0 in its second attempt
        (2, 1): "A moor without anyone.",
    }
    captions = bank(Scripted(lambda request: answers[request.number, request.attempt]), tmp_path, 3, retries=2)
    second = captions[1]
    assert [caption.text for caption in captions] == [
        "A lake without anyone.",
        Template().write([combinations(read_sets(), 2, 0)[1]], [])[0],
        "A moor without anyone.",
    ]
    assert [caption.source for caption in captions] == ["llm", "fallback", "llm"]
    assert captions[0].refused == ("forbidden: bird",)
    assert second.refused == ("empty", "refusal", "forbidden: jays")
    assert captions[2].refused == ("duplicate",)
    report = captions.report()
    assert report.pop("seconds") >= 0
    assert report == {
        "n": 3,
        "distinct": 3,
        "combinations": 3,
        "sources": {"llm": 2, "fallback": 1},
        "first_try": 0,
        "refused": {"forbidden": 2, "empty": 1, "refusal": 1, "duplicate": 1},
        "fallbacks": {"forbidden": 1},
    }


def test_captions_depend_on_no_batch_and_no_length(tmp_path):
    whole = bank(Scripted(unreliable, batch_size=1), tmp_path / "one", 40)
    report = whole.report()
    assert report["fallbacks"]["duplicate"] > 3
    assert report["refused"]["forbidden"] > 3
    assert report["distinct"] == 40
    for size in (3, 16, 64):
        assert list(bank(Scripted(unreliable, size), tmp_path / str(size), 40)) == list(whole)
    for n in (7, 1, 23, 40):
        assert list(bank(Scripted(unreliable), tmp_path / "grown", n)) == list(whole[:n])


def test_a_bank_is_made_once(tmp_path):
    bank(Scripted(plain), tmp_path, 5)
    later = Scripted(plain)
    again = bank(later, tmp_path, 5)
    assert (later.asked, later.loaded) == ([], [])
    assert again.report()["seconds"] > 0
    bank(later, tmp_path, 8)
    assert later.asked == [(5, 0), (6, 0), (7, 0)]


@pytest.mark.parametrize("changed", [{"seed": 1}, {"classes": ["Finch"]}, {"superclasses": ["cat"]}, {"retries": 1}])
def test_another_bank_shares_nothing(tmp_path, changed):
    arguments = {"seed": 0, "classes": ["Blue Jay"], "superclasses": ["bird"], "folder": tmp_path, "retries": 3}
    make_captions(Scripted(plain), 2, **arguments)
    other = Scripted(plain)
    make_captions(other, 2, **{**arguments, **changed})
    assert len(other.asked) == 2


def test_a_killed_run_loses_the_batch_in_flight_only(tmp_path):
    def killed(request):
        if request.number == 9:
            raise KeyboardInterrupt
        return unreliable(request)

    with pytest.raises(KeyboardInterrupt):
        bank(Scripted(killed), tmp_path / "killed", 20)
    finisher = Scripted(unreliable)
    finished = bank(finisher, tmp_path / "killed", 20)
    assert min(finisher.asked) == (8, 0)
    assert list(finished) == list(bank(Scripted(unreliable), tmp_path / "whole", 20))


def test_a_torn_record_is_made_again(tmp_path):
    whole = list(bank(Scripted(unreliable), tmp_path, 12))
    (file,) = tmp_path.glob("*/records/*.jsonl")
    lines = [line for line in file.read_text().splitlines() if line]
    lines[5] = lines[5][:40]
    file.write_text("\n".join(lines))
    repairer = Scripted(unreliable)
    assert list(bank(repairer, tmp_path, 12)) == whole
    assert {number for number, _ in repairer.asked} == {5}


def test_two_at_once_ask_once(tmp_path):
    captioners = [Scripted(plain), Scripted(plain)]
    barrier = Barrier(2, timeout=30)

    def run(captioner):
        barrier.wait()
        return list(bank(captioner, tmp_path, 30))

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(run, captioners)
    assert first == second
    assert Counter(captioners[0].asked + captioners[1].asked) == Counter((number, 0) for number in range(30))


def test_more_captions_than_combinations_from_the_template(tmp_path):
    captions = bank(Template(), tmp_path, 705)
    report = captions.report()
    assert (report["n"], report["distinct"], report["sources"]) == (705, 702, {"template": 705})
    assert report["refused"] == {"duplicate": 3}  # no second attempt: it would say the same


def test_where_every_answer_is_the_same_no_second_attempt_is_made(tmp_path):
    captioner = Scripted(lambda request: "A lone jay.", samples=False)
    captions = bank(captioner, tmp_path, 2)
    assert captioner.asked == [(0, 0), (1, 0)]
    assert {caption.source for caption in captions} == {"fallback"}


def test_no_caption_has_the_name_of_a_class(tmp_path):
    captions = make_captions(Template(), 702, 0, ["beach", "lake"], [], tmp_path)
    assert not any("beach" in caption.text or "lake" in caption.text for caption in captions)
    assert captions.report()["combinations"] == 3 * 16 * 13


def test_a_plan_knows_what_is_written(tmp_path):
    captioner = Scripted(plain)
    made = bank(captioner, tmp_path, 2)
    planned = planned_captions(captioner, 3, 0, ["Blue Jay"], ["bird"], tmp_path)
    third = combinations(read_sets(), 3, 0)[2]
    assert planned == [(made[0].text, True), (made[1].text, True), (f"({third.spatial} {third.temporal})", False)]
    assert len(captioner.asked) == 2
    template = planned_captions(Template(), 705, 0, ["Blue Jay"], ["bird"], tmp_path / "none")
    assert template == [(caption.text, True) for caption in bank(Template(), tmp_path, 705)]
    assert not (tmp_path / "none").exists()


def test_what_cannot_be_is_refused(tmp_path):
    with pytest.raises(ValueError, match="retries must be at least 0"):
        bank(Template(), tmp_path, 1, retries=-1)
    with pytest.raises(ValueError, match="a wide view of .* cannot be used .* forbidden: view"):
        make_captions(Template(), 1, 0, ["view"], [], tmp_path)
    assert not list(tmp_path.iterdir())
    assert list(bank(Template(), tmp_path, 0)) == []

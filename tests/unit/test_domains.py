"""Domains: what a language model is asked, which of its lines count, and what is done when none does."""

from __future__ import annotations

import pytest

from genaug.captioning.base import Captioner
from genaug.captioning.domains import MOST, domains_in, find_domains, sampled, template_domains
from genaug.captioning.engine import forbidden_words
from genaug.captioning.template import Template

PREFIX, CLASSES, SUPERCLASSES = "a photo of a bird", ("Azure Jay", "Green Finch"), ("bird", "bird")
ANSWER = """Sure! Here are the captions:

1. A photo of a bird perched on a fence.
- "a photo of a bird flying over a lake, at dusk"
* a photo of a bird PERCHED on a fence
3) a photo of a jay in snow
a photo of a bird next to another bird
a photo of a bird
a photo of a bird in {this} place
a photo of birds at sea
"""


class Talker(Captioner):
    """Gives the next answer of a list; knows what it was asked."""

    def __init__(self, *answers: str, samples: bool = True) -> None:
        self.left, self.samples, self.asked, self.loaded = list(answers), samples, [], []

    @property
    def settings(self):
        return {}

    def write(self, requests, forbidden):
        raise AssertionError

    def ask(self, question, seed, max_tokens):
        self.asked.append((question, seed, max_tokens))
        return self.left.pop(0)

    def load(self, device):
        self.loaded.append(device)

    def unload(self):
        self.loaded.append("nowhere")


def find(captioner, folder, captions=("a bird on a twig",), seed=0):
    return find_domains(captioner, captions, PREFIX, CLASSES, SUPERCLASSES, seed, folder)


def test_lines_of_the_form_count_once_and_others_do_not():
    forbidden = forbidden_words(CLASSES, SUPERCLASSES)
    assert domains_in(ANSWER, PREFIX, forbidden) == [" perched on a fence", " flying over a lake, at dusk"]


def test_no_more_than_ten_are_taken():
    assert (
        len(domains_in("\n".join(f"a photo of a bird on rock {number}" for number in range(30)), PREFIX)) == MOST == 10
    )


def test_a_model_is_asked_once_about_twenty_different_captions(tmp_path):
    talker = Talker(ANSWER)
    captions = [f"a bird on twig {number % 30}" for number in range(300)]
    found = find(talker, tmp_path, captions)
    assert found.texts == (" perched on a fence", " flying over a lake, at dusk")
    assert (found.source, len(found.shown), len(set(found.shown))) == ("llm", 20, 20)
    ((question, _, tokens),) = talker.asked
    assert all(caption in question for caption in found.shown)
    assert (talker.loaded, tokens) == (["cpu", "nowhere"], 512)
    idle = Talker()
    assert find(idle, tmp_path, captions[::-1]) == found
    assert idle.loaded == []
    assert set(find(Talker(ANSWER), tmp_path, captions, seed=1).shown) != set(found.shown)


def test_an_answer_without_a_domain_is_asked_again_and_then_the_template_helps(tmp_path):
    talker = Talker("", "no captions", ANSWER)
    assert find(talker, tmp_path / "third").source == "llm"
    assert len({seed for _, seed, _ in talker.asked}) == 3
    found = find(Talker(*[""] * 4), tmp_path / "never")
    assert (found.source, list(found.texts)) == ("fallback", template_domains([], 0))
    assert find(Talker("", samples=False), tmp_path / "sure").source == "fallback"  # it would say the same again


def test_the_template_has_ten_places_and_looks_at_no_caption(tmp_path):
    found = find(Template(), tmp_path, captions=())
    assert (found.source, len({text.rpartition(" ")[0] for text in found.texts})) == ("template", 10)
    assert not list(tmp_path.iterdir())
    assert not any("forest" in text for text in template_domains(["forest"], 0))


def test_few_captions_are_all_shown():
    assert sorted(sampled(["b", "a", "b"], 0)) == ["a", "b"]


def test_the_template_answers_no_questions():
    with pytest.raises(NotImplementedError, match="no language model"):
        Template().ask("Why?", 0, 5)

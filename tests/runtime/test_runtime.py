"""The runtime agrees with the torch model in logits, log-probabilities and greedy text, and needs no torch."""

import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from headgate import InputError, LanguageModel, Runtime, native
from headgate.models.language_model import numpy_weights
from headgate.runs.checkpoint import Checkpoint
from headgate.runs.run_directory import RunDirectory
from headgate.runtime import runtime as runtime_module
from headgate.runtime import sampling as sampling_module
from headgate.runtime.sampling import Sampling
from headgate.settings.run import ModelSettings, Settings
from headgate.text.characters import ByteTokenizer, CharacterTokenizer
from headgate.text.tokenizer import DocumentTokenizer
from headgate.text.words import WordTokenizer
from tests.helpers.imports import BLOCKER

T, B, H = 5, 3, 9
TOKENIZER = CharacterTokenizer.from_text("abcdefg hi\n")
V = TOKENIZER.vocabulary_size

WITHOUT = SimpleNamespace(load=lambda: None, PRECISIONS=native.PRECISIONS, MISSING=native.MISSING)  # no native library

VARIANTS = {
    "one layer": ModelSettings(hidden_size=H, embedding=0, dropout=0.0),
    "before, single bias": ModelSettings(hidden_size=H, reset="before", bias="single", embedding=0, dropout=0.0),
    "before, three layers, embedding": ModelSettings(
        hidden_size=H, num_layers=3, embedding=4, reset="before", dropout=0.0
    ),
    "two layers": ModelSettings(hidden_size=H, num_layers=2, embedding=0, dropout=0.0),
    "tied": ModelSettings(hidden_size=H, num_layers=2, embedding=H, head="tied", dropout=0.0),
}


@pytest.fixture(autouse=True, params=["native", "numpy"])
def engine(request, monkeypatch) -> str:
    """With and without the native library."""
    if request.param == "numpy":
        monkeypatch.setattr(runtime_module, "native", WITHOUT)
    return request.param


def pair(settings: ModelSettings, tokenizer=TOKENIZER) -> tuple[LanguageModel, Runtime]:
    model = LanguageModel(settings, tokenizer.vocabulary_size).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)  # far from uniform, so that mistakes show
        if settings.head == "adaptive":  # so that clusters, and single ids in them, are often the most probable
            model.head.head.weight[-2:] *= 4
            for _, up in model.head.tail:
                up.weight *= 4
    return model, Runtime(numpy_weights(model), settings, tokenizer)


@pytest.mark.parametrize("variant", VARIANTS)
def test_steps_equal_those_of_the_model(variant: str) -> None:
    settings = VARIANTS[variant]
    model, runtime = pair(settings)
    tokens = torch.randint(V, (T, B))
    state = torch.randn(settings.num_layers, B, H) / 2
    with torch.no_grad():
        expected, expected_state = model(tokens, state)
    actual = state.numpy()
    for t in range(T):
        logits, actual = runtime.step(tokens[t].numpy(), actual)
        assert np.abs(logits - expected[t].numpy()).max() < 1e-5
        assert logits.dtype == actual.dtype == np.float32
    assert np.abs(actual - expected_state.numpy()).max() < 1e-6
    nats, after = runtime.losses(tokens[:-1].numpy(), tokens[1:].numpy(), state.numpy())
    log_p = expected.double().log_softmax(-1)[:-1].gather(2, tokens[1:, :, None])[:, :, 0]
    assert np.abs(nats + log_p.numpy()).max() < 1e-5
    assert after.shape == (settings.num_layers, B, H)


def test_documents_reset_the_state_as_in_the_model() -> None:
    """Many steps at once, one at a time, and without earlier input."""
    documents = DocumentTokenizer(TOKENIZER)
    settings = VARIANTS["before, three layers, embedding"]
    model, runtime = pair(settings, documents)
    model.document_id = documents.document_id
    tokens = torch.randint(V, (3 * T, B))
    for t, row in ((4, 0), (4, 2), (9, 2), (0, 1)):
        tokens[t, row] = documents.document_id
    state = torch.randn(settings.num_layers, B, H) / 2
    with torch.no_grad():
        expected, expected_state = model(tokens, state)
        nats = model.loss(tokens[:-1], tokens[1:], state, reduction="none")[0].view(3 * T - 1, B)
    assert np.abs(runtime.losses(tokens[:-1].numpy(), tokens[1:].numpy(), state.numpy())[0] - nats.numpy()).max() < 1e-5
    actual = state.numpy()
    for t in range(3 * T):
        logits, actual = runtime.step(tokens[t].numpy(), actual)
        assert np.abs(logits - expected[t].numpy()).max() < 1e-5
    assert np.abs(actual - expected_state.numpy()).max() < 1e-6
    with torch.no_grad():
        begun = model(torch.tensor([[documents.document_id]]))[0][-1]
        written = model(torch.tensor([[documents.document_id], *([i] for i in documents.encode("ab").tolist())]))[0][-1]
    assert np.abs(runtime.read("")[0] - begun.numpy()).max() < 1e-5
    assert np.abs(runtime.read("ab")[0] - written.numpy()).max() < 1e-5
    halves = runtime.read("b", runtime.read("a")[1])
    assert np.abs(halves[0] - written.numpy()).max() < 1e-5
    model.head.bias.data[documents.document_id] = 99.0  # the most probable id, if it were allowed
    assert "\ufffd" not in Runtime(numpy_weights(model), settings, documents).generate("a", 20)
    assert len(Runtime(numpy_weights(model), settings, documents).generate("a", 20)) == 21


def test_words_are_separated_by_spaces() -> None:
    """The continuation is joined to the prefix by a space between two words, but not after a line break or a space."""
    words = WordTokenizer(["to", "be", "or", "\n"])
    model, _ = pair(VARIANTS["one layer"], words)
    with torch.no_grad():
        model.head.bias[:] = torch.tensor([99.0, 50.0, 0.0, 0.0, 0.0])  # <unk>, which is never generated, then "to"
    runtime = Runtime(numpy_weights(model), VARIANTS["one layer"], words)
    for prefix, text in (
        ("be", "be to to"),
        ("be ", "be to to"),
        ("be\n", "be\nto to"),
        ("", "to to"),
        (" ", " to to"),
    ):
        assert runtime.generate(prefix, 2) == text
        assert runtime.beam_search(prefix, 2, 2)[0][0] == text


@pytest.mark.parametrize("variant", VARIANTS)
def test_greedy_text_and_scores(variant: str) -> None:
    model, runtime = pair(VARIANTS[variant])
    ids, state = TOKENIZER.encode("abc").tolist(), None
    with torch.no_grad():
        for t in range(3, 40):
            logits, state = model(torch.tensor(ids if t == 3 else ids[-1:])[:, None], state)
            logits[-1, 0, 0] = -math.inf  # <unk> is never generated
            ids.append(int(logits[-1, 0].argmax()))
    text = runtime.generate("abc", 37)
    assert text == TOKENIZER.decode(ids)
    with torch.no_grad():
        logits, _ = model(torch.tensor(ids[:-1])[:, None])
    expected = logits[:, 0].double().log_softmax(-1).gather(1, torch.tensor(ids[1:])[:, None])[:, 0]
    assert np.abs(runtime.log_probabilities(text) - expected.numpy()).max() < 1e-5


def test_the_comparison_detects_the_other_variant() -> None:
    """The comparison above would detect the other variant of the GRU."""
    model, _ = pair(ModelSettings(hidden_size=H, embedding=0, dropout=0.0))
    right = Runtime(numpy_weights(model), ModelSettings(hidden_size=H, embedding=0, dropout=0.0), TOKENIZER)
    wrong = Runtime(
        numpy_weights(model), ModelSettings(hidden_size=H, reset="before", embedding=0, dropout=0.0), TOKENIZER
    )
    assert np.abs(right.read("abcdef")[0] - wrong.read("abcdef")[0]).max() > 1e-3


def test_weights_are_copied_into_the_library_only(engine: str) -> None:
    model, runtime = pair(ModelSettings(hidden_size=H, embedding=0, dropout=0.0))
    before = runtime.read("abc")[0]
    with torch.no_grad():
        model.head.bias += 1
    assert np.allclose(runtime.read("abc")[0], before + (engine == "numpy"), atol=1e-6)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(),
        Sampling(temperature=0.8),
        Sampling(temperature=1.3, top_k=4),
        Sampling(temperature=1.3, top_p=0.7),
        Sampling(temperature=1.5, min_p=0.2),
        Sampling(repetition_penalty=1.5),
        Sampling(temperature=0.9, top_k=6, top_p=0.9, min_p=0.05, repetition_penalty=1.3),
    ],
    ids=str,
)
def test_the_library_draws_the_same_ids_as_numpy(monkeypatch, variant: str, sampling: Sampling) -> None:
    model, runtime = pair(VARIANTS[variant])
    texts = [runtime.generate("bad", 150, **vars(sampling), seed=3)]
    for threads in (1, 2):
        monkeypatch.undo()
        texts.append(
            Runtime(numpy_weights(model), VARIANTS[variant], TOKENIZER, threads=threads).generate(
                "bad", 150, **vars(sampling), seed=3
            )
        )
    monkeypatch.setattr(runtime_module, "native", WITHOUT)
    texts.append(
        Runtime(numpy_weights(model), VARIANTS[variant], TOKENIZER).generate("bad", 150, **vars(sampling), seed=3)
    )
    assert len(texts[0]) == 153
    assert len(set(texts)) == 1


@pytest.mark.parametrize("variant", VARIANTS)
def test_weights_in_fewer_bits(engine: str, variant: str) -> None:
    """Weights are rounded as the format prescribes, and the computation is otherwise the same."""
    settings, ids = VARIANTS[variant], np.array([1, 4, 2, 7])
    model, exact = pair(settings)
    if engine == "numpy":
        with pytest.raises(
            InputError, match="weights in int8 need the native library: the compiled library is missing"
        ):
            Runtime(numpy_weights(model), settings, TOKENIZER, precision="int8")
        return
    state = np.random.default_rng(0).normal(size=(settings.num_layers, 4, H)).astype(np.float32) / 2
    untied, head = settings, {}
    if settings.head == "tied":  # rounded as the head, not as the embedding
        untied, head = replace(settings, head="linear"), {"head.weight": numpy_weights(model)["embedding.weight"]}
    for precision in ("bfloat16", "int8"):
        weights = {}
        for name, value in (numpy_weights(model) | head).items():
            if (
                "weight" in name
                and "embedding" not in name
                and not (name == "gru.weight_ih_l0" and not settings.embedding)
            ):
                step = np.abs(value).max(1, keepdims=True) / 127
                whole = np.rint(value / step) * step
                value = torch.from_numpy(value).bfloat16().float().numpy() if precision == "bfloat16" else whole
            weights[name] = value.astype(np.float32)
        rounded = Runtime(weights, untied, TOKENIZER)
        actual = Runtime(numpy_weights(model), settings, TOKENIZER, precision=precision)
        expected, expected_state = rounded.step(ids, state)
        logits, new = actual.step(ids, state)
        assert np.abs(logits - expected).max() < 1e-5 < np.abs(logits - exact.step(ids, state)[0]).max()
        assert np.abs(new - expected_state).max() < 1e-6
    with pytest.raises(InputError, match="precision must be one of float32, bfloat16, int8, got 'int4'"):
        Runtime(numpy_weights(model), settings, TOKENIZER, precision="int4")


# A vocabulary for adaptive heads. Both clusters affect the values compared: see pair().
WIDE = CharacterTokenizer.from_text("".join(map(chr, range(0x4E00, 0x4E00 + 1010))))
ADAPTIVE = [
    ModelSettings(hidden_size=37, num_layers=2, embedding=6, head="adaptive", dropout=0.0),
    ModelSettings(hidden_size=33, embedding=0, reset="before", bias="single", head="adaptive", dropout=0.0),
]


@pytest.mark.parametrize("settings", ADAPTIVE, ids=["two layers", "one-hot"])
def test_adaptive_head(monkeypatch, settings: ModelSettings) -> None:
    """step, read, losses, score, beam and text agree with the model, even if losses are computed in parts."""
    model, runtime = pair(settings, WIDE)
    tokens = torch.randint(WIDE.vocabulary_size, (T, B))
    state = torch.randn(settings.num_layers, B, settings.hidden_size) / 2
    with torch.no_grad():
        expected, expected_state = model(tokens, state)
    actual = state.numpy()
    for t in range(T):
        logits, actual = runtime.step(tokens[t].numpy(), actual)
        assert np.abs(logits - expected[t].numpy()).max() < 2e-5
        assert logits.dtype == actual.dtype == np.float32
    assert np.abs(actual - expected_state.numpy()).max() < 1e-6
    log_p = expected[:-1].gather(2, tokens[1:, :, None])[:, :, 0].numpy()
    nats, after = runtime.losses(tokens[:-1].numpy(), tokens[1:].numpy(), state.numpy())
    assert np.abs(nats + log_p).max() < 2e-5
    monkeypatch.setattr(runtime_module, "LOGITS", 5 * WIDE.vocabulary_size)
    parts, _ = runtime.losses(tokens[:-1].numpy(), tokens[1:].numpy(), state.numpy())
    assert np.abs(parts - nats).max() < 2e-5
    assert after.shape == state.shape

    prefix = WIDE.decode([5, 300, 900])
    ids, at = WIDE.encode(prefix).tolist(), None
    with torch.no_grad():
        for t in range(3, 20):
            logits, at = model(torch.tensor(ids if t == 3 else ids[-1:])[:, None], at)
            logits[-1, 0, 0] = -math.inf
            ids.append(int(logits[-1, 0].argmax()))
        logits, _ = model(torch.tensor(ids[:-1])[:, None])
    text = runtime.generate(prefix, 17)
    assert text == WIDE.decode(ids)
    assert (
        max(ids[3:]) >= 63 or settings.num_layers == 1
    )  # not from the shortlist alone; score() used clusters in any case
    each = logits[:, 0].gather(1, torch.tensor(ids[1:])[:, None])[:, 0].numpy()
    assert np.abs(runtime.log_probabilities(text) - each).max() < 2e-5
    best, nats = runtime.beam_search(prefix, 1, width=2)[0]
    assert best == text[:4]
    assert nats == pytest.approx(each[2] - np.log1p(-np.exp(float(logits[2, 0, 0]))), abs=2e-5)  # <unk> is forbidden


def test_adaptive_text_is_the_same_without_the_library(monkeypatch) -> None:
    model, runtime = pair(ADAPTIVE[0], WIDE)
    sampling = Sampling(temperature=0.9, top_p=0.9, repetition_penalty=1.2)
    texts = [runtime.generate(WIDE.decode([7]), 60, **vars(sampling), seed=3)]
    monkeypatch.setattr(runtime_module, "native", WITHOUT)
    texts.append(
        Runtime(numpy_weights(model), ADAPTIVE[0], WIDE).generate(WIDE.decode([7]), 60, **vars(sampling), seed=3)
    )
    assert len(texts[0]) == 61
    assert len(set(texts)) == 1


def test_an_adaptive_head_in_fewer_bits(engine: str) -> None:
    """The shortlist is rounded like the recurrence, the clusters are not."""
    settings, ids = ADAPTIVE[0], np.array([1, 400, 2, 700])
    model, exact = pair(settings, WIDE)
    if engine == "numpy":
        return
    state = np.random.default_rng(0).normal(size=(2, 4, settings.hidden_size)).astype(np.float32) / 2
    weights = {
        name: value if "embedding" in name or "tail" in name or "bias" in name
        else torch.from_numpy(value).bfloat16().float().numpy()
        for name, value in numpy_weights(model).items()
    }  # fmt: skip
    expected, _ = Runtime(weights, settings, WIDE).step(ids, state)
    logits, _ = Runtime(numpy_weights(model), settings, WIDE, precision="bfloat16").step(ids, state)
    assert np.abs(logits - expected).max() < 1e-5 < np.abs(logits - exact.step(ids, state)[0]).max()
    logits, _ = Runtime(numpy_weights(model), settings, WIDE, precision="int8").step(ids, state)
    assert 1e-5 < np.abs(logits - exact.step(ids, state)[0]).max() < 0.5


def test_losses_never_hold_all_logits(monkeypatch) -> None:
    """Losses computed in parts are the same."""
    _, runtime = pair(ModelSettings(hidden_size=H, embedding=0, dropout=0.0))
    ids, sizes = np.random.default_rng(0).integers(V, size=(T, B, 2)), []

    def counted(logits: np.ndarray) -> np.ndarray:
        sizes.append(logits.size)
        return sampling_module.log_softmax(logits)

    monkeypatch.setattr(runtime_module, "log_softmax", counted)
    whole, state = runtime.losses(ids[..., 0], ids[..., 1], None)
    monkeypatch.setattr(runtime_module, "LOGITS", 4 * V + 1)
    parts, after = runtime.losses(ids[..., 0], ids[..., 1], None)
    assert sizes == [T * B * V, *[4 * V] * 3, 3 * V]
    assert np.abs(parts - whole).max() < 1e-6
    assert whole.shape == (T, B)
    assert np.array_equal(state, after)


def test_ids_out_of_range_are_refused() -> None:
    _, runtime = pair(ModelSettings(hidden_size=H, embedding=0, dropout=0.0))
    for wrong in (-1, V):
        with pytest.raises(IndexError):
            runtime.step(np.array([wrong]), runtime.initial_state())


def test_stream_yields_the_whole_text() -> None:
    _, runtime = pair(ModelSettings(hidden_size=H, embedding=0, dropout=0.0))
    sampling = Sampling(temperature=0.8, top_k=5, repetition_penalty=1.2)
    pieces = list(runtime.stream("ab", 30, **vars(sampling), seed=5))
    assert len(pieces) == 30
    assert "ab" + "".join(pieces) == runtime.generate("ab", 30, **vars(sampling), seed=5)
    assert runtime.generate("ab", 30, **vars(sampling), seed=5) != runtime.generate("ab", 30, **vars(sampling), seed=6)


def test_sampling_parameters_affect_the_text() -> None:
    """Each id is drawn from the logits of the text so far, and the penalty covers all of it, with the prefix."""
    _, runtime = pair(ModelSettings(hidden_size=H, embedding=0, dropout=0.0))
    sampling, generator = Sampling(repetition_penalty=3.0, temperature=0.7, min_p=0.05), np.random.default_rng(8)
    text = "ab"
    for _ in range(20):
        logits = runtime.read(text)[0][0]
        logits[0] = -np.inf  # <unk> is never generated
        text += TOKENIZER.decode([sampling.choose(logits, generator.random(), TOKENIZER.encode(text).tolist())])
    assert runtime.generate("ab", 20, **vars(sampling), seed=8) == text


def test_unknown_characters_are_named_once() -> None:
    _, runtime = pair(ModelSettings(hidden_size=H, embedding=0, dropout=0.0))
    with pytest.warns(UserWarning, match="not in the vocabulary, read as '\N{REPLACEMENT CHARACTER}': X Y") as caught:
        text = runtime.generate("aXbYX", 4)
    assert len(caught) == 1
    assert text.startswith("aXbYX")
    assert "\N{REPLACEMENT CHARACTER}" not in text


def test_unknown_characters_without_unk() -> None:
    tokenizer = CharacterTokenizer.from_text("ab cd", unknown=False)
    _, runtime = pair(ModelSettings(hidden_size=H, embedding=0, dropout=0.0), tokenizer)
    with pytest.warns(UserWarning, match="read as ' ': X"):
        assert runtime.generate("aXb", 6)[3:] == runtime.generate("a b", 6)[3:]


def test_no_prefix() -> None:
    _, runtime = pair(ModelSettings(hidden_size=H, embedding=0, dropout=0.0))
    assert runtime.generate("", 6) == runtime.generate("\n", 6)[1:]


def test_characters_are_never_split() -> None:
    model, runtime = pair(ModelSettings(hidden_size=H, embedding=0, dropout=0.0), ByteTokenizer())
    with torch.no_grad():
        model.head.weight.zero_()
        model.head.bias.fill_(-50)
        for byte in "水é".encode():
            model.head.bias[byte] = 0.0  # a mixture of lead and continuation bytes
    runtime = Runtime(numpy_weights(model), runtime.settings, runtime.tokenizer)
    pieces = list(runtime.stream("水", 200, temperature=1.0, seed=1))
    whole = "".join(pieces)
    assert whole.encode("utf-8").decode("utf-8") == whole
    assert "水" in whole or "é" in whole


def test_beam_finds_what_greedy_misses() -> None:
    model, runtime = pair(ModelSettings(hidden_size=H, embedding=0, dropout=0.0))
    with torch.no_grad():
        model.head.bias[0] = -100.0  # <unk> is never generated; otherwise its share would be missing from the scores
    runtime = Runtime(numpy_weights(model), runtime.settings, runtime.tokenizer)
    greedy = runtime.generate("ab", 8)
    result = runtime.beam_search("ab", 8, width=16)
    assert result[0][1] >= float(runtime.log_probabilities(greedy)[1:].sum()) - 1e-9
    for text, score in result:
        assert float(runtime.log_probabilities(text)[1:].sum()) == pytest.approx(score, abs=1e-4)
    assert runtime.beam_search("ab", 8, width=1)[0][0] == greedy


def save_run(path: Path, settings: ModelSettings) -> LanguageModel:
    model, _ = pair(settings)
    run = RunDirectory.create(path, Settings(model=settings), TOKENIZER, {})
    run.save(Checkpoint(1, {"weights": numpy_weights(model)}, {}))
    return model


def test_load_without_torch(tmp_path: Path) -> None:
    model = save_run(tmp_path / "run", ModelSettings(hidden_size=H, num_layers=2, embedding=0, dropout=0.0))
    expected = Runtime(
        numpy_weights(model), ModelSettings(hidden_size=H, num_layers=2, embedding=0, dropout=0.0), TOKENIZER
    ).generate("abc", 20)
    call = f"Runtime.load({str(tmp_path / 'run')!r}).generate('abc', 20)"
    code = f"{BLOCKER}\nfrom headgate import Runtime\nprint(repr({call}))"
    actual = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert actual.strip() == repr(expected)


def test_weights_of_another_vocabulary_are_refused(tmp_path: Path) -> None:
    save_run(tmp_path / "run", ModelSettings(hidden_size=H, embedding=0, dropout=0.0))
    other = CharacterTokenizer.from_text("abcdefg")
    (tmp_path / "run" / "tokenizer.json").write_text(json.dumps(other.to_json()))
    with pytest.raises(
        InputError, match=r"head.weight has shape \(12, 9\), but config.json and a vocabulary of 8 need"
    ):
        Runtime.load(tmp_path / "run")


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    save_run(tmp_path / "run", ModelSettings(hidden_size=H, embedding=0, dropout=0.0))
    run = RunDirectory.open(tmp_path / "run")
    run.settings = run.settings.replaced(num_layers=2)
    run.write_settings()
    with pytest.raises(InputError, match=r"the weights and config.json disagree about gru.bias_hh_l1, gru.bias_ih_l1"):
        Runtime.load(tmp_path / "run")


@pytest.mark.parametrize(
    ("head", "other", "names"),
    [
        ("tied", "linear", "head.weight"),
        ("linear", "tied", "head.weight"),
        (
            "linear",
            "adaptive",
            "head.bias, head.head.weight, head.tail.0.0.weight, head.tail.0.1.weight, head.tail.1.0",
        ),
    ],
)
def test_weights_of_another_head_are_refused(head: str, other: str, names: str) -> None:
    settings = ModelSettings(hidden_size=16, embedding=16, head=head, dropout=0.0)
    weights = numpy_weights(LanguageModel(settings, WIDE.vocabulary_size))
    with pytest.raises(InputError, match=f"the weights and config.json disagree about {names}"):
        Runtime(weights, replace(settings, head=other), WIDE)


def test_a_text_too_short_to_score_is_refused() -> None:
    _, runtime = pair(ModelSettings(hidden_size=H, embedding=0, dropout=0.0))
    with pytest.raises(InputError, match=r"^scoring needs a text of at least two tokens, got 1$"):
        runtime.log_probabilities("a")

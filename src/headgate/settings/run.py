"""The settings of a run, each with its default, help text and bounds, for the command line and files alike."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from headgate.errors import InputError, suggest
from headgate.settings.field import BACKENDS, LARGEST, invalid_values, setting

PRECISIONS = ("float32", "bfloat16", "float16")
TOKENIZERS = ("characters", "bytes", "words", "subwords")


@dataclass(frozen=True)
class TextSettings:
    """Settings of how a text is read, tokenized and split."""

    corpus: str = setting("voyage", "path, '-' for standard input, or the name of a corpus")
    encoding: str = setting("utf-8", "encoding of the text")
    normalize: str = setting(
        "keep",
        "keep: unchanged; spaces: line breaks become spaces; letters: lower-case a-z, other characters become one "
        "space, lines are joined without one (the textbook's preparation of The Time Machine)",
        choices=("keep", "spaces", "letters"),
    )
    limit: int = setting(0, "use only the first N characters; 0: all", low=0)
    documents: str = setting(
        "one",
        "one: the corpus is one text; files, lines: each file or non-empty line is a document, and the state is reset "
        "at its start",
        choices=("one", "files", "lines"),
    )
    tokenizer: str = setting("characters", "what a token is; words are separated by spaces", choices=TOKENIZERS)
    vocab_size: int = setting(8000, "size of the vocabulary of --tokenizer subwords", low=257)
    min_frequency: int = setting(1, "characters or words that occur fewer than N times become <unk>", low=1)
    unknown: bool = setting(True, "add <unk> to a vocabulary of characters; without it, unknown ones become spaces")
    validation_fraction: float = setting(
        0.1, "fraction of the text, at its end, held out from training; 0: none", low=0.0
    )


@dataclass(frozen=True)
class ModelSettings:
    """Settings of a GRU language model, apart from its vocabulary."""

    hidden_size: int = setting(256, "units per layer", low=1)
    num_layers: int = setting(1, "GRU layers", low=1)
    embedding: int = setting(128, "size of the embedding; 0: one-hot input", low=0)
    dropout: float = setting(
        0.2, "dropout probability after the embedding, between layers and before the head", low=0.0, below=1.0
    )
    reset: str = setting(
        "after", "reset gate after (as in torch.nn.GRU) or before the matrix product", choices=("after", "before")
    )
    bias: str = setting("double", "biases per gate: double as in torch.nn.GRU", choices=("double", "single"))
    initialization: str = setting(
        "uniform",
        "uniform: as torch.nn.GRU and torch.nn.Linear; normal: N(0, 0.01) weights and zero biases",
        choices=("uniform", "normal"),
    )
    head: str = setting(
        "linear",
        "linear; tied: uses the embedding's weights, of size --hidden-size; adaptive: adaptive softmax, for "
        "vocabularies of thousands with the most frequent ids first",
        choices=("linear", "tied", "adaptive"),
    )

    def head_problem(self) -> str:
        """Return why the head does not fit the sizes and what to do, or "" if it fits."""
        if self.head == "tied" and self.embedding != self.hidden_size:
            return (
                "head = tied uses the embedding's weights, so embedding must equal hidden_size, got embedding = "
                f"{self.embedding} and hidden_size = {self.hidden_size}: set embedding to {self.hidden_size}, or use "
                "another head"
            )
        if self.head == "adaptive" and type(self.hidden_size) is int and self.hidden_size < 16:
            return (
                f"head = adaptive needs hidden_size to be at least 16, got {self.hidden_size}: use more units or "
                "another head"
            )
        return ""


@dataclass(frozen=True)
class TrainingSettings:
    """Settings of training and of what a run reports."""

    epochs: int = setting(24, "passes over the text", low=1)
    batch_size: int = setting(32, "sequences per step", low=1)
    sequence_length: int = setting(64, "time steps per sequence", low=1)
    accumulate: int = setting(
        1, "split each batch into N parts, computed one after the other: the same steps in less memory", low=1
    )
    partition: str = setting(
        "sequential", "sequential: state carried along the text; random: state reset", choices=("sequential", "random")
    )
    random_offset: bool = setting(
        True, "skip a random number of tokens, at most --sequence-length, at the start of each epoch"
    )
    optimizer: str = setting("adamw", "optimizer", choices=("sgd", "adam", "adamw"))
    learning_rate: float = setting(0.004, "(peak) learning rate", low=0.0)
    momentum: float = setting(0.0, "momentum of sgd", low=0.0)
    weight_decay: float = setting(0.0, "weight decay", low=0.0)
    schedule: str = setting(
        "cosine",
        "schedule of the learning rate; plateau: halved after --plateau epochs without a better held-out loss",
        choices=("constant", "cosine", "plateau"),
    )
    warmup: int = setting(0, "optimizer steps of linear warm-up", low=0)
    plateau: int = setting(3, "epochs without improvement before --schedule plateau halves the learning rate", low=1)
    clip: float = setting(1.0, "maximum gradient norm; 0: no clipping", low=0.0)
    patience: int = setting(0, "stop after N epochs without a better held-out loss; 0: never", low=0)
    seed: int = setting(0, "random seed", low=0)
    device: str = setting("cpu", "device to compute on: cuda and mps are GPUs", choices=("cpu", "cuda", "mps"))
    precision: str = setting(
        "float32", "on a GPU: float32, or mixed precision with one of the others", choices=PRECISIONS
    )
    threads: int = setting(0, "number of threads; 0: one per processor", low=0, below=1025)
    backend: str = setting("auto", "implementation of the GRU", choices=BACKENDS)
    max_steps: int = setting(0, "stop, resumably, after N optimizer steps in total; 0: after --epochs", low=0)
    report_every: int = setting(500, "report every N steps and at the end of each epoch", low=1)
    checkpoint_every: int = setting(0, "steps between checkpoints; 0: one per minute", low=0)
    tensorboard: bool = setting(False, "also write the reports to events/ of the run, for TensorBoard")
    sample_every: int = setting(10, "epochs between samples of generated text; 0: none", low=0)
    sample_length: int = setting(50, "characters per sample", low=1)
    sample_temperature: float = setting(0.7, "temperature of the samples; 0: always the most probable token", low=0.0)
    sample_prefixes: tuple[str, ...] = setting((), "start of a sample; none: the text's first words")


# Settings that may change when a run is continued: the steps before would have computed the same.
CHANGEABLE = (
    "epochs",
    "max_steps",
    "report_every",
    "checkpoint_every",
    "tensorboard",
    "sample_every",
    "sample_length",
    "sample_temperature",
    "sample_prefixes",
)


@dataclass(frozen=True)
class Settings:
    """All settings of a run; ``Settings()`` is the default language model on the bundled tale.

    Parameters
    ----------
    text : TextSettings
        How the text is read, tokenized and split.
    model : ModelSettings
        Sizes and variants of the language model.
    training : TrainingSettings
        How it is trained, and what the run reports.

    Raises
    ------
    InputError
        If values are invalid or contradict each other; the message names all of them.

    Examples
    --------
    >>> settings = Settings().replaced(hidden_size=64, epochs=3)
    >>> settings.model.hidden_size, settings.training.epochs
    (64, 3)
    """

    text: TextSettings = TextSettings()
    model: ModelSettings = ModelSettings()
    training: TrainingSettings = TrainingSettings()

    def __post_init__(self) -> None:
        wrong = [w for section in (self.text, self.model, self.training) for w in invalid_values(section)]
        fraction = self.text.validation_fraction
        if type(fraction) is float and fraction > 0.5:
            wrong.append(f"validation_fraction must be at most 0.5, got {fraction}")
        if self.training.precision in PRECISIONS[1:] and self.training.device == "cpu":
            wrong.append(f"precision {self.training.precision} is for device cuda or mps: a CPU computes in float32")
        if head_problem := self.model.head_problem():
            wrong.append(head_problem)
        if self.training.learning_rate == 0:
            wrong.append("learning_rate must be above 0, got 0")
        if fraction == 0 and (self.training.patience or self.training.schedule == "plateau"):
            wrong.append("patience and schedule = plateau need a held-out part: validation_fraction must be above 0")
        if wrong:
            raise InputError("; ".join(wrong))

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """Return the settings as dictionaries, which ``from_tables`` reads.

        Returns
        -------
        dict
            The sections text, model and training, each with its settings by name.
        """
        return dataclasses.asdict(self)

    def replaced(self, **values: Any) -> "Settings":
        """Return a copy with some settings changed.

        Parameters
        ----------
        **values
            The new values by the names of the settings, without their sections.

        Returns
        -------
        Settings
            The copy.

        Raises
        ------
        InputError
            If a name is unknown or a value is invalid.

        Examples
        --------
        >>> Settings().replaced(dropout=0.5).model.dropout
        0.5
        """
        sections = {}
        for section in SECTIONS:
            names = {f.name for f in dataclasses.fields(SECTIONS[section])}
            changes = {k: values.pop(k) for k in list(values) if k in names}
            sections[section] = dataclasses.replace(getattr(self, section), **changes)
        if values:
            known = [f.name for kind in SECTIONS.values() for f in dataclasses.fields(kind)]
            raise InputError("; ".join(f"unknown setting {k!r}: {suggest(k, known)}" for k in values))
        return Settings(**sections)


def without_effect(given: Mapping[str, Any], settings: Settings) -> list[str]:
    """Return a message for each of the ``given`` settings that has no effect in ``settings``.

    >>> without_effect({"momentum": 0.9}, Settings())
    ['--momentum does nothing unless --optimizer is sgd: omit it, or set that']
    """
    text, training = settings.text, settings.training
    idle = (  # name, value equivalent to omitting it, whether it has an effect, what it needs
        ("vocab_size", None, text.tokenizer == "subwords", "--tokenizer is subwords"),
        ("min_frequency", 1, text.tokenizer in ("characters", "words"), "--tokenizer is characters or words"),
        ("unknown", None, text.tokenizer == "characters", "--tokenizer is characters"),
        ("random_offset", True, training.partition == "sequential", "--partition is sequential"),
        ("momentum", 0.0, training.optimizer == "sgd", "--optimizer is sgd"),
        ("plateau", None, training.schedule == "plateau", "--schedule is plateau"),
        ("sample_length", None, training.sample_every > 0, "--sample-every is above 0"),
        ("sample_temperature", None, training.sample_every > 0, "--sample-every is above 0"),
    )
    return [
        f"--{name.replace('_', '-')} does nothing unless {needs}: omit it, or set that"
        for name, harmless, active, needs in idle
        if name in given and not active and given[name] != harmless
    ]


SECTIONS: dict[str, type] = {"text": TextSettings, "model": ModelSettings, "training": TrainingSettings}


def from_tables(tables: Mapping[str, Any], where: str) -> Settings:
    """Return the settings in tables named text, model and training, as in config.json.

    Raises one InputError that names the source, ``where``, and every unknown key and invalid value.

    >>> from_tables({"model": {"hidden_size": 8}}, "an example").model.hidden_size
    8
    """
    wrong, sections = [], {}
    for section, kind in SECTIONS.items():
        table = tables.get(section, {})
        if not isinstance(table, Mapping):
            wrong.append(f"{section} must be a table, got {table!r}")
            continue
        fields = {f.name: f for f in dataclasses.fields(kind)}
        wrong += [f"unknown key {k!r} in [{section}]: {suggest(k, fields)}" for k in table if k not in fields]
        known = {k: tuple(v) if isinstance(v, list) else v for k, v in table.items() if k in fields}
        known = {
            k: float(v) if fields[k].type is float and type(v) is int and abs(v) <= LARGEST else v
            for k, v in known.items()
        }
        sections[section] = kind(**known)
    try:
        settings = Settings(**sections)
    except InputError as error:
        wrong.append(str(error))
    if wrong:
        raise InputError(f"{where}: {'; '.join(wrong)}")
    return settings

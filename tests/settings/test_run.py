"""Settings from tables and by name: all invalid ones are named at once, and valid ones are unchanged."""

import dataclasses
import json
import math
import typing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headgate.errors import InputError, suggest
from headgate.settings.run import (
    CHANGEABLE,
    SECTIONS,
    ModelSettings,
    Settings,
    TextSettings,
    TrainingSettings,
    from_tables,
)

thorough = settings(deadline=None, max_examples=200)
FIELDS = {(section, f.name): f for section, kind in SECTIONS.items() for f in dataclasses.fields(kind)}
KINDS = {(section, name): typing.get_type_hints(SECTIONS[section])[name] for section, name in FIELDS}
WORDS = {int: "a whole number", float: "a number", str: "a string", bool: "true or false"}
# for each type, wrong values that a file may hold
MISTAKES = {
    int: (True, 2.0, "2", None, [2]),
    float: (True, "0.5", None, [0.5], {}),
    str: (3, True, None, {}),
    bool: (0, 1, "yes", None),
    tuple[str, ...]: ("text", 3, ["a", 3], None),
}


def of_kind(*kinds):
    """Parametrize a test by the settings of these types."""
    return pytest.mark.parametrize(
        ("section", "name"), [key for key in FIELDS if KINDS[key] in kinds], ids=lambda value: value
    )


def message_of(tables) -> str:
    with pytest.raises(InputError) as caught:
        from_tables(tables, "some file")
    return str(caught.value)


def settings_or_message(tables) -> tuple[Settings | None, str]:
    try:
        return from_tables(tables, "some file"), ""
    except InputError as error:
        return None, str(error)


def complaint(section: str, name: str, value) -> str:
    if KINDS[section, name] == tuple[str, ...]:
        return f"{name} must be a list of strings, got {tuple(value) if isinstance(value, list) else value!r}"
    shown = tuple(value) if isinstance(value, list) else value
    return f"{name} must be {WORDS[KINDS[section, name]]}, got {shown!r}"


def test_the_defaults_are_valid():
    assert from_tables({}, "nothing") == Settings()
    assert Settings().text.corpus == "voyage"


def test_settings_have_unique_names_and_a_help_text():
    names = [name for _, name in FIELDS]
    assert len(set(names)) == len(names)
    assert all(f.metadata["help"] for f in FIELDS.values())
    assert set(CHANGEABLE) <= {f.name for f in dataclasses.fields(TrainingSettings)}


# Types


@pytest.mark.parametrize(
    ("section", "name", "value"),
    [(section, name, value) for (section, name), kind in KINDS.items() for value in MISTAKES[kind]],
)
def test_a_value_of_another_type_is_refused(section, name, value):
    first, *others = message_of({section: {name: value}}).removeprefix("some file: ").split("; ")
    assert first == complaint(section, name, value)
    assert all(other.startswith(name) for other in others)


def test_all_wrong_types_are_named_in_one_message():
    tables: dict[str, dict] = {section: {} for section in SECTIONS}
    for (section, name), kind in KINDS.items():
        tables[section][name] = MISTAKES[kind][0]
    message = message_of(tables)
    assert message.startswith("some file: corpus must be a string, got 3; encoding must be a string, got 3; ")
    for section, name in FIELDS:
        assert complaint(section, name, tables[section][name]) in message.removeprefix("some file: ").split("; ")


def test_a_wrong_section_does_not_hide_the_others():
    assert message_of({"text": 5, "model": {"hiden": 1, "num_layers": 0}, "training": {"batch_size": "x"}}) == (
        "some file: text must be a table, got 5; unknown key 'hiden' in [model]: did you mean hidden_size?; "
        "num_layers must be at least 1 and finite, got 0; batch_size must be a whole number, got 'x'"
    )


@of_kind(float)
def test_a_whole_number_in_a_table_is_a_number(section, name):
    value = 0 if name in ("validation_fraction", "dropout") else 1  # these must be less than 1
    number = getattr(getattr(from_tables({section: {name: value}}, "x"), section), name)
    assert type(number) is float
    assert number == value


@of_kind(tuple[str, ...])
def test_a_list_in_a_table_is_a_tuple(section, name):
    assert getattr(getattr(from_tables({section: {name: ["分开", "b"]}}, "x"), section), name) == ("分开", "b")


# Bounds


@of_kind(float)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_values_that_are_not_finite_are_refused(section, name, value):
    assert f"{name} must be at least {FIELDS[section, name].metadata['low']:g} and finite, got {value}" in message_of(
        {section: {name: value}}
    )


@of_kind(int, float)
def test_values_below_the_bound_are_refused(section, name):
    low = FIELDS[section, name].metadata["low"]
    kind = KINDS[section, name]
    below = low - 1 if kind is int else math.nextafter(low, -1)
    assert message_of({section: {name: below}}) == f"some file: {name} must be at least {low:g} and finite, got {below}"
    if name != "learning_rate":
        assert getattr(getattr(from_tables({section: {name: kind(low)}}, "x"), section), name) == low


@pytest.mark.parametrize("value", [10**400, -(10**400)], ids=["large", "small"])
@pytest.mark.parametrize("kind", [int, float])
def test_numbers_too_large_for_a_float_are_refused(kind, value):
    for section, name in [key for key in FIELDS if KINDS[key] is kind]:
        result, message = settings_or_message({section: {name: value}})
        assert result is None
        assert message.startswith(f"some file: {name} must be ")


@of_kind(str)
def test_only_choices_are_accepted(section, name):
    choices = FIELDS[section, name].metadata["choices"]
    for choice in choices or ("anything", "分开"):
        with_it = {"tied": {"embedding": 256}, "bfloat16": {"device": "cuda"}, "float16": {"device": "cuda"}}.get(
            choice, {}
        )
        tables = {section: {name: choice, **with_it}}
        assert getattr(getattr(from_tables(tables, "x"), section), name) == choice
    if choices:
        assert message_of({section: {name: "sideways"}}) == (
            f"some file: {name} must be one of {', '.join(choices)}, got 'sideways'"
        )


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ({"text": {"validation_fraction": 0.51}}, "validation_fraction must be at most 0.5, got 0.51"),
        ({"model": {"dropout": 1.0}}, "dropout must be below 1, got 1.0"),
        ({"training": {"threads": 1025}}, "threads must be below 1025, got 1025"),
        (
            {"training": {"precision": "bfloat16"}},
            "precision bfloat16 is for device cuda or mps: a CPU computes in float32",
        ),
        ({"training": {"learning_rate": 0}}, "learning_rate must be above 0, got 0"),
        (
            {"text": {"validation_fraction": 0}, "training": {"patience": 2}},
            "patience and schedule = plateau need a held-out part: validation_fraction must be above 0",
        ),
        (
            {"text": {"validation_fraction": 0}, "training": {"schedule": "plateau"}},
            "patience and schedule = plateau need a held-out part: validation_fraction must be above 0",
        ),
    ],
)
def test_contradicting_settings_are_refused(tables, message):
    assert message_of(tables) == f"some file: {message}"


def test_values_just_below_their_bounds_are_accepted():
    result = from_tables({"text": {"validation_fraction": 0.5}, "model": {"dropout": 0.999}}, "x")
    assert (result.text.validation_fraction, result.model.dropout) == (0.5, 0.999)
    assert from_tables({"text": {"validation_fraction": 0.1}, "training": {"patience": 2}}, "x").training.patience == 2


# Names


def test_an_unknown_key_suggests_the_nearest():
    assert message_of({"training": {"learning-rate": 0.1, "zzz": 1}, "model": {"reest": "after"}}) == (
        "some file: unknown key 'reest' in [model]: did you mean reset?; "
        "unknown key 'learning-rate' in [training]: did you mean learning_rate?; "
        "unknown key 'zzz' in [training]: known: "
        + ", ".join(sorted(f.name for f in dataclasses.fields(TrainingSettings)))
    )


def test_nearest_names_at_most_three_or_all():
    assert suggest("steps", ["steps", "step", "stepss", "stepsss"]) == "did you mean steps or stepss or step?"
    assert suggest("q", ["b", "a"]) == "known: a, b"


# Copies and round trips


def test_replaced_changes_the_named_settings_only():
    before = Settings(TextSettings(limit=70), ModelSettings(hidden_size=8), TrainingSettings(seed=3))
    after = before.replaced(hidden_size=9, sequence_length=4, normalize="spaces", sample_prefixes=("a",))
    assert after == Settings(
        TextSettings(limit=70, normalize="spaces"),
        ModelSettings(hidden_size=9),
        TrainingSettings(seed=3, sequence_length=4, sample_prefixes=("a",)),
    )
    assert before.model.hidden_size == 8
    assert before.replaced() == before


def test_replaced_refuses_unknown_names_and_invalid_values():
    with pytest.raises(
        InputError,
        match=r"^unknown setting 'hiddn': did you mean hidden_size\?; unknown setting 'qqq': known: accumulate, backe",
    ):
        Settings().replaced(hiddn=3, qqq=4)
    with pytest.raises(
        InputError, match=r"^hidden_size must be at least 1 and finite, got 0; batch_size must be a whole number"
    ):
        Settings().replaced(hidden_size=0, batch_size=2.5)


def test_settings_cannot_be_changed_in_place():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Settings().model.hidden_size = 3


def values_of(section: str, name: str):
    """Return a strategy for valid values of a setting."""
    f, kind = FIELDS[section, name], KINDS[section, name]
    if f.metadata["choices"]:
        return st.sampled_from(f.metadata["choices"])
    if kind is int:
        return st.integers(int(f.metadata["low"]), 1024 if name == "threads" else 10**6)
    if kind is float:
        high = {"validation_fraction": 0.5, "dropout": 0.99}.get(name, 1e6)
        return st.floats(f.metadata["low"] or (1e-9 if name in ("validation_fraction", "learning_rate") else 0), high)
    return {bool: st.booleans(), str: st.text(max_size=5), tuple[str, ...]: st.lists(st.text(max_size=5)).map(tuple)}[
        kind
    ]


def fitting(values: dict) -> dict:
    """Change values so that they do not contradict each other."""
    if values["device"] == "cpu":
        values["precision"] = "float32"
    if values["head"] == "tied":
        values["embedding"] = values["hidden_size"]
    if values["head"] == "adaptive":
        values["hidden_size"] = max(values["hidden_size"], 16)
    return values


possible = st.fixed_dictionaries({name: values_of(section, name) for section, name in FIELDS}).map(fitting)


@thorough
@given(values=possible)
def test_to_dict_and_from_tables_are_inverse(values):
    chosen = Settings().replaced(**values)
    assert from_tables(chosen.to_dict(), "itself") == chosen
    assert from_tables(json.loads(json.dumps(chosen.to_dict())), "its JSON") == chosen
    tables = chosen.to_dict()
    assert {name: tables[section][name] for section, name in FIELDS} == values


any_value = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=4,
)


@thorough
@given(
    tables=st.fixed_dictionaries(
        {},
        optional={
            section: any_value
            | st.dictionaries(
                st.sampled_from([f.name for f in dataclasses.fields(kind)]) | st.text(max_size=5), any_value, max_size=6
            )
            for section, kind in SECTIONS.items()
        },
    )
)
def test_any_tables_are_settings_or_an_input_error(tables):
    result, message = settings_or_message(tables)
    if result is None:
        assert message.startswith("some file: ")
    else:
        for section, table in tables.items():
            for name, value in table.items():
                kept = getattr(getattr(result, section), name)
                assert kept == (tuple(value) if isinstance(value, list) else value)

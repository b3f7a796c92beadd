"""The recipes of the package against the numbers the book printed, and what a recipe of one's own may say."""

import pytest

from headgate.errors import InputError
from headgate.settings import recipe as recipes
from headgate.settings.recipe import Published
from headgate.settings.run import ModelSettings, Settings

SCRATCH = {"bias": "single", "initialization": "normal"}
CONCISE = {"bias": "double", "initialization": "uniform"}
LYRICS = {
    "corpus": "jay-lyrics",
    "normalize": "spaces",
    "limit": 10_000,
    "unknown": False,
    "epochs": 160,
    "random_offset": False,
    "sample_every": 40,
    "sample_length": 50,
    "sample_prefixes": ("分开", "不分开"),
}
TIME_MACHINE = {
    "corpus": "time-machine",
    "normalize": "letters",
    "limit": 10_000,
    "unknown": True,
    "epochs": 500,
    "random_offset": True,
}
SHARED = {  # all four of the book's experiments
    "validation_fraction": 0.0,
    "tokenizer": "characters",
    "min_frequency": 1,
    "hidden_size": 256,
    "num_layers": 1,
    "embedding": 0,
    "dropout": 0.0,
    "batch_size": 32,
    "sequence_length": 35,
    "partition": "sequential",
    "momentum": 0.0,
    "weight_decay": 0.0,
    "schedule": "constant",
    "warmup": 0,
    "patience": 0,
    "max_steps": 0,
}
BOOK = {
    "lyrics-scratch": LYRICS | SCRATCH | {"reset": "after", "optimizer": "sgd", "learning_rate": 100.0, "clip": 0.01},
    "lyrics-concise": LYRICS | CONCISE | {"reset": "after", "optimizer": "adam", "learning_rate": 0.01, "clip": 0.0},
    "time-machine-scratch": TIME_MACHINE
    | SCRATCH
    | {"reset": "before", "optimizer": "sgd", "learning_rate": 1.0, "clip": 1.0},
    "time-machine-concise": TIME_MACHINE
    | CONCISE
    | {"reset": "after", "optimizer": "sgd", "learning_rate": 1.0, "clip": 1.0},
}
PUBLISHED = {  # (recipe, reset) -> epoch: training perplexity as printed
    ("lyrics-scratch", "after"): {40: "149.48", 80: "31.69", 120: "4.87", 160: "1.44"},
    ("lyrics-scratch", "before"): {40: "150.96", 80: "31.68", 120: "5.86", 160: "1.82"},
    ("lyrics-concise", "after"): {40: "1.022", 80: "1.015", 120: "1.148", 160: "1.018"},
    ("lyrics-concise", "before"): {},
    ("time-machine-scratch", "after"): {},
    ("time-machine-scratch", "before"): {500: "1.1"},
    ("time-machine-concise", "after"): {500: "1.0 to 1.3"},
    ("time-machine-concise", "before"): {},
}

ROW = "[[published]]\nepoch = 3\nperplexity = '2.5'\n"


def test_the_package_has_the_recipes_of_the_book():
    assert set(BOOK) <= set(recipes.names())
    assert recipes.names() == sorted(recipes.names())


@pytest.mark.parametrize("name", recipes.names())
def test_every_recipe_of_the_package_loads(name):
    recipe = recipes.load(name)
    assert recipe.name == name
    assert recipe.description
    assert recipe.source


@pytest.mark.parametrize("name", BOOK)
def test_settings_are_those_of_the_book(name):
    settings = recipes.load(name).settings
    found = {key: value for table in settings.to_dict().values() for key, value in table.items()}
    expected = SHARED | BOOK[name]
    assert {key: found[key] for key in expected} == expected


@pytest.mark.parametrize(("name", "reset"), PUBLISHED)
def test_published_numbers_are_those_of_the_book(name, reset):
    recipe = recipes.load(name)
    rows = recipe.published_for(recipe.settings.replaced(reset=reset))
    assert {row.epoch: row.perplexity for row in rows} == PUBLISHED[name, reset]
    assert all(row.reset == reset for row in rows)
    assert all(row.epoch <= recipe.settings.training.epochs for row in rows)


def test_nothing_else_is_published():
    for name in BOOK:
        assert len(recipes.load(name).published) == sum(len(PUBLISHED[name, reset]) for reset in ("after", "before"))


def test_bounds_of_a_published_number():
    assert Published(1, "1.44", "after").bounds == (1.44, 1.44)
    assert Published(1, "1.0 to 1.3", "after").bounds == (1.0, 1.3)


# Recipes of one's own


def test_a_recipe_by_path(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(f"description = '分开'\n[model]\nhidden_size = 7\nreset = 'before'\n{ROW}", "utf-8")
    recipe = recipes.load(str(path))
    assert recipe == recipes.Recipe(
        str(path),
        "分开",
        "",
        Settings(model=ModelSettings(hidden_size=7, reset="before")),
        (Published(3, "2.5", "before"),),
    )


def test_a_published_number_may_be_of_the_other_variant():
    recipe = recipes.parse(ROW + "reset = 'before'\n" + ROW.replace("2.5", "2.75"), "mine")
    assert recipe.published == (Published(3, "2.5", "before"), Published(3, "2.75", "after"))
    assert recipe.published_for(recipe.settings) == recipe.published[1:]


def test_a_published_number_may_be_a_number():
    assert recipes.parse("[[published]]\nepoch = 3\nperplexity = 2.5", "mine").published[0].bounds == (2.5, 2.5)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("lyrics-scrach", r"did you mean lyrics-scratch or "),
        ("xyz", f"known: {', '.join(recipes.names())}"),
        ("no/such.toml", ""),
        ("pyproject.txt", ""),
    ],
)
def test_an_unknown_recipe_names_the_nearest(name, hint):
    with pytest.raises(
        InputError, match=rf"^there is no recipe {name}: {hint}.*; the path of a \.toml file is one too$"
    ):
        recipes.load(name)


@pytest.mark.parametrize(
    "content", [b"x = 1", b"[model]\nhidden_size = 'many'\n", b"\xff\xfe", b"description = '\xff'"]
)
def test_a_file_that_is_no_recipe_is_named(content, tmp_path):
    (tmp_path / "bad.toml").write_bytes(content)
    with pytest.raises(InputError, match=r"^recipe .*bad\.toml"):
        recipes.load(str(tmp_path / "bad.toml"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a = ", r"^recipe mine is not valid TOML: Invalid value \(at end of document\)$"),
        ("a = " + "[" * 10_000, "^recipe mine is not valid TOML: "),
        ("a = " + "9" * 5_000, "^recipe mine is not valid TOML: "),
        (
            "modle = {}\nsorce = ''",
            r"^recipe mine: unknown key 'modle': did you mean model\?; unknown key 'sorce': did you mean source",
        ),
        ("[model]\nhiden = 3", r"^recipe mine: unknown key 'hiden' in \[model\]: did you mean hidden_size\?$"),
        ("[training]\nbatch_size = 0", "^recipe mine: batch_size must be at least 1 and finite, got 0$"),
        ("model = 3", "^recipe mine: model must be a table, got 3$"),
    ],
)
def test_what_is_no_recipe_is_refused(text, message):
    with pytest.raises(InputError, match=message):
        recipes.parse(text, "mine")


@pytest.mark.parametrize(
    "row",
    [
        "{perplexity = '1.4'}",
        "{epoch = 3}",
        "{epoch = 'three', perplexity = '1.4'}",
        "{epoch = inf, perplexity = '1.4'}",
        "{epoch = 3, perplexity = 'low'}",
        "{epoch = 3, perplexity = '1.0 to'}",
        "{epoch = 3, perplexity = '1.0 to high'}",
        "{epoch = 3, perplexity = ['1.0']}",
        "3",
        "'text'",
        "[]",
    ],
)
def test_a_bad_published_row_is_shown(row):
    with pytest.raises(
        InputError,
        match=r"^recipe mine: a published entry needs an epoch and a perplexity \('1.44' or '1.0 to 1.3'\), got ",
    ):
        recipes.parse(f"published = [{{epoch = 1, perplexity = '1.2'}}, {row}]", "mine")


@pytest.mark.parametrize("published", ["5", "true", "1.5", "2024-01-01", "'text'", "{epoch = 3}"])
def test_published_is_a_list_of_rows(published):
    with pytest.raises(InputError, match=r"^recipe mine: .*published"):
        recipes.parse(f"published = {published}", "mine")


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("rest = 'before'", "rest"),  # misspelt, it would leave the number to the other variant
        ("reset = 'sideways'", "sideways"),  # no run could ever be held against it
    ],
)
def test_a_published_row_is_checked_as_the_settings_are(line, named):
    with pytest.raises(InputError, match=f"^recipe mine: .*{named}"):
        recipes.parse(ROW + line, "mine")

"""One rule for all that a user gives."""

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_lightning import LightningDataModule

from actbench.specs import UsageError, compose, dump_yaml, merge_config, setting
from actbench.specs.values import load_yaml, parameters_of
from actbench.studies.cells import cell_config
from actbench.studies.cells.key import KEY
from actbench.training.config import BenchCLI

SGD = {"optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.5, "momentum": 0.9}}}


def resolved(*words):
    return canonical(compose(words))


def canonical(config):
    return BenchCLI("fit", config, build=False).canonical


def test_a_group_file_and_a_dotted_option_add_up(tmp_path):
    path = tmp_path / "model.yaml"
    path.write_text(yaml.safe_dump(SGD))

    optimizer = resolved("--model", str(path), "--model.optimizer.lr", "0.1")["model"]["optimizer"]

    assert optimizer["class_path"] == "torch.optim.SGD"
    assert (optimizer["init_args"]["lr"], optimizer["init_args"]["momentum"]) == (0.1, 0.9)


def test_a_group_may_be_given_as_yaml():
    assert resolved("--model", "{network: MLP}")["model"]["network"]["class_path"] == "actbench.networks.MLP"


def test_arguments_that_stand_before_their_class_are_its():
    optimizer = resolved("--model.optimizer.lr", "0.1", "--model.optimizer", "SGD")["model"]["optimizer"]

    assert (optimizer["class_path"], optimizer["init_args"]["lr"]) == ("torch.optim.SGD", 0.1)


def create(name, num_classes, **options):
    """A network by its name, as registries make it: no signature tells what ``options`` are."""
    return MODELS[name](num_classes, **options)


def make_perceptron(num_classes, *, sizes=(8,), norm=True, drop=0.1, act="relu", block=None):
    raise NotImplementedError


MODELS = {"perceptron": make_perceptron}
TAKEN = {"sizes": [4, 2], "norm": False, "drop": None, "act": "4", "block": {"depth": 3}}


def test_an_option_that_no_signature_names_has_the_type_that_it_has_in_a_file(tmp_path):
    words = "--model.network test_compose.create --model.network.name perceptron --model.network.sizes [4,2] "
    words += (
        "--model.network.norm false --model.network.drop null --model.network.act '4' --model.network.block.depth 3"
    )
    network = {"class_path": "test_compose.create", "init_args": {"name": "perceptron", **TAKEN}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"model": {"network": network}}))

    typed, read = resolved(*words.split()), resolved("--config", str(tmp_path / "config.yaml"))

    assert typed["model"]["network"] == read["model"]["network"] == network


class Mixed(LightningDataModule):
    def __init__(
        self,
        numbers: list[int | str] = [],  # noqa: B006  # as users write it
        named: dict[str, str | None] = {},  # noqa: B006
        either: list[str | None] | list[int] = [],  # noqa: B006
        tag: int | str = 1,
    ):
        super().__init__()


def mixed(num_classes, *, numbers: list[int | str], named: dict[str, str | None], either: list[str | None] | list[int]):
    raise NotImplementedError


def outcome(*words):
    """A config in canonical form, or the message that refuses it."""
    try:
        return resolved(*words)
    except UsageError as error:
        return str(error)


@pytest.mark.parametrize(
    ("words", "section"),
    [("data test_compose.Mixed", "data: {}"), ("model.network test_compose.mixed", "model: {{network: {}}}")],
)
@pytest.mark.parametrize(
    ("argument", "value"),
    [
        *(("numbers", value) for value in ("[1, off]", "[a, 1e3]", "[1, 'off']")),
        *(("named", value) for value in ("{a: 1}", "{a: null}")),
        ("either", "[1]"),
    ],
)
def test_a_list_on_the_command_line_is_what_it_is_in_a_file(tmp_path, words, section, argument, value):
    key, path = words.split()
    given = {"numbers": "[]", "named": "{}", "either": "[]", argument: value}
    lines = ", ".join(f"{name}: {text}" for name, text in given.items())
    file = tmp_path / "config.yaml"
    file.write_text(section.format(f"{{class_path: {path}, init_args: {{{lines}}}}}"))
    options = [word for name, text in given.items() for word in (f"--{key}.{name}", text)]

    assert outcome(f"--{key}", path, *options) == outcome("--config", str(file))


@pytest.mark.parametrize("text", ["off", "1e3", "[1]"])
def test_a_text_on_the_command_line_stays_a_text_where_its_option_may_be_one(text):
    assert resolved("--data", "test_compose.Mixed", "--data.tag", text)["data"]["init_args"]["tag"] == text


def test_another_class_starts_with_no_arguments():
    base = {"model": SGD, "data": {"class_path": "Digits", "init_args": {"batch_size": 7}}}

    changed = merge_config(merge_config({}, base), {"model": {"optimizer": "Adam"}, "data": "MNIST"})

    assert changed["model"]["optimizer"] == {"class_path": "Adam"}
    assert changed["data"] == {"class_path": "actbench.data.MNIST"}


def test_a_callback_by_its_bare_name_takes_dotted_arguments_and_another_is_appended():
    words = ["--trainer.callbacks", "EarlyStopping", "--trainer.callbacks.monitor", "val/loss"]

    first, second = resolved(*words, "--trainer.callbacks+", "LearningRateMonitor")["trainer"]["callbacks"]

    assert first["class_path"] == "pytorch_lightning.callbacks.EarlyStopping"
    assert first["init_args"]["monitor"] == "val/loss"
    assert second["class_path"] == "pytorch_lightning.callbacks.LearningRateMonitor"


class Lists(LightningDataModule):
    def __init__(self, names: list[str] = ["a"], sizes: list[int] | int = 3):  # noqa: B006
        super().__init__()


NETWORK = "--model.network MLP --model.network.hidden"


@pytest.mark.parametrize(
    ("options", "key", "expected"),
    [
        ("--data.names [b] --data.names+ c --data.names+ [d,e]", "data.init_args.names", ["b", "c", "d", "e"]),
        ("--data.names+ 1 --data.names+=2", "data.init_args.names", ["1", "2"]),
        ("--data.sizes [1] --data.sizes+ 2", "data.init_args.sizes", [1, 2]),
        ("--data.sizes 1 --data.sizes+ [2,3]", "data.init_args.sizes", [1, 2, 3]),
        (f"{NETWORK} [8] {NETWORK}+ 4", "model.network.init_args.hidden", [8, 4]),
        ("--model.freeze a.* --model.freeze+ b.*", "model.freeze", ["a.*", "b.*"]),
        ("--vary [init] --vary+ order", "vary", ["init", "order"]),
    ],
)
def test_what_is_appended_to_a_list_stands_after_its_items(options, key, expected):
    assert setting(resolved("--data", "test_compose.Lists", *options.split()), key) == expected


def test_a_file_may_append_to_a_list_of_another():
    first = {"data": {"class_path": "test_compose.Lists", "init_args": {"names": ["b"]}}}

    merged = merge_config(merge_config({}, first), {"data": {"init_args": {"names+": ["c"]}}})

    assert canonical(merged)["data"]["init_args"]["names"] == ["b", "c"]


def test_max_steps_alone_ends_a_fit():
    assert resolved("--trainer.max_steps", "5000")["trainer"]["max_epochs"] == -1
    assert resolved("--trainer.max_steps", "5000", "--trainer.max_epochs", "3")["trainer"]["max_epochs"] == 3


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["fit"], "what is fit"),
        (["--data"], "--data: a value is missing"),
        (["--model", "none.yaml"], "--model: file none.yaml not found"),
    ],
)
def test_words_that_are_no_options_are_refused(words, message):
    with pytest.raises(UsageError, match=message):
        compose(words)


OPTIONS = {
    "model.activation": ["swish", "torch.nn.ELU"],
    "model.network": ["MLP", "TutorialCNN"],
    "model.optimizer": ["SGD", "torch.optim.AdamW"],
    "model.optimizer.lr": ["0.1", "1e-3"],
    "model.lr_scheduler": ["{class_path: StepLR, init_args: {step_size: 3}}"],
    "data": ["FakeImages", "actbench.data.Digits"],
    "data.batch_size": ["7"],
    "trainer.max_epochs": ["3"],
    "trainer.gradient_clip_val": ["1", "0.5"],
}


@settings(deadline=None, max_examples=30)
@given(st.data())
def test_options_in_any_order_and_in_files_are_one_config_and_one_cell(tmp_path_factory, data):
    chosen = {key: data.draw(st.sampled_from(values)) for key, values in OPTIONS.items() if data.draw(st.booleans())}
    shuffled = data.draw(st.permutations(list(chosen.items())))
    plain, mixed = (
        compose([word for key, value in of for word in (f"--{key}", value)]) for of in (chosen.items(), shuffled)
    )

    written = canonical(plain)
    path = tmp_path_factory.mktemp("config") / "config.yaml"
    path.write_text(yaml.safe_dump(written))
    again = compose(["--config", str(path)])

    assert canonical(mixed) == written
    assert canonical(again) == written
    assert cell_config(plain) == cell_config(mixed) == cell_config(again)


def test_every_setting_of_the_trainer_is_known_to_count_or_not():
    from pytorch_lightning import Trainer

    assert {f"trainer.{name}" for name in parameters_of(Trainer)} <= set(KEY)


def test_a_parsed_config_is_built_by_lightnings_own_cli():
    cli = BenchCLI("fit", compose(["--data", "FakeImages", "--model.network", "MLP", "--model.replicates", "2"]))

    assert cli.trainer.max_epochs == 100
    assert list(cli.datamodule.seeds) == list(cli.model.seeds) == [0, 1]


@pytest.mark.parametrize(
    "text", ["12e4", "1e-3", "3e1", "007", "1_000", "yes", "null", "a: b", "", " x", "é", "2026-01-02", "x\ny"]
)
def test_a_text_is_written_so_that_it_is_read_as_that_text(text):
    assert load_yaml(dump_yaml({"fold": text})) == {"fold": text}

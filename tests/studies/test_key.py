"""What a finished cell is found again by: each row of the table, in its direction."""

import importlib
import linecache
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch
from pytorch_lightning import Callback, LightningDataModule
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from actbench.specs import merge_config, nest
from actbench.studies.cells import Cell, cell_config, data_digest
from actbench.studies.cells import key as module
from actbench.studies.cells.code import check_current
from actbench.studies.cells.key import KEY

CALLBACK = {"class_path": "EarlyStopping", "init_args": {"monitor": "val/loss"}}
OTHERS = {  # rows that are settings, with a value that is not the default
    "seed_everything": 5,
    "trust": "somebody",
    "ckpt_path": "last.ckpt",
    "model.activation": "swish",
    "model.network": "MLP",
    "model.optimizer": {"class_path": "Adam", "init_args": {"lr": 0.1}},
    "model.lr_scheduler": {"class_path": "StepLR", "init_args": {"step_size": 2}},
    "model.sites": "all",
    "model.batch_keys": ["a", "b"],
    "model.freeze": ["conv1.*"],
    "model.init": "gain",
    "model.lr_interval": "step",
    "model.replicates": 7,
    "model.stack_width": 2,
    "model.engine": "sequence",
    "model.compile": False,
    "data": {"class_path": "Digits", "init_args": {"batch_size": 7}},
    "trainer.accelerator": "cpu",
    "trainer.strategy": "ddp",
    "trainer.devices": [0],
    "trainer.num_nodes": "1",
    "trainer.plugins": {
        "class_path": "pytorch_lightning.plugins.MixedPrecision",
        "init_args": {"precision": "16-mixed", "device": "cpu"},
    },
    "trainer.precision": "64-true",
    "trainer.logger": True,
    "trainer.callbacks": [CALLBACK],
    "trainer.max_epochs": 7,
    "trainer.min_epochs": 3,
    "trainer.max_steps": 7,
    "trainer.min_steps": 3,
    "trainer.max_time": "00:00:10:00",
    "trainer.limit_train_batches": 3,
    "trainer.limit_val_batches": 3,
    "trainer.limit_test_batches": 3,
    "trainer.limit_predict_batches": 3,
    "model.mechanism": True,
    "trainer.overfit_batches": 3,
    "trainer.val_check_interval": 3,
    "trainer.check_val_every_n_epoch": 3,
    "trainer.num_sanity_val_steps": 0,
    "trainer.log_every_n_steps": 9,
    "trainer.enable_checkpointing": False,
    "trainer.enable_progress_bar": False,
    "trainer.enable_model_summary": True,
    "trainer.accumulate_grad_batches": 2,
    "trainer.gradient_clip_val": 0.5,
    "trainer.gradient_clip_algorithm": "value",
    "trainer.deterministic": True,
    "trainer.benchmark": True,
    "trainer.inference_mode": False,
    "trainer.use_distributed_sampler": False,
    "trainer.profiler": "simple",
    "trainer.detect_anomaly": True,
    "trainer.sync_batchnorm": True,
    "trainer.reload_dataloaders_every_n_epochs": 1,
    "trainer.default_root_dir": "elsewhere",
    "trainer.enable_autolog_hparams": False,
    "trainer.model_registry": "models",
}
ELSEWHERE = {  # rows with tests of their own, below
    "data.root",
    "data.download",
    "a path among the arguments of another DataModule",
    "digest",
    "files",
    "folders",
    "a folder among the arguments of a callback",
    "model.weights",
    "code",
    "versions",
    "weights",
    "vary",
    "crossed",
}
BARRED = {"trainer.fast_dev_run", "trainer.barebones"}  # see test_cells


def cell(given=None, **options):
    return Cell(cell_config(merge_config({}, given or {})), range(2), **options)


def same(row, one, other):
    assert (one.hash == other.hash) == (not KEY[row].counts)


def test_every_row_of_the_table_is_tried():
    assert set(KEY) == set(OTHERS) | ELSEWHERE | BARRED


@pytest.mark.parametrize("row", OTHERS)
def test_a_setting_is_part_of_the_key_if_the_table_says_so(row):
    same(row, cell(), cell(nest(row, OTHERS[row])))


@pytest.mark.parametrize(("row", "value"), [("data.root", "elsewhere"), ("data.download", True)])
def test_where_files_are_and_how_they_came_is_not_what_they_hold(row, value):
    mnist = {"data": {"class_path": "MNIST"}}

    same(row, cell(mnist), cell(merge_config(mnist, nest(row, value))))


class Files(LightningDataModule):
    def __init__(self, where: str = "", rows: int = 30, mode: str = "plain"):
        super().__init__()
        self.rows = rows

    def train_dataloader(self):
        return DataLoader(TensorDataset(torch.zeros(self.rows, 1, 8, 8), torch.arange(self.rows) % 3), 10)

    val_dataloader = test_dataloader = train_dataloader


def files(**arguments):
    return {"data": {"class_path": "test_key.Files", "init_args": arguments}}


def test_a_path_of_another_datamodule_is_not_what_its_data_are(tmp_path):
    row = "a path among the arguments of another DataModule"

    same(row, cell(files()), cell(files(where=str(tmp_path))))
    assert cell(files()).hash != cell(files(where="no such place")).hash
    assert cell(files()).hash != cell(files(rows=40)).hash


def test_a_word_that_is_also_the_name_of_a_folder_counts(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plain").mkdir()
    (tmp_path / "noisy").mkdir()

    assert cell(files(mode="plain")).hash != cell(files(mode="noisy")).hash


def test_a_file_that_a_datamodule_is_given_counts_by_what_it_holds(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, content in {"a.json": "1", "b.json": "2", "copy.json": "1"}.items():
        (tmp_path / name).write_text(content)
    hashes = {name: cell(files(mode=name)).hash for name in ("a.json", "b.json", "copy.json")}

    assert hashes["a.json"] == hashes["copy.json"] != hashes["b.json"]


class Pretrained(nn.Module):
    def __init__(self, activation, input_shape, num_classes, weights: str = ""):
        super().__init__()


@pytest.mark.parametrize("given", ["argument", "code"])
def test_a_file_that_the_network_reads_counts(tmp_path, monkeypatch, given):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "nets_of_key.py").write_text(
        "from torch import nn\nclass Net(nn.Module):\n"
        "    def __init__(self, activation, input_shape, num_classes):\n"
        "        self.text = open('weights.txt').read()\n"
    )
    (tmp_path / "weights.txt").write_text("before")
    argument = {"class_path": "test_key.Pretrained", "init_args": {"weights": "weights.txt"}}
    config = {"model": {"network": argument if given == "argument" else {"class_path": "nets_of_key.Net"}}}
    before = cell(config).hash

    (tmp_path / "weights.txt").write_text("after")

    assert (cell(config).hash != before) == KEY["files"].counts


READ = {  # how a module in a package reads a file, and which
    "(HERE / 'a.txt').read_text()": "pack_of_key/a.txt",
    "open(os.path.join(os.path.dirname(__file__), 'a.txt'))": "pack_of_key/a.txt",
    "open(f'{HERE}/conf/a.txt')": "pack_of_key/conf/a.txt",
    "(HERE.parent / 'conf' / 'a.txt').read_text()": "conf/a.txt",
    "(HERE / '..' / 'conf' / 'deep' / 'a.txt').read_text()": "conf/deep/a.txt",
    "HERE.parent.parent.joinpath('conf', 'a.txt').read_text()": "../conf/a.txt",
    "importlib.resources.files('pack_of_key.data').joinpath('a.txt').read_text()": "pack_of_key/data/a.txt",
    "(HERE / NAME).read_text()": "pack_of_key/named.txt",
    "(HERE / self.name).read_text()": "pack_of_key/given.txt",
    "(Path('conf') / 'a.txt').read_text()": "../../cwd/conf/a.txt",
}


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Writes a package of an activation, in ``src`` beside ``cwd``, the working folder; returns the former."""

    def make(call, where="project"):
        src = tmp_path / where / "src"
        folder = src / "pack_of_key"
        (folder / "data").mkdir(parents=True)
        (tmp_path / "cwd").mkdir(exist_ok=True)
        monkeypatch.chdir(tmp_path / "cwd")
        (folder / "__init__.py").touch()
        (folder / "data" / "__init__.py").touch()
        (folder / "names.py").write_text("NAME = 'named.txt'\n")
        (folder / "act.py").write_text(
            "import importlib.resources\nimport os\nfrom pathlib import Path\nfrom torch import nn\n"
            "from .names import NAME\nHERE = Path(__file__).parent\n"
            "class Act(nn.Module):\n    def __init__(self, name: str = ''):\n        super().__init__()\n"
            f"    def read(self):\n        return {call}\n    def forward(self, x):\n        return x.relu()\n"
        )
        for name in [name for name in sys.modules if name.partition(".")[0] == "pack_of_key"]:
            monkeypatch.delitem(sys.modules, name)
        monkeypatch.syspath_prepend(src)
        return src

    return make


ACT = {"model": {"activation": {"class_path": "pack_of_key.act.Act", "init_args": {"name": "given.txt"}}}}


@pytest.mark.parametrize(("call", "path"), READ.items())
def test_a_file_that_code_reads_in_or_around_its_folder_counts(package, call, path):
    file = package(call) / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("before")
    before = cell(ACT).hash

    file.write_text("after")

    assert cell(ACT).hash != before


def test_the_content_of_a_file_beside_the_code_counts_and_not_its_place(package, monkeypatch):
    hashes = set()
    for where in ("here", "there"):
        src = package("[HERE / 'a.txt', HERE / 'conf' / 'a.txt', HERE.parent / 'a.txt']", where)
        (src / "pack_of_key" / "conf").mkdir()
        for number, folder in enumerate(("pack_of_key", "pack_of_key/conf", ".")):
            (src / folder / "a.txt").write_text(str(number))
        hashes.add(cell(ACT).hash)
        for folder in (src, src / "pack_of_key"):
            monkeypatch.chdir(folder)
            hashes.add(cell(ACT).hash)

    assert len(hashes) == 1
    (src / "a.txt").write_text("0")
    assert cell(ACT).hash not in hashes


def test_what_a_study_writes_does_not_count(package):
    package("Path('studies') / 'mine' / 'arms' / 'act.yaml'")
    arms = Path("studies", "mine", "arms")
    arms.mkdir(parents=True)
    (arms.parent / "study.yaml").write_text("name: mine")
    before = cell(ACT).hash

    (arms / "act.yaml").write_text("model: MLP")

    assert cell(ACT).hash == before


class Watches(Callback):
    """A callback of a user's."""


class Harmless(Watches):
    mixes_seeds = False


@pytest.mark.parametrize(("callback", "alone"), [("Watches", True), ("Harmless", False)])
def test_results_with_callbacks_that_may_mix_seeds_are_those_of_seeds_that_were_trained_alone(callback, alone):
    given = {"trainer": {"callbacks": [{"class_path": f"test_key.{callback}"}]}}

    assert ("seeds" in cell(given).factors) == alone


def test_seeds_that_are_trained_alone_have_the_key_that_was_planned(package):
    src = package("(HERE / 'a.txt').read_text()")
    planned = cell(ACT)
    assert planned.hash
    (src / "pack_of_key" / "a.txt").write_text("written by training")

    alone = planned.one_by_one()

    assert [(each.seeds, each.hash) for each in alone] == [(range(n, n + 1), planned.hash) for n in range(2)]


def test_folders_that_link_in_circles_are_searched_once(package):
    src = package("HERE / 'conf' / 'deep' / 'a.txt'")
    (src / "conf").mkdir()
    (src / "conf" / "deep").symlink_to(src / "conf")
    (src / "conf" / "a.txt").write_text("before")
    before = cell(ACT).hash

    (src / "conf" / "a.txt").write_text("after")

    assert cell(ACT).hash != before


@pytest.fixture
def conf(tmp_path, monkeypatch):
    """A folder below the working folder that holds a file in a folder."""
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "conf" / "deep" / "w.json"
    file.parent.mkdir(parents=True)
    file.write_text("1")
    return tmp_path / "conf"


def folding(folder="conf", **arguments):  # its class lies where no text names files of these tests
    return nest("model.activation", {"class_path": "own.Folding", "init_args": {"folder": folder, **arguments}})


def pretrained(weights):
    return nest("model.network", {"class_path": "test_key.Pretrained", "init_args": {"weights": weights}})


@pytest.mark.parametrize("config", [folding(), pretrained("conf/deep")])
@pytest.mark.parametrize("most", [1000, 0])
def test_a_folder_that_the_model_reads_counts(conf, monkeypatch, config, most):
    monkeypatch.setattr(module, "MOST_FILES", most)
    before = cell(config)
    assert before.hash == cell(config).hash

    (conf / "deep" / "w.json").write_text("23")

    same("folders", before, cell(config))


def test_a_file_that_comes_or_goes_counts_and_its_time_does_not(conf):
    before = cell(folding()).hash
    os.utime(conf / "deep" / "w.json", (1, 1))
    assert cell(folding()).hash == before

    (conf / "deep" / "w.json").rename(conf / "v.json")

    assert cell(folding()).hash != before


@pytest.mark.parametrize("name", [".hidden/a", "__pycache__/a", ".a", "link/a"])
def test_what_is_no_input_of_a_folder_does_not_count(conf, name):
    (conf.parent / "elsewhere").mkdir()
    (conf / "link").symlink_to(conf.parent / "elsewhere")
    (conf / "broken").symlink_to("nowhere")
    before = cell(folding()).hash

    (conf / name).parent.mkdir(exist_ok=True)
    (conf / name).write_text("1")

    assert cell(folding()).hash == before


@pytest.mark.parametrize("folder", ["", ".", ".."])
def test_a_folder_that_holds_the_studies_does_not_count(conf, folder):
    before = cell(folding(folder)).hash

    (conf.parent / "studies").mkdir()
    (conf.parent / "studies" / "records").write_text("1")

    assert cell(folding(folder)).hash == before


@pytest.mark.parametrize(
    "config",
    [
        nest("trainer.callbacks", {"class_path": "ModelCheckpoint", "init_args": {"dirpath": "conf/deep"}}),
        nest("trainer.default_root_dir", "conf/deep"),
        folding("", cache_dir="conf/deep"),
    ],
)
def test_a_folder_that_a_run_fills_does_not_count(conf, config):
    before = cell(config)

    (conf / "deep" / "last.ckpt").write_text("1")

    same("a folder among the arguments of a callback", before, cell(config))


def test_what_the_data_hold_counts():
    digests = [data_digest(cell(files(rows=rows)).config) for rows in (30, 40)]

    same("digest", *(cell(files(), digest=digest) for digest in digests))


def test_the_users_own_code_counts(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "helper_of_key.py").write_text("SLOPE = 0.1\n")
    (tmp_path / "acts_of_key.py").write_text(
        "from torch import nn\nfrom helper_of_key import SLOPE\n"
        "class Leaky(nn.Module):\n    def forward(self, x):\n        return x.clamp(min=0) + SLOPE * x.clamp(max=0)\n"
    )
    leaky = {"model": {"activation": "acts_of_key.Leaky"}}
    before = cell(leaky).hash

    (tmp_path / "helper_of_key.py").write_text("SLOPE = 0.2\n")

    assert cell(leaky).hash == before  # as a study that runs meanwhile goes on
    with pytest.raises(ValueError, match=r"helper_of_key\.py has changed since it was imported: start Python again"):
        check_current(cell(leaky).factors["code"])
    monkeypatch.delitem(sys.modules, "helper_of_key")
    monkeypatch.delitem(sys.modules, "acts_of_key")
    assert (cell(leaky).hash != before) == KEY["code"].counts
    reloaded = cell(leaky).hash
    (tmp_path / "helper_of_key.py").write_text("SLOPE = 0.3\n")
    importlib.reload(sys.modules["helper_of_key"])
    assert cell(leaky).hash not in (before, reloaded)
    check_current(cell(leaky).factors["code"])


def test_a_module_that_changed_before_anybody_asked_is_refused(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    file = tmp_path / "acts_edited_early.py"
    file.write_text("from torch import nn\nclass Early(nn.ReLU): pass\n")
    early = importlib.import_module("acts_edited_early")
    config = {"model": {"activation": "acts_edited_early.Early"}}

    file.write_text("from torch import nn\nclass Early(nn.Hardtanh): pass\n")

    with pytest.raises(ValueError, match=r"acts_edited_early\.py has changed since it was imported"):
        assert cell(config).hash
    assert cell(config | {"model": {"activation": "relu"}}).hash
    importlib.reload(early)
    assert cell(config).hash


@pytest.mark.parametrize(
    "call",
    [
        "importlib.import_module('nets_of_calls.helper')",
        "import_module('.helper', __package__)",
        "importlib.import_module(package='nets_of_calls', name='.helper')",
        "__import__('nets_of_calls.helper')",
    ],
)
def test_a_module_that_a_function_imports_by_name_counts(tmp_path, monkeypatch, call):
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "nets_of_calls", raising=False)
    monkeypatch.delitem(sys.modules, "nets_of_calls.nets", raising=False)
    folder = tmp_path / "nets_of_calls"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "helper.py").write_text("WIDTH = 8\n")
    (folder / "nets.py").write_text(
        "import importlib\nfrom importlib import import_module\nfrom actbench.networks import MLP\n"
        "def make(activation, input_shape, num_classes):\n"
        f"    {call}\n    return MLP(activation, input_shape, num_classes)\n"
    )
    config = {"model": {"network": "nets_of_calls.nets.make"}}
    before = cell(config).hash

    (folder / "helper.py").write_text("WIDTH = 9\n")

    assert cell(config).hash != before


CELL = """from torch import nn
class Scaled(nn.Module):
    def forward(self, x):
        return scale(x) * FACTOR
def scale(x):
    return x.relu()
"""
UNRELATED = "OTHER = 1\nresults = object()\n"


def notebook(monkeypatch, *cells):
    """The hash of a cell with an activation of a notebook that has run some cells."""
    main = ModuleType("__main__")
    monkeypatch.setitem(sys.modules, "__main__", main)
    for cell_code in cells:
        name = f"<cell {len(linecache.cache)}>"
        monkeypatch.setitem(linecache.cache, name, (len(cell_code), None, cell_code.splitlines(keepends=True), name))
        exec(compile(cell_code, name, "exec"), vars(main))
    return cell({"model": {"activation": "__main__.Scaled"}}).hash


def test_the_code_of_a_notebook_counts(monkeypatch):
    one, two = "FACTOR = 1.0\n", "FACTOR = 2.0\n"
    before = notebook(monkeypatch, one, CELL)

    assert notebook(monkeypatch, one, CELL) == before
    assert notebook(monkeypatch, UNRELATED, one, CELL) == before
    assert notebook(monkeypatch, two, CELL) != before
    assert notebook(monkeypatch, one, CELL.replace("relu", "tanh")) != before
    assert notebook(monkeypatch, one, CELL, two) != before


@pytest.mark.parametrize("unknown", ["import torch\nFACTOR = torch.ones(1)\n", CELL + "class Bare(nn.ReLU): pass\n"])
def test_what_a_notebook_does_not_tell_is_never_found_again(monkeypatch, unknown):
    cells = ["FACTOR = 1.0\n", CELL, unknown]

    assert notebook(monkeypatch, *cells) != notebook(monkeypatch, *cells)


def test_the_code_of_a_script_counts(tmp_path, monkeypatch):
    script = tmp_path / "script.py"
    hashes = []
    for factor in (1.0, 2.0, 1.0):
        script.write_text(f"FACTOR = {factor}\n{CELL}")
        main = ModuleType("__main__")
        main.__file__ = str(script)
        monkeypatch.setitem(sys.modules, "__main__", main)
        exec(script.read_text(), vars(main))
        hashes.append(cell({"model": {"activation": "__main__.Scaled"}}).hash)

    assert hashes[0] == hashes[2] != hashes[1]


def test_a_package_that_is_only_named_counts_and_is_not_run(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "named_only").mkdir()
    (tmp_path / "named_only" / "__init__.py").write_text("raise SystemExit('it was run')\n")
    (tmp_path / "named_only" / "part.py").write_text("SLOPE = 0.1\n")
    (tmp_path / "acts_that_name.py").write_text(
        "from torch import nn\nclass Late(nn.ReLU):\n    def extra(self):\n        import named_only.part\n"
    )
    config = {"model": {"activation": "acts_that_name.Late"}}
    before = cell(config).hash

    (tmp_path / "named_only" / "part.py").write_text("SLOPE = 0.2\n")

    assert cell(config).hash != before
    assert "named_only" not in sys.modules


def test_a_package_that_is_installed_anywhere_counts_by_its_version(tmp_path, monkeypatch):
    folder = tmp_path / "apps" / "site-packages"
    folder.mkdir(parents=True)
    monkeypatch.syspath_prepend(folder)
    (folder / "acts_of_others.py").write_text("from torch import nn\nclass Other(nn.ReLU): pass\n")
    config = {"model": {"activation": "acts_of_others.Other"}}
    before = cell(config).hash

    (folder / "acts_of_others.py").write_text("from torch import nn\nclass Other(nn.Tanh): pass\n")

    assert cell(config).hash == before


@pytest.mark.parametrize("network", ["Outer.Inner", "Outer.make"])
@pytest.mark.parametrize("changed", ["nested", "base"])
def test_the_code_of_what_a_class_holds_counts(tmp_path, monkeypatch, network, changed):
    monkeypatch.syspath_prepend(tmp_path)
    base, nested = (f"{name}_of_{network.partition('.')[2].lower()}_{changed}" for name in ("base", "nested"))
    (tmp_path / f"{base}.py").write_text(
        "from actbench.networks import MLP\nclass Base:\n"
        "    @classmethod\n    def make(cls, activation, input_shape, num_classes):\n"
        "        return MLP(activation, input_shape, num_classes)\n"
    )
    (tmp_path / f"{nested}.py").write_text(
        f"from {base} import Base, MLP\nclass Outer(Base):\n    class Inner(MLP):\n        pass\n"
    )
    config = {"model": {"network": f"{nested}.{network}"}}
    before = cell(config).hash

    with (tmp_path / f"{nested if changed == 'nested' else base}.py").open("a") as file:
        file.write("CHANGED = True\n")
    monkeypatch.delitem(sys.modules, nested)
    monkeypatch.delitem(sys.modules, base)

    assert cell(config).hash != before


@pytest.mark.parametrize("package", ["torch", "torchvision", "pytorch-lightning"])
def test_versions_that_change_results_count(monkeypatch, package):
    before = cell()
    assert before.hash
    monkeypatch.setattr(module, "version", lambda name: "99.0" if name == package else real(name))

    same("versions", before, cell())


real = module.version


def test_which_weights_are_scored_counts():
    same("weights", cell(), cell(weights="best"))


def test_what_varies_counts():
    same("vary", cell(), cell(vary=("init",)))
    same("crossed", cell(), cell(crossed=("init", "split")))
    assert cell(vary=("init",)).hash != cell(vary=("init",), fixed_seed=1).hash
    assert cell(vary=("init",)).hash == replace(cell(vary=("init",)), seeds=range(9, 12)).hash


@pytest.mark.parametrize(("short", "long"), [("16", "16-mixed"), ("bf16", "bf16-mixed"), (64, "64-true")])
def test_a_precisions_two_names_are_one(short, long):
    assert cell(nest("trainer.precision", short)).hash == cell(nest("trainer.precision", long)).hash


def start(path):
    return {"model": {"weights": str(path)}}


def test_the_content_of_a_file_of_weights_counts_and_not_its_place(tmp_path):
    torch.save({"weight": torch.zeros(2)}, tmp_path / "a.pt")
    torch.save({"weight": torch.ones(2)}, tmp_path / "c.pt")
    shutil.copy(tmp_path / "a.pt", tmp_path / "b.pt")

    assert cell(start(tmp_path / "a.pt")).hash == cell(start(tmp_path / "b.pt")).hash
    same("model.weights", cell(start(tmp_path / "a.pt")), cell(start(tmp_path / "c.pt")))
    same("model.weights", cell(start(tmp_path / "a.pt")), cell())


def test_a_file_of_weights_that_is_missing_ends_the_plan(tmp_path):
    with pytest.raises(ValueError, match=r"model.weights: .*gone.pt was not found"):
        assert cell(start(tmp_path / "gone.pt")).hash

"""The executor that runs cells on a Ray cluster: on two nodes of this machine, and on a Ray of its own."""

import errno
import importlib.util
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import yaml
from small_studies import Lines, study

from actbench import records
from actbench.cli.main import main
from actbench.records import read_records
from actbench.studies import MissingError, compare, train
from actbench.studies.executors import ExecutorError, Failure, Ray
from actbench.studies.executors import cluster as cluster_module
from actbench.studies.executors.nodes import copy_code, node_versions
from actbench.training.callbacks import LastCheckpoint

ray = pytest.importorskip("ray")
pytestmark = pytest.mark.ray
ROOT = Path(__file__).parents[2]

# Workers cannot import this module.
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])


@contextmanager
def nodes(*cpus, **system):
    """A cluster of nodes with so many processors, on loopback; yields it."""
    from ray._private import ray_constants
    from ray.cluster_utils import Cluster

    system["worker_niceness"] = 0  # the suite's other processes would starve workers
    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False  # so that addresses stay on loopback
    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": cpus[0], "include_dashboard": False, "_system_config": system}
    )
    try:
        for count in cpus[1:]:
            cluster.add_node(num_cpus=count)
        yield cluster
    finally:
        cluster.shutdown()
        ray_constants.ENABLE_RAY_CLUSTER = before


@pytest.fixture(scope="module")
def two_nodes():
    with nodes(1, 1) as cluster:
        yield cluster.address


def square(number):
    if number < 0:
        raise ValueError(f"{number} is negative")
    return number**2


def meet(folder):
    """Waits until two tasks run at once."""
    Path(folder, str(os.getpid())).touch()
    while len(list(Path(folder).iterdir())) < 2:
        time.sleep(0.01)


def place(folder):
    """Where a task runs, while another runs on another worker."""
    meet(folder)
    return ray.get_runtime_context().get_node_id(), os.getpid(), os.environ["OMP_NUM_THREADS"], str(Path.cwd())


def die_once(path):
    """Kills its process the first time, and counts its calls."""
    with Path(path).open("a") as file:
        file.write("x")
    if len(Path(path).read_text()) == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return "alive"


def die(_):
    os.kill(os.getpid(), signal.SIGKILL)


def meet_and_wait(task):
    """Takes two seconds while another runs, too."""
    folder, _ = task
    meet(folder)
    time.sleep(2)


def wait(seconds):
    time.sleep(seconds)
    return seconds


def fill(number):
    raise OSError(number, os.strerror(number))


def unsendable(_):
    return threading.Lock()


# --- what every executor does ---


def test_every_task_has_its_result_or_its_error(two_nodes):
    with Ray(two_nodes) as executor:
        squares = dict(executor.run(square, [1, -2, 3]))
        disks = dict(executor.run(fill, [errno.ENOSPC, errno.ENOENT]))
        ((_, strange),) = executor.run(unsendable, [1])

    assert (squares[1], squares[3]) == (1, 9)
    assert isinstance(squares[-2], Failure)
    assert str(squares[-2]) == "ValueError: -2 is negative"
    assert disks[errno.ENOSPC].full.errno == errno.ENOSPC
    assert disks[errno.ENOENT].full is None
    assert isinstance(strange, Failure)
    assert "lock" in str(strange)


@pytest.mark.slow
def test_workers_live_on_both_nodes_through_two_runs_with_threads_that_follow_from_their_cpus(
    two_nodes, tmp_path, monkeypatch
):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")

    with Ray(two_nodes) as executor:
        first = [result for _, result in executor.run(place, [tmp_path] * 2)]
        second = [result for _, result in executor.run(place, [tmp_path] * 4)]
        where = executor.where()

    assert len({node for node, *_ in first}) == 2
    assert {process for _, process, *_ in first} >= {process for _, process, *_ in second}
    assert {tuple(rest) for _, _, *rest in first} == {("1", str(Path.cwd()))}
    assert where == "2 nodes, 2 workers"
    assert executor.where() == ""


@pytest.mark.slow
def test_tasks_are_taken_only_for_workers_that_there_is_room_for(two_nodes):
    taken, most = [], 0

    def tasks():
        for number in range(20):
            taken.append(number)
            yield number

    for done, _ in enumerate(Ray(two_nodes).run(square, tasks()), start=1):
        most = max(most, len(taken) - done)

    assert taken == list(range(20))
    assert most <= 2


@pytest.mark.slow
def test_results_come_while_no_task_is_free(two_nodes):
    finished = []

    def tasks():
        yield 1
        while not finished:  # another process has the second, and gives it up
            yield None
        yield 2

    for number, result in Ray(two_nodes).run(square, tasks()):
        finished.append((number, result))

    assert finished == [(1, 1), (2, 4)]


@pytest.mark.slow
def test_closing_ends_what_runs_and_leaves_the_cluster_free(two_nodes):
    results = Ray(two_nodes).run(wait, [0, 100, 100])
    assert next(results) == (0, 0)
    start = time.monotonic()

    results.close()

    assert time.monotonic() - start < 20
    assert dict(Ray(two_nodes).run(square, range(4))) == {number: number**2 for number in range(4)}


# --- what goes wrong ---


@pytest.mark.slow
def test_a_task_whose_worker_dies_is_tried_again(two_nodes, tmp_path, capfd):
    task, results = str(tmp_path / "calls"), []

    ((_, result),) = Ray(two_nodes).run(die_once, [task], report=lambda *report: results.append(report))

    assert result == "alive"
    assert results == [(task, "its worker died; it is tried again")]
    assert (tmp_path / "calls").read_text() == "xx"
    assert capfd.readouterr() == ("", "")  # Ray would tell of it, too


@pytest.mark.slow
def test_a_task_that_kills_three_workers_fails_and_the_others_go_on(two_nodes):
    results = []

    ((_, dead),) = Ray(two_nodes).run(die, ["bad"], report=lambda *report: results.append(report))
    others = dict(Ray(two_nodes).run(square, [2]))

    assert str(dead) == "it was tried 3 times; the last time, its worker died"
    assert results == [("bad", "its worker died; it is tried again")] * 2
    assert others == {2: 4}


@pytest.mark.slow
def test_a_node_that_is_lost_takes_no_result_with_it(tmp_path):
    tasks, results, done = [(str(tmp_path), number) for number in range(4)], [], []

    with nodes(1, 1) as cluster, ThreadPoolExecutor() as other:

        def remove():
            while len(list(tmp_path.iterdir())) < 2:
                time.sleep(0.01)
            cluster.remove_node(next(iter(cluster.worker_nodes)), allow_graceful=False)

        removed = other.submit(remove)
        for task, result in Ray(cluster.address).run(
            meet_and_wait, tasks, report=lambda *report: results.append(report)
        ):
            done.append(task)
            assert result is None
        removed.result()

    assert sorted(done) == tasks
    ((_, line),) = results
    assert "lost" in line


@pytest.mark.slow
def test_a_node_without_memory_is_named():
    # Every node uses more; its workers die in a task, or before they have one.
    with nodes(1, memory_usage_threshold=0.001, memory_monitor_refresh_ms=100) as cluster:
        try:
            ((_, why),) = Ray(cluster.address).run(wait, [60])
        except ExecutorError as error:
            why = error

    assert re.search(r"out of memory: node 127\.0\.0\.1 had [\d.]+GB used / [\d.]+GB limit", str(why))
    assert "\n" not in str(why)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"address": "nowhere"}, "address is auto or HOST:PORT, got 'nowhere'"),
        ({"address": "ray://head:10001"}, "address is auto or HOST:PORT"),
        ({"cpus": 0}, "cpus is a whole number of at least 1"),
        ({"gpus": 1.5}, "gpus is a whole number, or a share of one, got 1.5"),
        ({"memory": 0.0}, "memory is a number of GB"),
        ({"gpus": math.inf}, "gpus is a whole number"),
        ({"memory": math.inf}, "memory is a number of GB"),
        ({"workers": 0}, "workers is a whole number of at least 1, got 0"),
        ({"workers": 2.5}, "workers is a whole number of at least 1, got 2.5"),
        ({"send": 5}, "send is a list of files and folders below this one"),
        ({"send": [1]}, "send is a list of files and folders below this one"),
        ({"send": ["nowhere"]}, "send is a list of files and folders below this one"),
        ({"send": ["/etc"]}, "send is a list of files and folders below this one"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Ray(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"address": "127.0.0.1:1"}, "no Ray cluster at 127.0.0.1:1: .*refused"),
        ({"address": "head..cluster:1"}, "no Ray cluster at head..cluster:1: "),
        ({"cpus": 1000}, "no node has room for a worker of CPU 1000; nodes have CPU 1, GPU 0"),
    ],
)
def test_a_cluster_that_cannot_do_it_is_one_line(two_nodes, arguments, message):
    with pytest.raises(ExecutorError, match=message) as error:
        list(Ray(**{"address": two_nodes} | arguments).run(square, [1]))

    assert "\n" not in str(error.value)


@pytest.mark.slow
@pytest.mark.parametrize("package", ["torch", "actbench"])
def test_versions_that_differ_are_named(two_nodes, monkeypatch, package):
    monkeypatch.setattr(cluster_module, "node_versions", lambda: node_versions() | {package: "0.0.1"})

    with pytest.raises(ExecutorError) as error:
        list(Ray(two_nodes).run(square, [1]))

    there = f"{package} {node_versions()[package]}"
    assert str(error.value) == (f"node 127.0.0.1 has {there}, and the driver {package} 0.0.1: install the same on both")


def test_another_python_is_named(two_nodes, monkeypatch):
    from ray._private import utils

    monkeypatch.setattr(utils, "compute_version_info", lambda: (ray.__version__, "3.12.0"))

    with pytest.raises(ExecutorError, match=r"Python: 3\.1\d.*Python: 3\.12\.0") as error:
        list(Ray(two_nodes).run(square, [1]))

    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--study.executor", "ray"],
            "study.executor: it needs Ray: pip install 'lightning-actbench[ray]'",
        ),
        (["--study.executor.address", "auto"], "study.executor: "),
    ],
)
def test_without_ray_the_command_that_installs_it_is_one_line(capsys, tmp_path, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *args: None if name == "ray" else find_spec(name, *args)
    )

    status = main(["compare", *options])

    said = capsys.readouterr()
    assert (status, said.out) == (2, "")
    assert message in said.err
    assert len(said.err.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_a_cluster_that_is_not_there_is_one_line_of_compare(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("study.yaml").write_text(yaml.safe_dump(study("studies")))

    # In this order, too.
    status = main(["compare", "--config=study.yaml", "--study.executor.address=127.0.0.1:1", "--study.executor=ray"])

    said = capsys.readouterr()
    assert status == 2
    assert re.fullmatch(r"error: no Ray cluster at 127.0.0.1:1: .*\n", said.err)


# --- studies ---

CUBIC = """
from torch import nn
class Cubic(nn.Module):
    def forward(self, x):
        return x * x.sigmoid() + 0.01 * x**3
"""


def on(address, **arguments):
    """The executor of a study."""
    return {"class_path": "ray", "init_args": {"address": address, **arguments}}


@pytest.mark.slow
def test_two_nodes_give_the_same_records_as_this_process(two_nodes, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "their_acts.py").write_text(CUBIC)
    config = {"activations": ["relu", "their_acts.Cubic"], "replicates": 34}
    here = compare(study(tmp_path / "here", **config)).table
    lines = Lines()

    there = compare(study(tmp_path / "there", executor=on(two_nodes), **config), progress=lines).table

    assert records.same_results(here, there)
    assert there["threads"].unique().to_list() == [1]
    assert len(lines.said) == 4
    assert all(re.search(r"2 nodes, 2 workers, \d running, 0 tried again$", line) for line in lines.said), lines.said
    assert not [path for path in (tmp_path / "there" / "running").iterdir() if path.is_dir()]


@pytest.mark.slow
def test_two_nodes_give_the_same_records_of_the_digits_as_this_process(two_nodes, tmp_path):
    here, there = (
        {
            "model": {"network": "TutorialCNN"},
            "trainer": {"max_epochs": 3, "accelerator": "cpu"},
            "study": {"activations": ["relu", "swish"], "replicates": 34, "root": str(tmp_path / name), "timing_s": 0},
        }
        for name in ("here", "there")
    )
    there["study"]["executor"] = on(two_nodes)

    assert records.same_results(compare(here).table, compare(there).table)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_workers_killed_at_random_instants_change_nothing(two_nodes, tmp_path):
    here, there = (
        study(tmp_path / name, activations=["relu", "swish", "tanh"], replicates=64) for name in ("here", "there")
    )
    here["trainer"]["max_epochs"] = there["trainer"]["max_epochs"] = 60
    there["study"]["executor"] = on(two_nodes)
    whole, instants, ended, kills = compare(here).table, np.random.default_rng(0), threading.Event(), []

    def kill():
        while len(kills) < 8 and not ended.wait(instants.uniform(0, 10)):
            workers = [of for of in descendants(os.getpid()) if b"ray::do_task" in command_of(of)]
            if workers:
                kills.append(instants.choice(workers))
                os.kill(kills[-1], signal.SIGKILL)

    with ThreadPoolExecutor() as other:
        killing = other.submit(kill)
        try:
            for _ in range(10):
                written = cells(tmp_path, "there")
                with suppress(MissingError):  # a cell was killed three times; the same command tries it again
                    table = compare(there).table
                    break
                assert cells(tmp_path, "there").items() >= written.items()
        finally:
            ended.set()
            killing.result()

    assert records.same_results(table, whole)
    assert len(kills) >= 4


@pytest.mark.slow
def test_files_that_are_sent_are_where_a_relative_root_says(two_nodes, tmp_path, monkeypatch):
    def look(_):
        meet(meeting)
        written = Path("data/images/rows.bin")
        return ray.get_runtime_context().get_node_id(), str(Path.cwd()), written.read_bytes(), written.stat().st_ino

    meeting = tmp_path / "meeting"
    meeting.mkdir()
    monkeypatch.chdir(tmp_path)
    rows = tmp_path / "data" / "images" / "rows.bin"
    rows.parent.mkdir(parents=True)
    rows.write_bytes(os.urandom(100_000))

    seen = [result for _, result in Ray(two_nodes, send=["data"]).run(look, range(6))]

    by_node = {node: (folder, inode) for node, folder, _, inode in seen}
    assert len(by_node) == 2
    assert {content for *_, content, _ in seen} == {rows.read_bytes()}
    assert {(node, (folder, inode)) for node, folder, _, inode in seen} == set(by_node.items())  # written once a node
    assert str(tmp_path) not in {folder for folder, _ in by_node.values()}


def test_the_code_of_a_folder_is_sent_without_what_else_lies_there(tmp_path):
    folder, copy = tmp_path / "project", tmp_path / "copy"
    for name in ("acts.py", "own/more.py", ".git/hook.py", "env/pyvenv.cfg", "env/lib/x.py", "data/big.bin", "s/a.csv"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    (folder / "broken.py").symlink_to("nowhere")
    copy.mkdir()

    copy_code(folder, copy)

    files = {str(path.relative_to(copy / "files")) for path in (copy / "files").rglob("*") if path.is_file()}
    assert files == {"acts.py", "own/more.py"}
    assert (copy / "actbench" / "studies" / "executors" / "nodes.py").exists()
    assert not list(copy.rglob("__pycache__"))


def killed_in_its_fit(task, results):
    """Trains a cell; the first time, its process is killed in the fit, and its folder is lost with the node."""
    LastCheckpoint.__init__.__defaults__ = (0, None)  # a checkpoint after each epoch
    saved = LastCheckpoint.save

    def save(self, trainer, pl_module):
        saved(self, trainer, pl_module)
        first = not results.exists() or "2" not in results.read_text().split()
        with results.open("a") as file:
            file.write(f"{trainer.current_epoch}\n")
        if trainer.current_epoch == 2 and first:
            shutil.rmtree(task[1])
            os.kill(os.getpid(), signal.SIGKILL)

    LastCheckpoint.save = save
    return train(task, checkpoints=results.with_name("copies").as_uri())


@pytest.mark.slow
def test_a_cell_that_is_tried_again_goes_on_from_the_copy_of_its_checkpoint(two_nodes, tmp_path):
    config = {"activations": ["relu"]}, {"max_epochs": 6, "accelerator": "cpu"}
    here, there = (study(tmp_path / name, **config[0]) | {"trainer": config[1]} for name in ("here", "there"))
    there["study"]["executor"] = on(two_nodes)
    lines, results = Lines(), tmp_path / "told"

    table = compare(there, work=partial(killed_in_its_fit, results=results), progress=lines).table

    assert results.read_text().split() == ["0", "1", "2", "3", "4", "5"]
    assert lines.said[0] == "FakeImages/MLP/relu seeds 0-2: its worker died; it is tried again"
    assert "1 tried again" in lines.said[-1]
    assert records.same_results(table, compare(here).table)
    assert not [path for path in (tmp_path / "copies").rglob("*") if path.is_file()]


# --- a Ray of our own ---


def descendants(process):
    """Processes that a process has started, and those that they have."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
    found = {process}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {process}


def listening(processes):
    """Addresses that processes listen at, as the kernel writes them."""
    sockets = set()
    for process in processes:
        with suppress(OSError):
            sockets |= {str(path.readlink()) for path in Path(f"/proc/{process}/fd").iterdir()}
    lines = [line.split() for name in ("tcp", "tcp6") for line in Path("/proc/net", name).read_text().splitlines()[1:]]
    return {line[1].split(":")[0] for line in lines if line[3] == "0A" and f"socket:[{line[9]}]" in sockets}


def alive(processes):
    """Those that have not ended."""
    return {process for process in processes if command_of(process)}


def command_of(process):
    """Its command; nothing if it has ended."""
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes()
    except OSError:
        return b""


def gone(processes, seconds=30):
    """Whether processes end in time."""
    deadline = time.monotonic() + seconds
    while alive(processes) and time.monotonic() < deadline:
        time.sleep(0.1)
    return not alive(processes)


@pytest.mark.slow
def test_a_ray_of_our_own_listens_on_loopback_alone_and_is_gone_at_the_end(capfd):
    before = {name: value for name, value in os.environ.items() if name.startswith("RAY")}
    handler = signal.getsignal(signal.SIGTERM)
    there_before = descendants(os.getpid())

    with Ray() as executor:
        results = dict(executor.run(square, range(3)))
        started = descendants(os.getpid()) - there_before
        addresses = listening({os.getpid(), *started})
        where = executor.where()

    assert results == {0: 0, 1: 1, 2: 4}
    assert where.startswith("1 node, ")
    loopback = {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}
    assert addresses
    assert addresses <= loopback
    assert gone(started)
    assert capfd.readouterr() == ("", "")
    assert {name: value for name, value in os.environ.items() if name.startswith("RAY")} == before
    assert signal.getsignal(signal.SIGTERM) == handler


@pytest.fixture
def config(tmp_path):
    """A folder with a study of four cells."""
    content = study("studies", activations=["relu", "swish", "tanh", "gelu"], replicates=4)
    content["trainer"]["max_epochs"] = 60
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(content))
    return tmp_path


def started(config, *options):
    """``compare`` with a Ray of its own, as a process."""
    command = [
        sys.executable,
        ROOT / "main.py",
        "compare",
        "--config",
        "study.yaml",
        "--study.executor",
        "ray",
        *options,
    ]
    return subprocess.Popen(command, cwd=config, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def ended_once_a_cell_is_finished(config, number):
    """The processes below a driver that gets a signal while cells run, its exit status, and what it says of errors.

    Processes are there with their commands.
    """
    process = started(config)
    deadline = time.monotonic() + 200
    while not cells(config) and time.monotonic() < deadline:
        time.sleep(0.02)
    below = {of: command_of(of) for of in descendants(process.pid)}
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    return below, process.returncode, errors


def cells(config, root="studies"):
    """Files of the store, with what tells whether one was written again."""
    return {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in config.glob(f"{root}/cells/[!.]*.parquet")}


@pytest.mark.slow
def test_ctrl_c_leaves_nothing_running(config):
    below, status, errors = ended_once_a_cell_is_finished(config, signal.SIGINT)

    assert status == 130, errors
    assert gone(below)
    assert 1 <= len(cells(config)) < 4
    assert re.fullmatch(r"interrupted; .* and kept, go on with: python main.py compare .*\n", errors)


@pytest.mark.slow
def test_nothing_is_lost_or_done_twice_when_the_driver_is_killed(config):
    below, status, errors = ended_once_a_cell_is_finished(config, signal.SIGKILL)
    finished = cells(config)

    assert status == -signal.SIGKILL, errors
    assert 1 <= len(finished) < 4
    # Two more, which serve these and run no code of ours, wait a minute for them.
    able = {of for of, command in below.items() if re.search(rb"raylet/raylet|gcs_server|ray::do_task", command)}
    assert len(able) >= 3
    assert gone(able)
    for process in alive(below):
        os.kill(process, signal.SIGKILL)
    again = started(config)
    said, errors = again.communicate(timeout=300)
    assert (again.returncode, errors) == (0, "")
    assert len(cells(config)) == 4
    assert cells(config).items() >= finished.items()  # what is done again is written again
    assert f"1/{4 - len(finished)} " in said
    here = yaml.safe_load((config / "study.yaml").read_text())
    here["study"]["root"] = str(config / "here")
    assert records.same_results(read_records(config / "studies" / "s" / "records.parquet"), compare(here).table)


@pytest.mark.slow
def test_the_benchmark_of_scale_measures_many_cells(tmp_path):
    options = ["--parts", "scheduling", "many", "--cells", "500", "--output", tmp_path]

    result = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "scale.py", *options],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=500,
    )

    assert result.returncode == 0, result.stderr
    measured = json.loads((tmp_path / "scale.json").read_text())
    assert measured["scheduling"]["ray_ms"] > measured["scheduling"]["here_ms"]
    assert (measured["many"]["failures"], measured["many"]["rows"]) == (0, 500)
    assert (measured["many"]["apart_files"], measured["many"]["merged_files"]) == (500, 100)

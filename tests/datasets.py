"""Small datasets, written as files in each one's own format, and served like the real ones."""

import gzip
import hashlib
import pickle
import shutil
import tarfile
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import scipy.io
import torch
import torchvision.datasets

FROM_FILES = ["MNIST", "FashionMNIST", "KMNIST", "QMNIST", "CIFAR10", "CIFAR100", "SVHN"]
DATASETS = ["Digits", "FakeImages", *FROM_FILES]


def made_up(rows, classes, shape, seed):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (rows, *shape), dtype=np.uint8), np.arange(rows) % classes


def md5(path):
    return hashlib.md5(path.read_bytes()).hexdigest()


def write_idx(path, array, *, code=8, dtype="u1"):
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    path.write_bytes(bytes([0, 0, code, array.ndim]) + sizes + array.astype(dtype).tobytes())


def write_mnist(root, folder="MNIST", rows=200, test_rows=50):
    raw = Path(root, folder, "raw")
    raw.mkdir(parents=True)
    for seed, (part, count) in enumerate([("train", rows), ("t10k", test_rows)]):
        images, labels = made_up(count, 10, (28, 28), seed)
        write_idx(raw / f"{part}-images-idx3-ubyte", images)
        write_idx(raw / f"{part}-labels-idx1-ubyte", labels)


def write_qmnist(root, rows=200, test_rows=50):
    raw = Path(root, "QMNIST", "raw")
    raw.mkdir(parents=True)
    for seed, (part, count) in enumerate([("train", rows), ("test", test_rows)]):
        images, labels = made_up(count, 10, (28, 28), seed)
        writers = np.random.default_rng(seed).integers(0, 2**31, (count, 7))  # and more of each image
        write_idx(raw / f"qmnist-{part}-images-idx3-ubyte", images)
        write_idx(raw / f"qmnist-{part}-labels-idx2-int", np.c_[labels, writers], code=12, dtype=">i4")


def write_cifar10(root, monkeypatch, rows=200, test_rows=50):
    images, labels = made_up(rows, 10, (3072,), 0)
    batches = {f"data_batch_{i + 1}": {"data": images[i::5], "labels": labels[i::5].tolist()} for i in range(5)}
    images, labels = made_up(test_rows, 10, (3072,), 1)
    batches["test_batch"] = {"data": images, "labels": labels.tolist()}
    batches["batches.meta"] = {"label_names": [f"class {label}" for label in range(10)]}
    write_pickles(root, torchvision.datasets.CIFAR10, batches, monkeypatch)


def write_cifar100(root, monkeypatch, rows=700, test_rows=100):
    batches = {}
    for seed, (part, count) in enumerate([("train", rows), ("test", test_rows)]):
        images, labels = made_up(count, 100, (3072,), seed)
        batches[part] = {"data": images, "fine_labels": labels.tolist()}
    batches["meta"] = {"fine_label_names": [f"class {label}" for label in range(100)]}
    write_pickles(root, torchvision.datasets.CIFAR100, batches, monkeypatch)


def write_pickles(root, source, batches, monkeypatch):
    """CIFAR's files, and their sums in place of those that torchvision knows."""
    folder = Path(root, source.base_folder)
    folder.mkdir(parents=True)
    for name, content in batches.items():
        (folder / name).write_bytes(pickle.dumps(content))
    sums = [[name, md5(folder / name)] for name in batches]
    monkeypatch.setattr(source, "train_list", sums[:-2])
    monkeypatch.setattr(source, "test_list", sums[-2:-1])
    monkeypatch.setattr(source, "meta", {**source.meta, "md5": sums[-1][1]})


def write_svhn(root, monkeypatch, rows=200, test_rows=50):
    Path(root).mkdir(exist_ok=True)
    known = {}
    for seed, (part, count) in enumerate([("train", rows), ("test", test_rows)]):
        images, labels = made_up(count, 10, (32, 32, 3), seed)
        path = Path(root, f"{part}_32x32.mat")
        labels = np.where(labels == 0, 10, labels)[:, None]  # SVHN's files call the digit 0 class 10
        scipy.io.savemat(path, {"X": images.transpose(1, 2, 3, 0), "y": labels.astype(np.uint8)})
        known[part] = [f"http://127.0.0.1:9/{path.name}", path.name, md5(path)]
    monkeypatch.setattr(torchvision.datasets.SVHN, "split_list", known)


def write_dataset(name, root, monkeypatch):
    """Files of any dataset that actbench reads from files."""
    writers = {"CIFAR10": write_cifar10, "CIFAR100": write_cifar100, "SVHN": write_svhn}
    if name in writers:
        writers[name](root, monkeypatch)
    elif name == "QMNIST":
        write_qmnist(root)
    else:
        write_mnist(root, name)


def publish(name, root, site, url, monkeypatch):
    """Archives of a dataset's files in a site's folder, where torchvision is told to look. Returns their names."""
    source = getattr(torchvision.datasets, name)
    if name == "SVHN":
        known = {part: [url + file, file, sum_] for part, (_, file, sum_) in source.split_list.items()}
        monkeypatch.setattr(source, "split_list", known)
        return [Path(shutil.copy(root / file, site)).name for _, file, _ in known.values()]
    if name.startswith("CIFAR"):
        with tarfile.open(site / source.filename, "w:gz") as archive:
            archive.add(root / source.base_folder, source.base_folder)
        monkeypatch.setattr(source, "url", url + source.filename)
        monkeypatch.setattr(source, "tgz_md5", md5(site / source.filename))
        return [source.filename]
    if name == "QMNIST":
        known = {}
        for part in ("train", "test"):
            for path in sorted((root / name / "raw").glob(f"qmnist-{part}-*")):  # images, then labels
                archive = site / f"{path.name}.gz"
                archive.write_bytes(gzip.compress(path.read_bytes()))
                known.setdefault(part, []).append((url + archive.name, md5(archive)))
        monkeypatch.setattr(source, "resources", known)
        return [Path(address).name for pairs in known.values() for address, _ in pairs]
    names = [archive for archive, _ in source.resources]
    for archive in names:
        content = (root / name / "raw" / archive.removesuffix(".gz")).read_bytes()
        (site / archive).write_bytes(gzip.compress(content))
    monkeypatch.setattr(source, "mirrors", [url])
    monkeypatch.setattr(source, "resources", [(archive, md5(site / archive)) for archive in names])
    return names


class Site(SimpleHTTPRequestHandler):
    broken = ()  # names of files of which only the first half is sent

    def copyfile(self, source, outputfile):
        content = source.read()
        half = len(content) // 2 if Path(self.path).name in self.broken else None
        outputfile.write(content[:half])

    def log_message(self, *args):
        pass


class QuietServer(ThreadingHTTPServer):
    def handle_error(self, request, client_address):
        pass  # torchvision asks for each file once without reading it


@contextmanager
def serve(folder):
    """A site on the loopback interface; gives its address."""
    server = QuietServer(("127.0.0.1", 0), partial(Site, directory=folder))
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def all_rows(loader):
    return torch.cat([batch.rows[0] for batch in loader])

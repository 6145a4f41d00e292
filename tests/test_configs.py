"""Every shipped config, run on small files in its dataset's own format."""

from pathlib import Path

import pytest
import yaml

CONFIGS = sorted((Path(__file__).parent.parent / "configs").glob("*.yaml"))


def test_configs_are_the_ones_promised():
    names = {path.stem for path in CONFIGS}

    assert names >= {"digits_relu", "digits_swish", "mnist_swish", "fashion_mnist_swish", "cifar10_swish", "tutorial"}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_config_is_short_and_says_how_it_is_run(path):
    lines = path.read_text().splitlines()

    assert len(lines) < 30
    assert lines[0].startswith("# ")
    assert any(f"python main.py fit --config configs/{path.name}" in line for line in lines)
    assert not any(word in path.read_text() for word in ("MINUTES", "SECONDS"))
    assert isinstance(yaml.safe_load(path.read_text()), dict)

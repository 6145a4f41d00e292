"""Checkpoints that describe themselves in plain values, and can be read without being trusted.

A checkpoint's key ``actbench`` says how it was made::

    schema: 4
    version: 0.1.0
    seed: 0
    vary: [init, split, order, augmentation, dropout]
    crossed: [init, split]
    model: {activation: ..., network: ..., optimizer: ..., lr_scheduler: ...,
            replicates: ..., input_shape: ..., num_classes: ..., weights: sha256:..., freeze: [...]}
    data: {class_path: ..., init_args: {...}}
    normalization: {kind: train, mean: ..., deviation: ...}
    trainer: {max_epochs: ..., precision: ..., ...}

It holds no absolute path, and nothing is imported before every class path in it has proved to be trusted.
"""

from actbench.training.checkpoints.description import describe_data as describe_data
from actbench.training.checkpoints.description import describe_model as describe_model
from actbench.training.checkpoints.description import describe_run as describe_run
from actbench.training.checkpoints.description import describe_trainer as describe_trainer
from actbench.training.checkpoints.description import is_default as is_default
from actbench.training.checkpoints.description import portable as portable
from actbench.training.checkpoints.form import DIGEST as DIGEST
from actbench.training.checkpoints.form import CheckpointError as CheckpointError
from actbench.training.checkpoints.form import check_state as check_state
from actbench.training.checkpoints.form import is_description as is_description
from actbench.training.checkpoints.paths import move_paths as move_paths
from actbench.training.checkpoints.reading import KEY as KEY
from actbench.training.checkpoints.reading import WEIGHTS as WEIGHTS
from actbench.training.checkpoints.reading import load_checkpoint as load_checkpoint
from actbench.training.checkpoints.reading import read_checkpoint as read_checkpoint
from actbench.training.checkpoints.trust import names_in_texts as names_in_texts
from actbench.training.checkpoints.trust import trusted_names as trusted_names

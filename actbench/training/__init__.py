"""Training: the classifier, its engine, callbacks, checkpoints and metrics."""

from actbench.training.classifier import Classifier as Classifier

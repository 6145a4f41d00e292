import numpy as np
import pytest
import torch
from pytorch_lightning import Callback, LightningDataModule, Trainer
from pytorch_lightning.callbacks import EarlyStopping
from scipy.special import softmax
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from actbench.data import FakeImages
from actbench.training.callbacks import LastCheckpoint
from actbench.training.classifier import Classifier


class Dropout(nn.Module):
    """Network whose training draws from torch's global generator."""

    def __init__(self, activation, input_shape, num_classes):
        super().__init__()
        pixels = int(np.prod(input_shape))
        self.layers = nn.Sequential(
            nn.Flatten(), nn.Linear(pixels, 16), activation(), nn.Dropout(), nn.Linear(16, num_classes)
        )

    def forward(self, images):
        return self.layers(images)


def classifier(**options):
    return Classifier(**{"input_shape": (1, 8, 8), "num_classes": 10} | options)


def trainer(tmp_path, **options):
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    return Trainer(default_root_dir=tmp_path, accelerator="cpu", **{"max_epochs": 1} | quiet | options)


def fitted_losses(model, data, tmp_path, **options):
    fitted = trainer(tmp_path, **options)
    fitted.fit(model, data)
    return {name: value.item() for name, value in fitted.callback_metrics.items()}


def test_scores_are_those_of_an_independent_computation(tmp_path):
    model, data = classifier(seed=1), FakeImages(rows=700, batch_size=64)

    (scores,) = trainer(tmp_path).validate(model, data, verbose=False)

    images, labels = whole_part(data, "val")
    with torch.no_grad():
        probability = softmax(model.eval()(images).double().numpy(), axis=1)
    labels = labels.numpy()
    confidence, correct = probability.max(1), probability.argmax(1) == labels
    bins = np.minimum((confidence * 15).astype(int), 14)
    gaps = [abs(correct[bins == b].mean() - confidence[bins == b].mean()) * (bins == b).mean() for b in set(bins)]
    assert scores["val/loss"] == pytest.approx(-np.log(probability[np.arange(len(labels)), labels]).mean(), rel=1e-5)
    assert scores["val/acc"] == pytest.approx(correct.mean())
    assert scores["val/ece"] == pytest.approx(sum(gaps), abs=1e-5)


def whole_part(data, part):
    data.prepare_data()
    data.setup("fit")
    loader = {"train": data.train_dataloader, "val": data.val_dataloader}[part]()
    batches = [data.transfer_batch_to_device(batch, torch.device("cpu"), 0) for batch in loader]
    return torch.cat([images[0] for images, *_ in batches]), torch.cat([labels[0] for _, labels, _ in batches])


def test_train_loss_is_the_mean_over_rows_while_the_weights_change(tmp_path):
    model, data = (
        classifier(optimizer={"class_path": "torch.optim.SGD", "init_args": {"lr": 0.1}}),
        FakeImages(rows=300),
    )
    reference, losses = model.engine.replicate(0), []
    optimizer = torch.optim.SGD(reference.parameters(), lr=0.1)
    data.prepare_data()
    data.setup("fit")
    for batch in data.train_dataloader():
        (images,), (labels,), _ = data.transfer_batch_to_device(batch, torch.device("cpu"), 0)
        loss = nn.functional.cross_entropy(reference(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses += [loss.item()] * len(labels)

    logged = fitted_losses(model, data, tmp_path)

    assert logged["train/loss"] == pytest.approx(np.mean(losses), rel=1e-5)
    for ours, theirs in zip(replicate_weights(model, 0), reference.parameters(), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-6)


def test_a_diverged_network_has_a_loss_that_says_so(tmp_path):
    model = classifier(optimizer={"class_path": "torch.optim.SGD", "init_args": {"lr": 1e30}})

    logged = fitted_losses(model, FakeImages(rows=300), tmp_path)

    assert not np.isfinite(logged["train/loss"])
    assert not np.isfinite(logged["val/loss"])


def test_what_a_network_draws_in_training_follows_from_the_seed(tmp_path):
    def weights(global_seed, seed):
        torch.manual_seed(global_seed)
        model = classifier(network=Dropout, seed=seed)
        fitted_losses(model, FakeImages(rows=200, seed=0), tmp_path)
        return model.engine.replicate(0).layers[1].weight

    first = weights(1, seed=0)

    assert torch.equal(first, weights(2, seed=0))
    assert not torch.equal(first, weights(1, seed=1))


class SaveAtStep(Callback):
    """Saves a checkpoint in the middle of an epoch, as an interruption does."""

    def __init__(self, path, step):
        self.path, self.step = path, step

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.path)


COSINE = {"class_path": "torch.optim.lr_scheduler.CosineAnnealingLR", "init_args": {"T_max": 30}}
SCHEDULES = {
    "none": None,
    "cosine by steps": COSINE,
    "cosine": {"class_path": "torch.optim.lr_scheduler.CosineAnnealingLR", "init_args": {"T_max": 4}},
    "one cycle": {"class_path": "torch.optim.lr_scheduler.OneCycleLR", "init_args": {"max_lr": 0.1, "total_steps": 20}},
    "plateau": {
        "class_path": "torch.optim.lr_scheduler.ReduceLROnPlateau",
        "init_args": {"patience": 0, "threshold": 10.0, "threshold_mode": "abs", "factor": 0.5},
    },
}


@pytest.mark.filterwarnings("ignore:.*callbacks used to create the checkpoint")
@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
@pytest.mark.parametrize("step", [2, 7, 13, None], ids=["first epoch", "second", "third", "end of the second"])
def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(tmp_path, schedule, step):
    def model():
        return classifier(network=Dropout, lr_scheduler=schedule, lr_interval="step" if schedule is COSINE else None)

    def data():
        return FakeImages(rows=350, batch_size=50)  # five steps an epoch

    whole, resumed, path = model(), model(), tmp_path / "last.ckpt"
    expected = fitted_losses(whole, data(), tmp_path, max_epochs=4, callbacks=step and SaveAtStep(path, step))
    if step is None:
        last = LastCheckpoint()
        last.dirpath = str(tmp_path)
        fitted_losses(model(), data(), tmp_path, max_epochs=2, callbacks=last, enable_checkpointing=True)
    again = trainer(tmp_path, max_epochs=4)

    again.fit(resumed, data(), ckpt_path=path)

    assert {name: value.item() for name, value in again.callback_metrics.items()} == expected
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))
    rates = [optimizer.param_groups[0]["lr"] for optimizer in again.optimizers]
    assert schedule is None or rates != [0.001]


class Rates(Callback):
    mixes_seeds = False

    def __init__(self):
        self.rates = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])


@pytest.mark.parametrize(("interval", "steps_between"), [(None, 5), ("epoch", 5), ("step", 1)])
def test_a_schedule_steps_as_often_as_is_said(tmp_path, interval, steps_between):
    schedule = {"class_path": "StepLR", "init_args": {"step_size": 1, "gamma": 0.5}}
    model, seen = classifier(lr_scheduler=schedule, lr_interval=interval, replicates=2), Rates()

    trainer(tmp_path, max_epochs=2, callbacks=[seen]).fit(model, FakeImages(rows=350, batch_size=50, replicates=2))

    assert seen.rates == [0.001 * 0.5 ** (step // steps_between) for step in range(10)]  # five steps an epoch


@pytest.mark.parametrize("schedule", [None, SCHEDULES["plateau"]], ids=["none", "plateau"])
def test_an_interval_needs_a_schedule_that_steps_by_it(schedule):
    with pytest.raises(ValueError, match="lr_interval needs an lr_scheduler other than ReduceLROnPlateau"):
        classifier(lr_scheduler=schedule, lr_interval="step")


def test_a_plateau_schedule_steps_once_an_epoch(tmp_path):
    model = classifier(lr_scheduler=SCHEDULES["plateau"])
    fitted = trainer(tmp_path, max_epochs=4)

    fitted.fit(model, FakeImages(rows=200))

    # The first epoch is the best by definition of the threshold; each of the three after it halves the rate.
    assert fitted.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.001 / 8)


class Foreign(LightningDataModule):
    def setup(self, stage):
        images, labels = torch.rand(60, 1, 8, 8), torch.arange(60) % 10
        self.dataset = TensorDataset(images, labels)

    def train_dataloader(self):
        return DataLoader(self.dataset, batch_size=20)

    val_dataloader = train_dataloader

    def predict_dataloader(self):
        return DataLoader(self.dataset.tensors[0], batch_size=20)


def test_a_foreign_datamodule_trains_and_predicts(tmp_path):
    model, data = classifier(), Foreign()

    logged = fitted_losses(model, data, tmp_path)
    predictions = trainer(tmp_path).predict(model, data)

    assert np.isfinite(logged["val/loss"])
    assert torch.cat([batch.probabilities[0] for batch in predictions]).shape == (60, 10)
    assert all(batch.labels is None and batch.rows is None for batch in predictions)


def test_double_precision_stays_double(tmp_path):
    model = classifier(activation="tanh")

    fitted_losses(model, FakeImages(rows=200), tmp_path, precision="64-true")

    assert all(parameter.dtype == torch.float64 for parameter in model.parameters())
    assert model(torch.rand(1, 2, 1, 8, 8)).dtype == torch.float64


def test_bf16_mixed_precision_trains(tmp_path):
    logged = fitted_losses(classifier(), FakeImages(rows=200), tmp_path, precision="bf16-mixed")

    assert np.isfinite(logged["val/loss"])


def test_a_fit_learns(tmp_path):
    data = FakeImages(rows=600, batch_size=32)
    model = classifier(network="MLP", optimizer={"class_path": "torch.optim.Adam", "init_args": {"lr": 0.003}})

    logged = fitted_losses(model, data, tmp_path, max_epochs=15)

    assert logged["val/acc"] > 0.6  # one in ten by chance


# --- replicates ---


def stacked(replicates, data=None, **options):
    """A classifier of several replicates, and its data."""
    return classifier(replicates=replicates, **options), FakeImages(rows=300, replicates=replicates, **(data or {}))


def replicate_weights(model, number):
    return [parameter.detach() for parameter in model.engine.replicate(number).parameters()]


@pytest.mark.parametrize("engine", ["stack", "sequence"])
@pytest.mark.parametrize("optimizer", [pytest.param("SGD", marks=pytest.mark.slow), "Adam"])
def test_seed_7_alone_is_seed_7_among_others_bit_for_bit(tmp_path, optimizer, engine):
    chosen = {"class_path": f"torch.optim.{optimizer}", "init_args": {"lr": 0.01}}
    many = classifier(replicates=4, seed=5, optimizer=chosen, engine=engine)
    alone = classifier(replicates=1, seed=7, optimizer=chosen, engine=engine)

    fitted_losses(many, FakeImages(rows=300, seed=5, replicates=4), tmp_path, max_epochs=3)
    fitted_losses(alone, FakeImages(rows=300, seed=7), tmp_path, max_epochs=3)

    assert all(map(torch.equal, replicate_weights(many, 2), replicate_weights(alone, 0)))
    for name, values in many.replicate_scores().items():
        assert torch.equal(values[2], alone.replicate_scores()[name][0])


def test_logged_are_the_mean_and_the_spread_over_replicates(tmp_path):
    model, data = stacked(3)

    logged = fitted_losses(model, data, tmp_path)

    for name, values in model.replicate_scores().items():
        assert logged[name] == pytest.approx(values.numpy().mean())
        assert logged[f"{name}_sd"] == pytest.approx(values.numpy().std(ddof=1), rel=1e-4)
        assert (logged[f"{name}_min"], logged[f"{name}_max"]) == (values.min(), values.max())


@pytest.mark.parametrize("activation", ["relu", "swish_trainable"])  # the latter has a single number as a parameter
@pytest.mark.parametrize("algorithm", ["norm", "value"])
@pytest.mark.parametrize("engine", ["stack", "sequence"])
def test_gradients_are_clipped_for_each_replicate_by_itself(tmp_path, engine, algorithm, activation):
    most = 0.05 if algorithm == "norm" else 0.001
    options = {"gradient_clip_val": most, "gradient_clip_algorithm": algorithm, "limit_train_batches": 1}
    sgd = {"class_path": "torch.optim.SGD", "init_args": {"lr": 1.0}}
    model, data = stacked(3, activation=activation, optimizer=sgd, engine=engine)
    alone = [model.engine.replicate(number) for number in range(3)]
    data.prepare_data()
    data.setup("fit")
    images, labels, _ = data.transfer_batch_to_device(next(iter(data.train_dataloader())), torch.device("cpu"), 0)

    fitted_losses(model, data, tmp_path, **options)

    clip = nn.utils.clip_grad_norm_ if algorithm == "norm" else nn.utils.clip_grad_value_
    for number, network in enumerate(alone):
        nn.functional.cross_entropy(network(images[number]), labels[number]).backward()
        before = [parameter.grad.clone() for parameter in network.parameters()]
        clip(network.parameters(), most)
        assert not all(map(torch.equal, before, [parameter.grad for parameter in network.parameters()]))
        for ours, theirs in zip(replicate_weights(model, number), network.parameters(), strict=True):
            assert torch.allclose(ours, theirs - theirs.grad, atol=1e-6)


class Weights(Callback):
    """Records every epoch's weights and losses."""

    def __init__(self):
        self.weights, self.losses, self.active = [], [], []

    def on_train_epoch_start(self, trainer, pl_module):
        self.active.append(pl_module.active.tolist())

    def on_train_epoch_end(self, trainer, pl_module):
        self.weights.append([parameter.detach().clone() for parameter in pl_module.parameters()])
        self.losses.append(pl_module.evaluated["val/loss"].clone())


@pytest.mark.parametrize("patience", [0, 2])
def test_each_replicate_stops_early_by_itself_and_keeps_its_weights(tmp_path, patience):
    adamw = {"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.03, "weight_decay": 0.1}}
    model, data = stacked(4, optimizer=adamw)
    kept = Weights()

    fitted = trainer(tmp_path, max_epochs=60, callbacks=[EarlyStopping("val/loss", patience=patience), kept])
    fitted.fit(model, data)

    losses, stops = torch.stack(kept.losses), []
    for replicate in range(4):
        best, waited, epoch = np.inf, 0, -1
        while waited < max(1, patience):
            epoch += 1
            loss = losses[epoch, replicate].item()
            best, waited = (loss, 0) if loss < best else (best, waited + 1)
        stops.append(epoch)
        for weights in kept.weights[epoch:]:
            assert all(
                torch.equal(now[replicate], then[replicate])
                for now, then in zip(weights, kept.weights[epoch], strict=True)
            )
    assert len(set(stops)) > 1
    assert len(losses) == max(stops) + 1 < 60
    assert not model.active.any()


def test_a_fit_that_ends_before_it_is_validated_needs_no_early_stop(tmp_path):
    model, data = stacked(2)

    fitted = trainer(tmp_path, max_epochs=-1, max_steps=3, callbacks=[EarlyStopping("val/loss")])
    fitted.fit(model, data)

    assert fitted.global_step == 3
    assert model.active.all()


def test_a_replicate_goes_on_as_if_no_other_had_stopped(tmp_path):
    stop = EarlyStopping("val/loss", patience=2)
    model, data = stacked(4, optimizer={"class_path": "torch.optim.Adam", "init_args": {"lr": 0.03}})
    free, same_data = stacked(4, optimizer={"class_path": "torch.optim.Adam", "init_args": {"lr": 0.03}})
    with_stops, without = Weights(), Weights()

    trainer(tmp_path, max_epochs=60, callbacks=[stop, with_stops]).fit(model, data)
    trainer(tmp_path, max_epochs=len(with_stops.weights), callbacks=[without]).fit(free, same_data)

    for active, ours, theirs in zip(with_stops.active, with_stops.weights, without.weights, strict=True):
        for replicate in np.flatnonzero(active):
            assert all(torch.equal(a[replicate], b[replicate]) for a, b in zip(ours, theirs, strict=True))
    assert any(0 < sum(active) < 4 for active in with_stops.active)


def test_a_stack_resumed_mid_run_is_the_uninterrupted_one_bit_for_bit(tmp_path):
    def parts():
        return classifier(network=Dropout, replicates=3), FakeImages(rows=350, batch_size=50, replicates=3)

    path = tmp_path / "last.ckpt"
    (whole, data), (resumed, same_data) = parts(), parts()
    stop = {"monitor": "val/loss", "patience": 1}
    trainer(tmp_path, max_epochs=4, callbacks=[SaveAtStep(path, 7), EarlyStopping(**stop)]).fit(whole, data)

    trainer(tmp_path, max_epochs=4, callbacks=[EarlyStopping(**stop)]).fit(resumed, same_data, ckpt_path=path)

    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))
    for name, values in whole.replicate_scores().items():
        assert torch.equal(values, resumed.replicate_scores()[name])


def test_a_plateau_schedule_is_refused_for_several_replicates():
    with pytest.raises(ValueError, match="ReduceLROnPlateau lowers one rate for all replicates"):
        classifier(replicates=2, lr_scheduler=SCHEDULES["plateau"])


def test_the_ensemble_is_the_mean_probability_of_those_that_were_not_trained_on_an_image(tmp_path):
    model, data = stacked(5)

    (logged,) = trainer(tmp_path).test(model, data, verbose=False)
    predictions = trainer(tmp_path).predict(model, data)

    rows, labels, probabilities = (np.concatenate([p[i].numpy() for p in predictions], 1) for i in range(3))
    mean, truth = {}, {}
    for replicate in range(5):
        for row, label, probability in zip(rows[replicate], labels[replicate], probabilities[replicate], strict=True):
            mean.setdefault(row, []).append(probability)
            truth[row] = label
    ensemble = {row: np.mean(each, axis=0) for row, each in mean.items()}
    assert logged["test/members_ensemble"] == pytest.approx(np.mean([len(each) for each in mean.values()]))
    assert 1 < logged["test/members_ensemble"] < 5
    assert logged["test/acc_ensemble"] == pytest.approx(np.mean([ensemble[row].argmax() == truth[row] for row in mean]))
    assert logged["test/loss_ensemble"] == pytest.approx(
        -np.mean([np.log(ensemble[r][truth[r]]) for r in mean]), rel=1e-5
    )


def test_a_diverged_replicate_is_left_out_of_mean_and_ensemble(tmp_path):
    model, data = stacked(3, engine="stack")
    with torch.no_grad():
        next(model.parameters())[1] = torch.nan

    (logged,) = trainer(tmp_path).test(model, data, verbose=False)

    losses = model.replicate_scores()["test/loss"]
    assert losses.isnan().tolist() == [False, True, False]
    assert logged["test/loss"] == pytest.approx(losses[[0, 2]].mean().item())
    assert np.isfinite(logged["test/loss_ensemble"])
    assert logged["test/members_ensemble"] <= 2


class Same(Foreign):
    def setup(self, stage):
        torch.manual_seed(0)
        super().setup(stage)


@pytest.mark.parametrize("engine", ["stack", "sequence"])
def test_a_foreign_datamodules_batches_are_shared_by_all_replicates(tmp_path, engine):
    model, alone = (classifier(engine=engine, **options) for options in ({"replicates": 3}, {"seed": 2}))

    fitted_losses(model, Same(), tmp_path)
    fitted_losses(alone, Same(), tmp_path)

    assert all(map(torch.equal, replicate_weights(model, 2), replicate_weights(alone, 0)))
    assert model.replicate_scores()["val/loss"].unique().numel() == 3


@pytest.mark.parametrize(
    ("limits", "steps"),  # four steps an epoch
    [({"min_epochs": 4}, 16), ({"min_steps": 14}, 14), ({"min_epochs": 3, "min_steps": 3}, 12)],
)
@pytest.mark.parametrize("clip", [1.0, pytest.param(None, marks=pytest.mark.slow)])
def test_no_replicate_stops_before_the_least_epochs_and_steps(tmp_path, limits, steps, clip):
    def fit(*callbacks, **options):
        model, data = stacked(2)
        fitted = trainer(tmp_path, callbacks=list(callbacks), gradient_clip_val=clip, **options)
        fitted.fit(model, data)
        return model, fitted

    never_better = {"monitor": "val/loss", "patience": 1, "min_delta": 10}  # to stop after the second epoch
    seen = Losses()
    model, fitted = fit(EarlyStopping(**never_better), seen, max_epochs=9, **limits)

    free, _ = fit(max_epochs=9, max_steps=steps)
    assert fitted.global_step == steps
    assert torch.stack(seen.losses).isfinite().all()
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), free.parameters(), strict=True))


class Losses(Callback):
    def __init__(self):
        self.losses = []

    def on_train_epoch_end(self, trainer, pl_module):
        self.losses.append(pl_module.replicate_scores()["train/loss"])


def test_two_rules_that_together_stop_all_replicates_end_the_fit(tmp_path):
    class One(Callback):  # each of the two watches a score that is better for the other replicate
        def on_validation_end(self, trainer, pl_module):
            better = trainer.current_epoch * torch.tensor([1.0, -1.0])
            pl_module.evaluated |= {"val/loss": better, "val/ece": -better}

    model, data = stacked(2)
    stops = [EarlyStopping(f"val/{name}", patience=1) for name in ("loss", "ece")]
    seen = Losses()
    fitted = trainer(tmp_path, max_epochs=9, min_epochs=5, callbacks=[One(), *stops, seen])

    fitted.fit(model, data)

    assert torch.stack(seen.losses).isfinite().all()
    assert fitted.current_epoch == 5


def test_a_fit_whose_replicates_have_all_stopped_trains_no_more_when_resumed(tmp_path):
    stop, path = {"monitor": "val/loss", "patience": 1, "min_delta": 10}, tmp_path / "last.ckpt"
    model, data = stacked(2)
    first = trainer(tmp_path, max_epochs=9, callbacks=[EarlyStopping(**stop)])
    first.fit(model, data)
    first.save_checkpoint(path)
    again, data = stacked(2)
    second = trainer(tmp_path, max_epochs=9, callbacks=[EarlyStopping(**stop)])

    second.fit(again, data, ckpt_path=path)

    assert first.current_epoch == second.current_epoch == 2
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))

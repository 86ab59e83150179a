"""Recorders of trainings that influx does not run: what they save is what the training went through."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import influx
from influx.errors import ConfigError
from influx.integrations.saving import Checkpoints
from influx.integrations.torch import Recorder
from influx.learners.torch.imported import Imported, Loaded
from tests.own.nets import RATES, Trained, net

LIGHTNING = ("lightning", "pytorch_lightning")  # either name of the package


def loaded(folder: Path, model: nn.Module) -> list[tuple[Loaded, dict[str, Tensor]]]:
    return [(one, one.read(model)) for one in Imported(path=str(folder)).loaded()]


def same(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, trained: Trained) -> None:
    """As in ``Trained``, with a scheduler that falls from rate to rate."""
    rates = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: RATES[min(step, 2)] / RATES[0])
    for _ in RATES:
        optimizer.zero_grad()
        F.cross_entropy(model(trained.x), trained.y).backward()
        optimizer.step()
        rates.step()


def test_a_loop_of_plain_pytorch_is_recorded_as_it_went(tmp_path: Path) -> None:
    trained, model = Trained(), net()
    optimizer = torch.optim.SGD(model.parameters(), lr=RATES[0])
    with Recorder(model, optimizer, tmp_path, every=1):
        train(model, optimizer, trained)
    found = loaded(tmp_path, net())
    assert [(one.step, one.rate) for one, _ in found] == [
        (0, 0.3),
        (1, pytest.approx(0.2)),
        (2, pytest.approx(0.1)),
        (3, pytest.approx(0.1)),
    ]
    assert all(same(held, state) for (_, held), state in zip(found, [*trained.states, model.state_dict()], strict=True))
    result = influx.attribute(model, trained.train, trained.test, estimator="tracincp", checkpoints=tmp_path)
    assert result.influence == pytest.approx(trained.tracin(trained.states, RATES), rel=1e-4)


def test_only_what_is_due_is_saved_and_a_failed_training_has_no_end(tmp_path: Path) -> None:
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(RuntimeError), Recorder(model, optimizer, tmp_path, every=2):
        train(model, optimizer, Trained())
        raise RuntimeError
    assert [one.step for one, _ in loaded(tmp_path, net())] == [0, 2]
    optimizer.step()  # the hook is gone
    assert len(loaded(tmp_path, net())) == 2


def test_a_folder_holds_one_training(tmp_path: Path) -> None:
    Checkpoints(tmp_path, 1).save(0, net(), [{"lr": 0.1}])
    with pytest.raises(ConfigError, match="another training"):
        Checkpoints(tmp_path, 1)
    with pytest.raises(ConfigError, match="at least 1"):
        Checkpoints(tmp_path / "b", 0)


def test_wrappers_leave_no_trace_in_names_and_tied_parameters_are_kept(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Embedding(4, 3), nn.Linear(3, 4, bias=False))
    model[1].weight = model[0].weight
    Checkpoints(tmp_path, 1).save(5, nn.DataParallel(model), [{"lr": 0.1}, {"lr": 0.2}])
    ((one, held),) = loaded(tmp_path, model)
    assert one.rate is None and same(held, model.state_dict())  # two rates: nobody says which


@pytest.mark.skipif(not any(map(importlib.util.find_spec, LIGHTNING)), reason="lightning is not installed")
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the library, about the machine
def test_lightning_is_recorded_as_it_went(tmp_path: Path) -> None:
    lightning = importlib.import_module(next(filter(importlib.util.find_spec, LIGHTNING)))
    from influx.integrations.lightning import InfluxCallback

    class Module(lightning.LightningModule):  # type: ignore[name-defined,misc]
        def __init__(self) -> None:
            super().__init__()
            self.net = net()

        def forward(self, x: Tensor) -> Tensor:
            found: Tensor = self.net(x)
            return found

        def training_step(self, batch: Any, index: int) -> Tensor:
            return F.cross_entropy(self(batch[0]), batch[1])

        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.SGD(self.parameters(), lr=RATES[0])
            rates = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: RATES[min(step, 2)] / RATES[0])
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": rates, "interval": "step"}}

    trained, module = Trained(), Module()
    trainer = lightning.Trainer(
        max_steps=3, callbacks=[InfluxCallback(tmp_path / "saved", every=1)], logger=False, accelerator="cpu",
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        default_root_dir=tmp_path, barebones=False,
    )  # fmt: skip
    trainer.fit(module, DataLoader(TensorDataset(trained.x, trained.y), batch_size=8))
    found = loaded(tmp_path / "saved", net())
    assert [one.rate for one, _ in found][:3] == pytest.approx(list(RATES))
    assert all(same(held, state) for (_, held), state in zip(found, trained.states, strict=False)) and len(found) == 4
    result = influx.attribute(module, trained.train, trained.test, estimator="tracincp", checkpoints=tmp_path / "saved")
    assert result.influence == pytest.approx(trained.tracin(trained.states, RATES), rel=1e-4)


def test_the_callback_of_hugging_face_saves_before_each_update(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", SimpleNamespace(TrainerCallback=object))  # slow to import
    monkeypatch.delitem(sys.modules, "influx.integrations.transformers", raising=False)
    InfluxCallback = importlib.import_module("influx.integrations.transformers").InfluxCallback

    trained, model = Trained(), net()
    optimizer = torch.optim.SGD(model.parameters(), lr=RATES[0])
    callback, kept = InfluxCallback(tmp_path, every=1), {"model": model, "optimizer": optimizer, "lr_scheduler": None}
    for step, rate in enumerate(RATES):
        state = SimpleNamespace(global_step=step, is_world_process_zero=True)
        optimizer.param_groups[0]["lr"] = rate
        callback.on_step_begin(None, state, None, **kept)
        optimizer.zero_grad()
        F.cross_entropy(model(trained.x), trained.y).backward()
        optimizer.step()
    callback.on_train_end(None, SimpleNamespace(global_step=3, is_world_process_zero=True), None, **kept)
    found = loaded(tmp_path, net())
    assert [(one.step, one.rate) for one, _ in found] == [(0, 0.3), (1, 0.2), (2, 0.1), (3, 0.1)]
    assert all(same(held, state) for (_, held), state in zip(found, trained.states, strict=False))
    sys.modules.pop("influx.integrations.transformers")  # made of what is no trainer


@pytest.mark.skipif(
    importlib.util.find_spec("transformers") is None or importlib.util.find_spec("accelerate") is None,
    reason="transformers and accelerate are not installed",
)
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_hugging_face_trains_and_is_recorded(tmp_path: Path) -> None:
    import transformers

    from influx.integrations.transformers import InfluxCallback

    config = transformers.GPT2Config(
        vocab_size=16, n_positions=8, n_embd=8, n_layer=1, n_head=2, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0
    )
    torch.manual_seed(0)
    model = transformers.GPT2LMHeadModel(config)
    ids = torch.randint(0, 16, (10, 8), generator=torch.Generator().manual_seed(0))
    rows = [{"input_ids": row, "attention_mask": torch.ones_like(row), "labels": row} for row in ids]
    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path / "hf"), max_steps=4, per_device_train_batch_size=4, report_to=[], use_cpu=True,
        save_strategy="no", logging_strategy="no", disable_tqdm=True, learning_rate=0.1, optim="sgd",
    )  # fmt: skip
    saved = InfluxCallback(tmp_path / "saved", every=2)
    transformers.Trainer(model=model, args=arguments, train_dataset=rows[:8], callbacks=[saved]).train()  # type: ignore[arg-type]
    found = influx.attribute(model, rows[:8], rows[8:], estimator="tracincp", checkpoints=tmp_path / "saved")
    assert [c.step for c in found.checkpoints] == [0, 2, 4] and found.problem.data.task == "density"
    sums = torch.zeros(8, 2)
    for checkpoint in found.checkpoints[:2]:
        inner = found.model(checkpoint.step).inner
        grads = []
        for row in ids:
            loss = inner(input_ids=row[None], labels=row[None]).loss
            grads.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(inner.parameters()))]))
        g = torch.stack(grads)
        sums += checkpoint.lr[0] * g[:8] @ g[8:].T
    assert found.influence == pytest.approx(sums.numpy(), rel=1e-3, abs=1e-6)

"""Checkpoints that others have written: found by path, read without running code, matched with a module's names."""

from __future__ import annotations

import glob
import json
import pickle
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from influx.errors import ConfigError, DataError, did_you_mean
from influx.learners.torch.fitted import parameters_name

ENDINGS = (".safetensors", ".pt", ".pth", ".ckpt", ".bin")
NESTED = ("state_dict", "model_state_dict", "model", "module", "net")  # what a training script puts parameters under
OPTIMIZERS = ("optimizer", "optimizer_state_dict")
OWN = re.compile(r"step_(\d{8})\.safetensors")  # beside which influx keeps the state of the optimizer
STATE = re.compile(r"state_(\d{8})\.safetensors")
WHOLE = ("model.safetensors", "pytorch_model.bin")  # of a checkpoint that is a folder


@dataclass(frozen=True)
class Found:
    """A checkpoint as it was found: what its file says of its step and its learning rates, None where nothing.

    ``rates`` are those of the step that leaves it, ``before`` those of steps that led to it, up to it; one for each
    parameter group.
    """

    path: Path
    step: int | None
    rates: tuple[float, ...] | None
    before: tuple[tuple[float, ...], ...] = ()


def find(path: str) -> list[Found]:
    """Checkpoints of a file, a folder or a pattern such as ``runs/*.ckpt``, in order of their steps.

    A folder holds files or folders ``checkpoint-500`` with ``model.safetensors``. What is not known from the file is
    read from its name: the number after "step", or the only number.

    Raises:
        ConfigError: nothing is there.
        DataError: a file cannot be read.
    """
    place = Path(path).expanduser()
    if place.is_dir():
        files = _in_folder(place)
    else:
        named = [Path(name) for name in sorted(glob.glob(str(place), recursive=True), key=_natural)]
        files = [file for file in named if not _is_state(file)]
        files = [found for file in files for found in (_in_folder(file) if file.is_dir() else [file])]
    if not files:
        raise ConfigError(
            f"training.path={path} holds no checkpoint ({', '.join(ENDINGS)}); name a file, a folder or a pattern"
        )
    found = [described(file) for file in files]
    if all(one.step is not None for one in found):
        found.sort(key=lambda one: one.step or 0)
    return found


def _in_folder(folder: Path) -> list[Path]:
    for name in WHOLE:
        if (folder / name).is_file():
            return [folder / name]
    if (folder / f"{WHOLE[0]}.index.json").is_file():
        raise DataError(
            f"{folder} holds a checkpoint in several files, which is not read; save it with a larger max_shard_size"
        )
    held = sorted(folder.iterdir(), key=_natural)
    files = [file for file in held if file.suffix in ENDINGS and not _is_state(file)]
    inner = [file for file in held if file.is_dir() and re.search(r"\d", file.name)]
    return files or [file for one in inner for file in _in_folder(one)[:1]]


def _is_state(file: Path) -> bool:
    """Whether it is what influx and its recorders keep of the optimizer beside a checkpoint."""
    found = STATE.fullmatch(file.name)
    return found is not None and (file.parent / parameters_name(int(found[1]))).is_file()


def _natural(path: Path | str) -> list[Any]:
    """Orders names as people do: 9 before 10."""
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d+)", str(path)) if part]


def _step_in(name: str) -> int | None:
    """The number after "step", or the only one; None where it could be another."""
    marked, numbers = re.findall(r"step[ =_-]?(\d+)(?![.\d])", name, re.IGNORECASE), re.findall(r"\d+", name)
    one = marked if len(marked) == 1 else numbers
    return int(one[0]) if len(one) == 1 else None


def described(file: Path) -> Found:
    """What a file and its name say of the checkpoint in it.

    Raises:
        DataError: the file cannot be read.
    """
    step: int | None
    before: tuple[tuple[float, ...], ...] = ()
    if file.suffix == ".safetensors":
        step, rates, before = _noted(file)
        if rates is None and (file.parent / "trainer_state.json").is_file():
            step, rates = _logged(file.parent / "trainer_state.json", step)
    else:
        held = unpickled(file)
        step, rates = _told(held)
    if step is None or step < 0:
        step = _step_in(file.parent.name if file.name in WHOLE else file.stem)
    return Found(file, step, rates, before)


def _noted(file: Path) -> tuple[int | None, tuple[float, ...] | None, tuple[tuple[float, ...], ...]]:
    """Of the metadata that influx and its recorders write."""
    try:
        with safe_open(file, "pt") as opened:
            noted = opened.metadata() or {}
        step = int(noted["step"]) if "step" in noted else None
        rates = tuple(float(rate) for rate in json.loads(noted["lr"])) if "lr" in noted else None
        runs = [(int(count), tuple(map(float, each))) for count, each in json.loads(noted.get("lr_before", "[]"))]
        if sum(count for count, _ in runs) > (step or 0) or any(count < 1 for count, _ in runs):
            raise ValueError
    except (SafetensorError, OSError) as error:
        raise DataError(f"cannot read the checkpoint {file} ({error}); save it again") from error
    except (ValueError, TypeError) as error:
        raise DataError(f"the checkpoint {file} has metadata step and lr that are no numbers; save it again") from error
    return step, rates, tuple(each for count, each in runs for _ in range(count))


def _logged(file: Path, step: int | None) -> tuple[int | None, tuple[float, ...] | None]:
    """Of the state that Hugging Face's trainer saves beside a model: the rate that it logged last."""
    try:
        state = json.loads(file.read_text(encoding="utf-8"))
        rates = [entry["learning_rate"] for entry in state.get("log_history", []) if "learning_rate" in entry]
        return int(state.get("global_step", step or 0)), (float(rates[-1]),) if rates else None
    except (OSError, ValueError, TypeError, AttributeError, OverflowError) as error:
        raise DataError(f"cannot read {file} ({error}); set training.lr and training.steps") from error


def _told(held: Mapping[str, Any]) -> tuple[int | None, tuple[float, ...] | None]:
    """Of what Lightning and training scripts save beside the parameters."""
    step = next((held[name] for name in ("global_step", "step") if type(held.get(name)) is int), None)
    groups = optimizer_in(held).get("param_groups")
    found = [group["lr"] for group in groups if _is_group(group)] if isinstance(groups, list) else []
    return step, tuple(float(rate) for rate in found) or None


def optimizer_in(held: Mapping[str, Any]) -> Mapping[str, Any]:
    """The first optimizer's state dict in what a training script or Lightning saved; empty where there is none."""
    several = held.get("optimizer_states")
    states = several if isinstance(several, list) else [held.get(name) for name in OPTIMIZERS]
    return next((one for one in states if isinstance(one, Mapping)), {})


def _is_group(group: Any) -> bool:
    """Of an optimizer's parameters, with a learning rate that is a number."""
    rate = group.get("lr") if isinstance(group, Mapping) else None
    return isinstance(rate, int | float) or (isinstance(rate, Tensor) and rate.numel() == 1)


def unpickled(file: Path) -> dict[str, Any]:
    """What ``torch.save`` wrote, if it is tensors, numbers, text and containers of them: nothing else is loaded.

    Raises:
        DataError: it holds other objects, or is damaged.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what it refuses in the next moment
            held = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise DataError(
            f"{file} holds more than tensors, numbers and text, which could run code and is never loaded; "
            "save model.state_dict() alone, or use safetensors"
        ) from error
    except Exception as error:  # a damaged file can make the reader fail in any way
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(f"cannot read the checkpoint {file} ({first}); save it again") from error
    if not isinstance(held, dict):
        raise DataError(f"{file} holds {type(held).__name__}, no state dict; save model.state_dict()")
    return held


def tensors_of(file: Path) -> dict[str, Tensor]:
    """The tensors in a checkpoint, below whatever it keeps parameters under.

    Raises:
        DataError: it cannot be read or holds none.
    """
    if file.suffix == ".safetensors":
        try:
            return dict(load_file(file))
        except (SafetensorError, OSError) as error:
            raise DataError(f"cannot read the checkpoint {file} ({error}); save it again") from error
    held: Any = unpickled(file)
    for name in NESTED:
        if isinstance(held.get(name), dict):
            held = held[name]
    found = {str(name): value for name, value in held.items() if isinstance(value, Tensor)}
    if not found:
        raise DataError(f"{file} holds no tensors under {', '.join(NESTED)} or at its top; save model.state_dict()")
    return found


def matched(
    found: Mapping[str, Tensor], module: nn.Module, prefix: str | None, inner: str, what: str
) -> dict[str, Tensor]:
    """A full state dict for ``module`` from the tensors of a checkpoint.

    Names in the checkpoint are those of the module's part ``inner`` after ``prefix``; None finds out what they begin
    with. A tied parameter that a file holds once is taken for all its names.

    Raises:
        DataError: names are missing or too many, a shape is another, or a number is not finite.
    """
    wanted = module.state_dict()
    names = {name.removeprefix(inner): name for name in wanted}
    begins = prefix_of(found, names) if prefix is None else prefix
    held = {name.removeprefix(begins): value for name, value in found.items() if name.startswith(begins)}
    _fill_tied(held, names, wanted)
    missing = [name for name in names if name not in held]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise DataError(
            f"{what} lacks {missing[0]!r}{more} of the model{did_you_mean(missing[0], held)}; "
            "set training.prefix to what its names begin with, or choose the model that was trained"
        )
    beyond = [name for name in held if name not in names]
    if beyond:
        raise DataError(
            f"{what} holds {begins + beyond[0]!r}, which the model has not; choose the model that was trained, "
            "or set training.prefix to what the model's names begin with"
        )
    for name, own in names.items():
        if held[name].shape != wanted[own].shape:
            raise DataError(
                f"{what} has {begins + name!r} of shape {tuple(held[name].shape)}, the model's is "
                f"{tuple(wanted[own].shape)}; choose the sizes that were trained"
            )
        if held[name].is_floating_point() and not torch.isfinite(held[name]).all():
            raise DataError(f"{what} has numbers that are not finite in {begins + name!r}; use an earlier checkpoint")
    return {own: held[name].to(wanted[own].dtype) for name, own in names.items()}


def prefix_of(found: Mapping[str, Tensor], names: Mapping[str, str]) -> str:
    """The shortest beginning after which most names of the module are found."""
    first = next(iter(names))
    begins = {name.removesuffix(first) for name in found if name.endswith(first)} | {""}
    ranked = sorted(begins, key=lambda begin: (-sum(begin + name in found for name in names), len(begin)))
    return ranked[0]


def _fill_tied(held: dict[str, Tensor], names: Mapping[str, str], wanted: Mapping[str, Tensor]) -> None:
    places: dict[tuple[int, torch.Size], str] = {}
    for name, own in names.items():
        if name in held:
            places.setdefault((wanted[own].data_ptr(), wanted[own].shape), name)
    for name, own in names.items():
        known = places.get((wanted[own].data_ptr(), wanted[own].shape))
        if name not in held and known is not None and wanted[own].numel():
            held[name] = held[known]

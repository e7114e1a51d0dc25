"""Gets a model and its tokenizer from a known name, a folder, a GGUF file, a hub id or a loaded object."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, AutoTokenizer, PreTrainedModel
from transformers.utils import logging

from nbkv.errors import BadOption, LoadError, NbkvError, UnsupportedModel, closest, lacks_memory, memory_limits
from nbkv.models.adapter import ModelAdapter
from nbkv.models.attention.intercept import implementation
from nbkv.models.diffusion.canvas import Encoder, is_canvas_model
from nbkv.models.diffusion.checkpoints import native
from nbkv.models.diffusion.recipe import Recipe, recipe
from nbkv.models.identity.devices import input_device, without_data
from nbkv.models.identity.fingerprint import Identity
from nbkv.models.identity.record import Record
from nbkv.models.identity.verdicts import Verdicts
from nbkv.models.pretrained.gguf_file import read_tokenizer, read_weights
from nbkv.models.pretrained.reading_bar import own_bars
from nbkv.models.pretrained.source import Source, known_models, names, source
from nbkv.models.probing.probe import adapt, probe
from nbkv.prompts.tokenizer import Codec
from nbkv.roster import LOADING_STEPS, ProcessWork, loading, process_work
from nbkv.scalars import kind_of
from nbkv.show.units import plural
from nbkv.stopping import Stopped, interruption
from nbkv.torch_mode import usual_mode

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_PROVING = "proving its layers and its cache on its own logits"


@dataclass(frozen=True)
class Loaded:
    """A model ready to run, and what was decided while loading it."""

    adapter: ModelAdapter
    codec: Codec
    name: str
    notes: tuple[str, ...]
    verdicts: Verdicts


@usual_mode()
def load_model(
    model: str | Path | PreTrainedModel,
    *,
    tokenizer: Any = None,  # noqa: ANN401  (slow and fast tokenizers share no typed parent)
    device: str = "auto",
    dtype: str | torch.dtype = "auto",
    model_kwargs: dict[str, Any] | None = None,
    block_size: int | None = None,
) -> Loaded:
    """Return ``model`` on ``device`` in ``dtype``, probed and self-tested.

    ``dtype="auto"``: float32 on a CPU, the checkpoint's own on a GPU. ``model_kwargs`` go to ``from_pretrained``; a
    ``device_map`` there takes the place of ``device``. ``block_size`` is for block-diffusion models. Raises
    ``LoadError`` if it cannot be read, ``BadOption`` for an unknown device, dtype or block size, ``UnsupportedModel``
    if it is no decoder, or has an adapter that cannot be served, ``OutOfMemory``.
    """
    _check_given(model_kwargs, tokenizer)
    known = f"{model}" if isinstance(model, (str, Path)) else type(model).__name__
    instead = "close other sessions, or give another device, dtype or model_kwargs=dict(device_map='auto')"
    given: dict[str, Any] = {"device": device, "dtype": dtype, "model_kwargs": model_kwargs, "block_size": block_size}
    with (
        process_work(loading(model), LOADING_STEPS, told=logging.is_progress_bar_enabled()) as work,
        own_bars(work),
        memory_limits(f"there is not enough memory to load {known}: {instead}"),
    ):
        try:
            return _loaded(work, model, tokenizer, **given)
        except Stopped:
            raise interruption(None, work.reached) from None


def _loaded(
    work: ProcessWork,
    model: str | Path | PreTrainedModel,
    tokenizer: Any,  # noqa: ANN401  (slow and fast tokenizers share no typed parent)
    *,
    device: str,
    dtype: str | torch.dtype,
    model_kwargs: dict[str, Any] | None,
    block_size: int | None,
) -> Loaded:
    if isinstance(model, (str, Path)):
        kwargs = dict(model_kwargs or {})
        place = _place(device, kwargs)
        origin = source(str(model))
        name, network = origin.name, _read(work, origin, place, _dtype(dtype, place), kwargs)
        work.step("reading the tokenizer")
        tokenizer = tokenizer if tokenizer is not None else _tokenizer(origin, kwargs, network.config)
    else:
        name, network = type(model).__name__, _given(model, tokenizer, device, dtype, model_kwargs)
        origin = Source("", name)
    if is_canvas_model(network):
        network = Encoder(network)  # type: ignore[assignment]  # it serves as one
    if network.config.is_encoder_decoder:
        message = f"{name} is an encoder-decoder; nbkv runs decoder-only language models"
        raise UnsupportedModel(message)
    _check_adapters(network, name)
    if empty := without_data(network):
        message = (
            f"{name}: no values for {plural(len(empty), 'weight')}, such as {empty[0]} (an adapter gets none on "
            "layers that a device_map keeps in another place than they run: give these layers a device)"
        )
        raise LoadError(message)
    how = recipe(network.config.get_text_config(), tokenizer, name, block_size)
    again = isinstance(model, (str, Path))  # it can be loaded again, so that what is proved now need not be then
    adapter, verdicts = _adapted(work, network, name, how) if again else _proved(work, network, name, how)
    return Loaded(adapter, Codec(tokenizer), name, (*origin.notes, *adapter.notes), verdicts)


def _check_given(model_kwargs: object, tokenizer: object) -> None:
    if not isinstance(model_kwargs, Mapping | None):
        message = f"model_kwargs is {kind_of(model_kwargs)} (accepted: a dict of what from_pretrained takes)"
        raise BadOption(message)
    if tokenizer is not None and not callable(tokenizer):
        message = f"tokenizer is {kind_of(tokenizer)} (accepted: a transformers tokenizer)"
        raise BadOption(message)


def _proved(
    work: ProcessWork, network: PreTrainedModel, name: str, how: Recipe | None
) -> tuple[ModelAdapter, Verdicts]:
    work.step(_PROVING)
    return adapt(network, name, recipe=how), Verdicts()


def _adapted(
    work: ProcessWork, network: PreTrainedModel, name: str, how: Recipe | None
) -> tuple[ModelAdapter, Verdicts]:
    """Return the adapter of ``network``, proved now or remembered from an earlier load."""
    work.step("taking its fingerprint")
    attention, identity = implementation(network.config), Identity(network)
    about = identity.digest if how is None else f"{identity.digest}|{how}"
    verdicts = Verdicts.of(about, input_device(network).type, attention)
    if (kept := verdicts.get("record")) is not None:
        try:
            adapter = adapt(network, name, Record.from_dict(kept), how, identity)
        except ValueError as error:
            warnings.warn(f"a remembered self-check is damaged and done again: {error}", stacklevel=3)
        else:
            work.step("running its first token")
            adapter.warm_up()
            return adapter, verdicts
    work.step(_PROVING)
    record = probe(network, name, how)
    verdicts.put("record", record.to_dict())
    return adapt(network, name, record, how, identity), verdicts


def _given(model: object, tokenizer: object, device: str, dtype: object, kwargs: object) -> PreTrainedModel:
    if not hasattr(model, "get_input_embeddings") or not hasattr(model, "config"):
        message = f"cannot load {kind_of(model)} (accepted: a name, a folder, a hub id, a PreTrainedModel)"
        raise UnsupportedModel(message)
    if tokenizer is None:
        message = "a loaded model needs its tokenizer: load(model, tokenizer=…)"
        raise BadOption(message)
    if device != "auto" or dtype != "auto" or kwargs:
        message = "device, dtype and model_kwargs belong to loading; this model is loaded already (leave them out)"
        raise BadOption(message)
    return model  # type: ignore[return-value]  # a PEFT wrapper is not a PreTrainedModel but serves as one


def _check_adapters(network: Any, name: str) -> None:  # noqa: ANN401  (a transformers model, config or tokenizer)
    """Raise ``UnsupportedModel`` for PEFT methods that need the whole prompt in each pass, which reuse cuts."""
    for label, config in getattr(network, "peft_config", {}).items():
        if config.is_prompt_learning or getattr(config, "alora_invocation_tokens", None):
            message = (
                f"{name}: adapter {label!r} ({config.peft_type.value}) depends on the whole prompt in each pass; "
                "nbkv runs adapters that change layers (LoRA and its kin); merge or leave out this one"
            )
            raise UnsupportedModel(message)


def _place(device: str, kwargs: dict[str, Any]) -> str:
    """Return the device to load to; with a ``device_map`` only whether it is all host, which decides the dtype."""
    wanted = kwargs.get("device_map")
    if wanted is None:
        return _device(device)
    if device != "auto":
        message = f"device={device!r} and model_kwargs' device_map both say where the model goes (give one of them)"
        raise BadOption(message)
    places = {str(place) for place in (wanted.values() if isinstance(wanted, Mapping) else [wanted])}
    return "cpu" if places <= {"cpu", "disk"} else _device(device)


def _device(device: str) -> str:
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        place = torch.device(device)
    except (RuntimeError, TypeError) as error:
        message = f"unknown device {device!r} (accepted: auto, cpu, cuda, cuda:N)"
        raise BadOption(message) from error
    if place.type == "cuda" and not torch.cuda.is_available():
        message = f"device {device!r}: no CUDA device is available (accepted here: auto, cpu)"
        raise BadOption(message)
    return str(place)


def _dtype(dtype: str | torch.dtype, device: str) -> str | torch.dtype:
    if isinstance(dtype, torch.dtype):
        return dtype
    if dtype == "auto":
        return torch.float32 if device == "cpu" else "auto"
    if not isinstance(dtype, str) or dtype not in _DTYPES:
        message = f"unknown dtype {dtype!r} (accepted: auto, {', '.join(_DTYPES)})"
        raise BadOption(message)
    return _DTYPES[dtype]


def _read(
    work: ProcessWork, origin: Source, device: str, dtype: str | torch.dtype, kwargs: dict[str, Any]
) -> PreTrainedModel:
    kwargs = {"dtype": dtype} | kwargs
    move = device if kwargs.get("device_map") is None and device != "cpu" else None
    # reads straight to the device; transformers cannot do that without it, and GGUF is unpacked on the host
    if move and find_spec("accelerate") and origin.gguf is None:
        kwargs["device_map"], move = move, None
    work.step("reading weights")
    try:
        network: Any = _from_pretrained(origin, kwargs).eval()
        placed: PreTrainedModel = network.to(move) if move else network
    except (NbkvError, Stopped):
        raise
    except Exception as error:  # a checkpoint can be broken in any way; the reader wants one line
        if lacks_memory(error):
            raise
        raise LoadError(_why(origin, error)) from error
    return placed


def _from_pretrained(origin: Source, kwargs: dict[str, Any]) -> PreTrainedModel:
    """Return the causal language model at ``origin``, or a vision-language model, which is then served as text."""
    if origin.gguf is not None:
        return read_weights(origin.gguf, kwargs)
    if (known := native(origin.place, kwargs)) is not None:
        return known
    try:
        return AutoModelForCausalLM.from_pretrained(origin.place, **kwargs)
    except ValueError as error:
        if "Unrecognized configuration class" not in str(error):
            raise
        return AutoModelForImageTextToText.from_pretrained(origin.place, **kwargs)


def _tokenizer(origin: Source, kwargs: dict[str, Any], config: Any) -> Any:  # noqa: ANN401  (a transformers model, config or tokenizer)
    kept = {key: value for key, value in kwargs.items() if key in {"revision", "token", "trust_remote_code"}}
    if getattr(config, "read_from", None):  # its own config names a class that transformers would ask to run
        kept["config"] = config
    try:
        if origin.gguf is not None:
            return read_tokenizer(origin.gguf, kept)
        return AutoTokenizer.from_pretrained(origin.place, **kept)
    except Exception as error:  # as above
        if lacks_memory(error):
            raise
        message = f"the tokenizer of {origin.name!r} cannot be read: {_first_line(error)}"
        raise LoadError(message) from error


def _why(origin: Source, error: Exception) -> str:
    name = origin.name
    if origin.gguf is not None:
        return f"cannot read {origin.place!r}: {_first_line(error)} (accepted: GGUF files that transformers reads)"
    if Path(origin.place).is_dir():
        return (
            f"cannot read {origin.place!r}: {_first_line(error)} (accepted: safetensors weights with their config.json)"
        )
    hint = closest(name, known_models())
    return f"cannot load {name!r}{hint}: no folder, no known name ({names()}), and the hub gave: {_first_line(error)}"


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {next(iter(str(error).strip().splitlines()), '')}"[:200]

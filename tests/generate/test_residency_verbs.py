"""Every way of making pictures under the smallest budget: vision tower, references, masks and ControlNet move as they must."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from pipeline_pairs import photo
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from glyphflow.generate import Pipeline
from glyphflow.models.condition import ConditionEncoder
from glyphflow.models.control import ControlNet, ControlNetConfig
from tiny import HIDDEN, seeded_weights, tiny_pipeline

CPU = torch.device("cpu")
SIZE = {"width": 64, "height": 48}
VERBS: dict[str, tuple[str, Callable[..., Any], set[str]]] = {
    "edit": ("edit", lambda p, **o: p.edit(photo(70, 50), "red", **SIZE, **o), {"vision tower"}),
    "edit-plus": (
        "edit-plus",
        lambda p, **o: p.edit([photo(70, 50), photo(50, 60)], "red", **SIZE, **o),
        {"vision tower", "VAE"},
    ),
    "restyle": ("t2i", lambda p, **o: p.restyle(photo(70, 50), "red", **SIZE, **o), set()),
    "inpaint": ("t2i", lambda p, **o: p.inpaint(photo(64, 48), Image.new("L", (64, 48), 255), "red", **o), set()),
    "control": ("t2i", lambda p, **o: p.control("red", control_image=photo(64, 48), **SIZE, **o), {"ControlNet"}),
}


class HostTouches(TorchDispatchMode):
    """Operations that read weights where they wait: on a card they would fail, here they would pass unseen."""

    def __init__(self, *networks: torch.nn.Module) -> None:
        super().__init__()
        self.found: set[str] = set()
        self._host = {tensor.untyped_storage().data_ptr() for net in networks for tensor in net.state_dict().values()}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        tensors = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        lending = func in (torch.ops.aten.copy_.default, torch.ops.aten.detach.default)
        if not lending and any(tensor.untyped_storage().data_ptr() in self._host for tensor in tensors if tensor.numel()):
            self.found.add(str(func))
        return func(*args, **kwargs or {})


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_pipeline(tmp_path_factory.mktemp("verbs") / "model")


@pytest.mark.parametrize("verb", VERBS)
def test_the_picture_is_the_same(directory: Path, verb: str) -> None:
    kind, make, needed = VERBS[verb]
    whole = Pipeline.from_pretrained(directory, dtype=torch.float32, device="cpu")
    net = ControlNet(
        ControlNetConfig(
            num_layers=1, attention_head_dim=16, num_attention_heads=2, joint_attention_dim=HIDDEN, axes_dims_rope=(4, 6, 6)
        )
    ).requires_grad_(False)
    seeded_weights(net, 8)
    for part in (whole.transformer, whole.vae, whole.condition_encoder.model):
        for parameter in part.parameters():  # views of the file lie at odd addresses, where CPU products round otherwise
            parameter.data = parameter.data.clone()

    def picture(**options: Any) -> tuple[torch.Tensor, set[str]]:
        encoder = ConditionEncoder(whole.condition_encoder.model, whole.condition_encoder.tokenizer)  # remembers nothing
        parts = (whole.transformer, whole.vae, encoder, whole.schedule, whole.facts)
        pipeline = Pipeline(*parts, controlnet=net, kind=kind, device=CPU, **options)  # type: ignore[arg-type]
        used: set[str] = set()
        use = pipeline.residency.use

        def watched(*names: str, **how: Any) -> None:
            used.update(names)
            use(*names, **how)

        pipeline.residency.use = watched  # type: ignore[method-assign]
        call: dict[str, Any] = {"num_inference_steps": 3, "output_type": "pt", "progress": False}
        with touches:
            image = make(pipeline, generator=torch.Generator().manual_seed(1), **call).images
        pipeline.residency.recall()
        return image, used

    networks = (whole.transformer, whole.vae, whole.condition_encoder.model, net)
    touches = HostTouches(*networks)
    expected, _ = picture()
    assert touches.found
    touches = HostTouches(*networks)
    image, used = picture(budget=0)
    assert torch.equal(image, expected)
    assert not touches.found
    assert needed | {"condition encoder", "transformer", "VAE"} <= used

"""Which tensors are quantized, read off the plan of real networks."""

from collections.abc import Iterable

import pytest
import torch
from tiny_quantized import NETWORKS, float_network
from torch import Tensor, nn

from pipeline.models.folding import is_layer, trace_folded
from pipeline.quantize.placement import Plan, Site, plan_points


def plan_of(network: nn.Module, float_layers: Iterable[str] = ()) -> Plan:
    return plan_points(trace_folded(network), float_layers)


def rows(plan: Plan) -> list[tuple[str, str, str]]:
    """(point, dialects, kind) of each site in order."""
    return [(site.name, dialects(site), "relu" if site.post_relu else "") for site in plan.sites]


def dialects(site: Site) -> str:
    return "both" if site.tensorrt else "ort"


def test_the_points_of_a_network_with_option_a_shortcuts() -> None:
    assert rows(plan_of(float_network("option A"))) == [
        ("images", "both", ""),
        ("conv1", "both", "relu"),
        ("layer1.0.conv1", "both", "relu"),
        ("layer1.0.conv2", "ort", ""),
        ("layer1.0.add", "both", "relu"),
        # Option A hands values on: the same grid again, on the shortcut of the next addition.
        ("layer1.0.add", "both", "relu"),
        ("layer2.0.conv1", "both", "relu"),
        ("layer2.0.conv2", "ort", ""),
        ("layer2.0.add", "both", "relu"),
        ("avgpool", "both", ""),
        ("avgpool", "ort", ""),
    ]


def test_the_points_of_a_bottleneck_behind_max_pooling() -> None:
    assert rows(plan_of(float_network("bottleneck")))[:9] == [
        ("images", "both", ""),
        # TensorRT moves max-pooling behind the point that follows, so it needs none before.
        ("conv1", "ort", "relu"),
        ("conv1", "both", "relu"),
        ("layer1.0.downsample.0", "both", ""),
        ("layer1.0.conv1", "both", "relu"),
        ("layer1.0.conv2", "both", "relu"),
        ("layer1.0.conv3", "ort", ""),
        ("layer1.0.add", "both", "relu"),
        ("layer1.1.conv1", "both", "relu"),
    ]


@pytest.mark.parametrize("kind", NETWORKS)
def test_every_layer_reads_a_point(kind: str) -> None:
    folded = trace_folded(float_network(kind))
    plan = plan_points(folded, ())
    assert set(plan.sources) == {name for name, module in folded.named_modules() if is_layer(module)}
    assert set(plan.sources.values()) <= {site.name for site in plan.sites}
    assert plan.sources["conv1"] == "images"
    assert plan.sources["fc"] == "avgpool"


def test_a_layer_kept_in_float_is_no_part_of_the_plan() -> None:
    plan = plan_of(float_network("option A"), ["conv1", "layer2.0.conv2", "fc"])
    assert not {"conv1", "layer2.0.conv2", "fc"} & set(plan.sources)
    names = [name for name, _, _ in rows(plan)]
    # What only float layers read needs no grid; what the next integer layer reads does.
    assert "images" not in names
    assert ("conv1", "both", "relu") in rows(plan)


def test_nothing_is_quantized_where_all_layers_are_float() -> None:
    network = float_network("option B")
    names = [name for name, module in network.named_modules() if is_layer(module)]
    assert plan_of(network, names) == Plan((), {})


class Custom(nn.Module):
    """Layers by name; what `forward` does with them is the subclass's."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.drop, self.pool, self.relu = nn.Dropout(), nn.MaxPool2d(2), nn.ReLU(inplace=True)
        self.fc = nn.Linear(8, 4)


class PreActivation(Custom):
    def forward(self, images: Tensor) -> Tensor:
        out = self.conv1(images)
        out = self.conv2(torch.relu(out)) + out
        result: Tensor = self.fc(out.mean((2, 3)))
        return result


def test_a_tensor_that_is_read_with_and_without_relu_has_two_points() -> None:
    found = rows(plan_of(PreActivation()))
    assert found == [
        ("images", "both", ""),
        ("conv1", "both", ""),
        ("relu", "both", "relu"),
        ("conv2", "ort", ""),
        ("add", "both", ""),
        ("mean", "both", ""),
    ]


class Dropping(Custom):
    def forward(self, images: Tensor) -> Tensor:
        out = self.pool(self.drop(self.relu(self.conv1(images))))
        out = self.drop(self.relu(self.conv2(out))).mean((2, 3))
        result: Tensor = self.fc(self.drop(out))
        return result


def test_dropout_is_seen_through() -> None:
    plan = plan_of(Dropping())
    assert rows(plan) == [
        ("images", "both", ""),
        ("conv1", "ort", "relu"),
        ("conv1", "both", "relu"),
        ("conv2", "both", "relu"),
        ("mean", "both", ""),
    ]
    assert plan.sources == {"conv1": "images", "conv2": "conv1", "fc": "mean"}


class Numbers(Custom):
    def forward(self, images: Tensor) -> Tensor:
        out = torch.relu(self.conv1(images * 2 + 1))
        out = torch.sigmoid(self.conv2(out) + 1)
        result: Tensor = self.fc(torch.flatten(nn.functional.adaptive_avg_pool2d(out, 1), 1))
        return result


def test_unknown_operations_stay_float_between_points() -> None:
    plan = plan_of(Numbers())
    # A number added is no residual connection; what it makes is quantized only where a layer reads it.
    assert [name for name, _, _ in rows(plan)] == ["add", "conv1", "conv2", *["adaptive_avg_pool2d"] * 2]
    assert plan.sources == {"conv1": "add", "conv2": "conv1", "fc": "adaptive_avg_pool2d"}


class Sized(Custom):
    def forward(self, images: Tensor) -> Tensor:
        out = torch.relu(self.conv1(images))
        out = torch.relu(self.conv2(out.reshape(out.shape[0], -1, out.shape[2], out.size(3))))
        out = nn.functional.avg_pool2d(out, out.size()[3])
        result: Tensor = self.fc(out.view(out.size(0), -1))
        return result


def test_sizes_that_a_network_asks_for_are_no_tensors() -> None:
    plan = plan_of(Sized())
    assert [name for name, _, _ in rows(plan)] == ["images", "conv1", "conv1", "conv2", *["avg_pool2d"] * 2]
    assert plan.sources == {"conv1": "images", "conv2": "conv1", "fc": "avg_pool2d"}


class Logits(Custom):
    def forward(self, images: Tensor) -> Tensor:
        out = self.relu(self.conv1(images))
        result: Tensor = torch.flatten(self.conv2(out).mean((2, 3)), 1)
        return result


def test_the_logits_stay_float_whatever_makes_them() -> None:
    assert [name for name, _, _ in rows(plan_of(Logits()))] == ["images", "conv1", "conv2"]
    assert "fc" not in [name for name, _, _ in rows(plan_of(float_network("option A")))]


class Repeating(Custom):
    def forward(self, images: Tensor) -> Tensor:
        out = self.relu(self.conv1(images))
        for _ in range(3):
            out = out + self.relu(self.conv1(images))
        result: Tensor = self.fc(out.mean((2, 3)))
        return result


def test_names_of_points_are_unique() -> None:
    names = [site.name for site in plan_of(Repeating()).sites]
    assert len(names) == len(set(names))
    assert names[:3] == ["images", "conv1", "conv1_1"]


@pytest.mark.parametrize("kind", NETWORKS)
def test_tensorrt_never_has_a_point_between_a_convolution_and_its_addition(kind: str) -> None:
    folded = trace_folded(float_network(kind))
    sites = {site.node: site for site in plan_points(folded, ()).sites}
    additions = [node for node in folded.graph.nodes if node.name.startswith("add")]
    assert additions
    for addition in additions:
        # The residual branch is written first in every block: `out + shortcut`.
        residual, shortcut = addition.all_input_nodes
        assert (sites[residual].tensorrt, sites[shortcut].tensorrt) == (False, True)

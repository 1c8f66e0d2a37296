"""What `deploy build --json` and its table say of layers that were left in float to hold the budget."""

from pydantic import BaseModel, ConfigDict, Field

from pipeline.quantize.result import Rescue


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, from_attributes=True)


class FloatLayerSummary(Part):
    """A layer left in float because int8 in every layer would have lost more than is allowed."""

    name: str
    gain_points: float = Field(description="points of top-1 that would be lost in addition were it in int8, too")
    cost_ms: float | None = Field(
        description="CPU time it adds to the int8 model; null where the target's is not here"
    )


class RescueSummary(Part):
    """Figures of the selection split, against the network before it was quantized."""

    images: int
    int8_drop_points: float = Field(description="what int8 in every layer loses")
    drop_points: float = Field(description="with the layers below in float")
    int8_ms: float | None = Field(description="CPU time of one image with every layer in int8")
    mixed_ms: float | None = Field(description="with the layers below in float, in the same run")
    layers: list[FloatLayerSummary] = Field(description="empty where not even half of the layers would have sufficed")


def summarize_rescue(rescue: Rescue | None) -> RescueSummary | None:
    return None if rescue is None else RescueSummary.model_validate(rescue)


def rescue_rows(found: RescueSummary | None) -> list[tuple[str, str, str, str]]:
    """A row for each layer in float."""
    rows = []
    for layer in [] if found is None else found.layers:
        cost = "time not measured" if layer.cost_ms is None else f"{layer.cost_ms:+.3f} ms"
        rows.append(("in float", "", layer.name, f"saves {layer.gain_points:.2f} points, {cost}"))
    return rows

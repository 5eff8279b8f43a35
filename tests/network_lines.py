"""Random lines of layers for property tests, small enough to train in a moment."""

from __future__ import annotations

from hypothesis import strategies as st

_ACTIVATIONS = ("relu", "sigmoid", "tanh", "gelu")


@st.composite
def lines(draw: st.DrawFn, *, most: int = 6) -> str:
    """Draw a line of up to ``most`` layers that is a network."""
    layers: list[str] = []
    shape: tuple[int, ...] = (1, 28)  # channels and side, or features
    for _ in range(draw(st.integers(1, most))):
        layer, shape = _layer(draw, shape)
        layers.append(layer)
    return ", ".join(layers)


def _layer(draw: st.DrawFn, shape: tuple[int, ...]) -> tuple[str, tuple[int, ...]]:
    """Draw a layer that takes ``shape``, and return it with the shape that it makes."""
    kinds = ["activation", "batchnorm", "dropout", "dense", "residual"]
    if len(shape) == 2:
        kinds += ["conv", "conv", "pool"]
    kind = draw(st.sampled_from(kinds))
    if kind == "pool" and shape[1] > 1:
        size = draw(st.integers(2, min(4, shape[1])))
        return f"pool {draw(st.sampled_from(['max', 'avg']))} {size}", (shape[0], shape[1] // size)
    if kind == "conv":
        return _conv(draw, shape)
    if kind == "dense":
        units = draw(st.integers(1, 24))
        return f"dense {units}", (units,)
    if kind == "dropout":
        return f"dropout {draw(st.sampled_from(['0', '0.25', '.5']))}", shape
    if kind == "residual":
        inner = f"dense {shape[0]}" if len(shape) == 1 else f"conv {shape[0]}"
        inner += " 1x1" if len(shape) > 1 and shape[1] < 3 else ""
        return f"residual({inner}, {draw(st.sampled_from(_ACTIVATIONS))})", shape
    return (draw(st.sampled_from(_ACTIVATIONS)) if kind == "activation" else "batchnorm"), shape


def _conv(draw: st.DrawFn, shape: tuple[int, ...]) -> tuple[str, tuple[int, ...]]:
    filters, side = draw(st.integers(1, 6)), shape[1]
    padding = draw(st.sampled_from(["same", "valid"]))
    kernels = [k for k in (1, 2, 3, 5) if k <= side and (padding == "valid" or k % 2)]
    kernel, stride = draw(st.sampled_from(kernels)), draw(st.integers(1, 2))
    margin = kernel // 2 if padding == "same" else 0
    after = (side + 2 * margin - kernel) // stride + 1
    return f"conv {filters} {kernel}x{kernel} stride {stride} {padding}", (filters, after)

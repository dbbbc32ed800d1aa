"""The check of a kernel's results against a reference in double precision, on new inputs."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from pytest_autotune.bench import compilation
from pytest_autotune.bench.frameworks import on_device
from pytest_autotune.errors import BenchmarkError

AnyArray: TypeAlias = npt.NDArray[Any]

#: Largest relative error that counts as rounding, by the type of the kernel's result. They
#: leave room for sums of some thousand terms; a wrong result is off by much more.
TOLERANCES: Final[Mapping[str, float]] = {
    "float64": 1e-10,
    "complex128": 1e-10,
    "float32": 1e-4,
    "complex64": 1e-4,
    "float16": 1e-2,
    "bfloat16": 2e-2,
    "float8_e4m3fn": 0.15,
    "float8_e4m3fnuz": 0.15,
    "float8_e5m2": 0.3,
    "float8_e5m2fnuz": 0.3,
}
_SHOWN: Final = 5
#: Products of float32 by TF32, which keeps 10 bits of each factor, are off by some 0.002. This is
#: what PyTorch's own tests allow.
_TF32: Final = 5e-3
_TF32_HINT: Final = (
    "  TF32 does as much to products of float32. It is what Triton's tl.dot uses without\n"
    '  input_precision="ieee", and PyTorch where it is allowed to. If it is meant, give '
    f"tolerance={_TF32:g}"
)


class WrongResultError(AssertionError):
    """A kernel's result differs from the reference."""


def assert_matches(  # noqa: PLR0913 - three of them have defaults
    kernel: Callable[..., object],
    reference: Callable[..., object],
    inputs: Callable[[np.random.Generator], tuple[Any, ...]],
    *,
    rounds: int = 3,
    tolerance: float | None = None,
    seed: int | None = None,
) -> float:
    """Compare ``kernel(*inputs(rng))`` with ``reference`` and return the largest relative error.

    ``inputs`` makes the arguments from a random generator, anew for each of ``rounds``, so that
    nothing can be right by having been seen before. The reference gets the same ones, floating
    point arrays in double precision. Arrays may be NumPy's, PyTorch's, CuPy's, JAX's or Numba's;
    a kernel may return several.

    The error of an element is ``|a - e| / max(|e|, rms(e))``: relative, but not to values next
    to zero. It may be ``tolerance``, by default what rounding comes to in the type of the
    result; whole numbers must be equal. Products of float32 by TF32 need ``tolerance=5e-3``. A
    NaN never passes, nor does an infinity that the reference does not have in the same place.

    What the first call took beyond the others counts as compilation (see :mod:`.compilation`).

    Raises :class:`WrongResultError`, an AssertionError, which names the seed that makes the same
    inputs again.
    """
    __tracebackhide__ = True  # what is wrong is the user's kernel, so the user's line is shown
    for name, value in (("kernel", kernel), ("reference", reference), ("inputs", inputs)):
        if not callable(value):
            hint = ": write lambda rng: (...)" if name == "inputs" else ""
            raise TypeError(f"{name} must be a function, not a {type(value).__name__}{hint}")
    if rounds < 1:
        raise BenchmarkError(f"rounds={rounds!r}: one at least is needed")
    worst = 0.0
    times: list[float] = []
    for number in range(rounds):
        used = secrets.randbits(32) if seed is None else seed + number
        arguments = inputs(np.random.default_rng(used))
        if not isinstance(arguments, tuple):
            raise BenchmarkError(
                f"inputs must return a tuple of arguments, not {type(arguments).__name__}"
            )
        made = [str(tuple(value.shape)) for value in arguments if hasattr(value, "shape")]
        shapes = f", inputs {' '.join(made)}" if made else ""
        # First, as a kernel may write to what it gets.
        expected = [
            np.array(as_numpy(output)) for output in _outputs(reference(*map(_doubled, arguments)))
        ]
        begin = time.perf_counter()
        actual = _outputs(kernel(*arguments))
        times.append(time.perf_counter() - begin)
        if len(actual) != len(expected):
            counts = f"the kernel returns {len(actual)} arrays, the reference {len(expected)}"
            raise WrongResultError(f"{counts} (seed={used}{shapes})")
        for index, (ours, theirs) in enumerate(zip(actual, expected, strict=True)):
            which = f"result {index}, " if len(actual) > 1 else ""
            where = f"{which}seed={used}{shapes}"
            worst = max(worst, _compare(ours, theirs, tolerance, where))
        if not any(output.size for output in expected):
            raise BenchmarkError(
                "nothing was compared: what kernel and reference return is empty "
                f"(seed={used}{shapes})"
            )
    compilation.add(times[0], min(times[1:], default=times[0]))
    return worst


def _compare(actual: object, expected: object, tolerance: float | None, where: str) -> float:
    __tracebackhide__ = True
    kind = _dtype(actual)
    ours, theirs = as_numpy(actual), as_numpy(expected)
    if ours.shape != theirs.shape:
        raise WrongResultError(
            f"wrong shape: {ours.shape}, and the reference has {theirs.shape} ({where})"
        )
    if not ours.size:
        return 0.0
    allowed = tolerance
    if allowed is None:
        if kind in TOLERANCES:
            allowed = TOLERANCES[kind]
        elif np.issubdtype(ours.dtype, np.inexact):
            raise BenchmarkError(f"there is no default tolerance for {kind}; give tolerance=")
        else:
            allowed = 0.0
    if ours.dtype.kind in "biu" and theirs.dtype.kind in "biu":
        # As they are: the largest whole numbers have no double.
        errors = (ours != theirs).astype(np.float64)
    else:
        wide = np.complex128 if np.iscomplexobj(ours) or np.iscomplexobj(theirs) else np.float64
        errors = _errors(ours.astype(wide), theirs.astype(wide))
    # Not "any above", as no comparison with NaN is true.
    wrong = ~(errors <= allowed)
    if wrong.any():
        report = _report(ours, theirs, errors, allowed, where)
        rounded = tolerance is None and kind in {"float32", "complex64"} and on_device(actual)
        if rounded and (errors <= _TF32).all():
            report += f"\n{_TF32_HINT}"
        raise WrongResultError(report)
    return float(errors.max())


def _errors(ours: AnyArray, theirs: AnyArray) -> AnyArray:
    finite = np.abs(theirs[np.isfinite(theirs)])
    # Scaled, so that squares of large numbers do not overflow.
    largest = float(finite.max()) if finite.size else 0.0
    rms = largest * float(np.sqrt(np.mean((finite / largest) ** 2))) if largest else 0.0
    with np.errstate(all="ignore"):
        scale = np.maximum(np.abs(theirs), rms)
        errors = np.abs(ours - theirs) / np.where(scale > 0, scale, 1.0)
        same_infinity = np.isinf(theirs) & (ours == theirs)
        return np.where(same_infinity, 0.0, np.where(np.isfinite(ours), errors, np.nan))


def _report(ours: AnyArray, theirs: AnyArray, errors: AnyArray, allowed: float, where: str) -> str:
    wrong = ~(errors <= allowed)
    count = int(wrong.sum())
    unusable = int((~np.isfinite(ours) & wrong).sum())
    unknown = np.isnan(errors[wrong]).all()
    worst = "" if unknown else f", by up to {np.nanmax(errors[wrong]):.3g}"
    off = f"{count} of {ours.size} elements are off by more than {allowed:g}{worst}"
    lines = [f"{off} (relative error; {where})"]
    if unusable:
        lines.append(f"  {unusable} of them are NaN or infinite")
    for place in np.argwhere(wrong)[:_SHOWN]:
        at = tuple(int(i) for i in place)
        lines.append(f"  at {list(at)}: {ours[at]!s}, and the reference says {theirs[at]!s}")
    return "\n".join(lines)


def _outputs(result: object) -> Sequence[object]:
    __tracebackhide__ = True
    if result is None:
        raise BenchmarkError(
            "a kernel that returns nothing cannot be compared; return what it wrote"
        )
    if isinstance(result, Mapping):
        raise BenchmarkError("results are arrays, or a list or tuple of arrays, not a mapping")
    return result if isinstance(result, list | tuple) else (result,)


def _dtype(value: object) -> str:
    """Return the name of an array's type: ``float32``, ``bfloat16``."""
    kind = getattr(value, "dtype", None)
    if kind is None:
        kind = np.asarray(value).dtype
    # PyTorch's types have no name but in their text; NumPy's text may begin with a byte order.
    return str(getattr(kind, "name", None) or str(kind).rpartition(".")[2])


def as_numpy(value: Any) -> AnyArray:
    """Return an array of any framework as NumPy's, types that NumPy lacks in double precision."""
    package = type(value).__module__.partition(".")[0]
    if package == "torch":
        plain = value.detach().cpu().resolve_conj().resolve_neg()
        known = plain.dtype.is_complex or _dtype(plain) in {"float32", "float64", "float16"}
        if plain.dtype.is_floating_point and not known:
            plain = plain.double()
        return np.asarray(plain.numpy())
    if package == "cupy":
        return np.asarray(value.get())
    if hasattr(value, "copy_to_host"):
        return np.asarray(value.copy_to_host())
    found = np.asarray(value)
    # JAX's small types are extensions that NumPy can hold but hardly compute with.
    if found.dtype.kind == "V" or found.dtype.name not in np.sctypeDict:
        found = found.astype(np.float64)
    return found


def _doubled(value: Any) -> Any:
    """Return a floating point array in double precision, anything else as a copy or as it is."""
    if isinstance(value, list | tuple):
        return type(value)(map(_doubled, value))
    if not hasattr(value, "dtype"):
        return value
    package = type(value).__module__.partition(".")[0]
    if package == "torch":
        # A copy always: what is in double precision already would be the very same.
        if value.dtype.is_complex:
            return value.cdouble().clone()
        return (value.double() if value.dtype.is_floating_point else value).clone()
    if package in {"jax", "jaxlib"} or hasattr(value, "copy_to_host"):
        # JAX has no double precision unless it is switched on for the whole process.
        value = as_numpy(value)
    if package == "cupy":
        wide = {"f": "float64", "c": "complex128"}.get(value.dtype.kind)
        return value.copy() if wide is None else value.astype(wide)
    if value.dtype.kind == "c":
        return value.astype(np.complex128)
    floating = value.dtype.kind == "f" or value.dtype.name.startswith(("bfloat", "float"))
    return value.astype(np.float64) if floating else np.array(value)

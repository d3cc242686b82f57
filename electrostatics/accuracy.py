"""From an error target to parameters: cut-off, splitting, mesh, B-spline order, padding.

`accuracy` is the rms force error divided by max(rms Coulomb force, F0), F0 = k (sum q²/N)(N/V)^(2/3).
For charges placed at random each part of the sum has an rms force error

    dF = k (sum q²)/sqrt(N) sqrt(I/V),

so that dF/F0 = sqrt(N) (V/N)^(2/3) sqrt(I/V): the charges drop out, and the parameters never depend on
them (least of all on the charges before an electrode solve). The integrals I follow below; V in sqrt(I/V)
is the volume that is really occupied, so that vacuum does not dilute the error.

Sources: Kolafa and Perram, Mol. Simul. 9, 351 (1992) for the truncation errors; the mesh error is the
pair-averaged squared difference of mesh and exact force, as Hockney and Eastwood define it, for the
influence function and the analytic derivative that `pme` uses.
"""

import math
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.special import erfc

ORDERS = (4, 5, 6, 7, 8, 10)
SMALLEST_ACCURACY = 1e-14
# Shares of the target given to the real-space and the reciprocal error (they add in quadrature; the rest is
# a margin for charges that are not placed at random, such as the atoms of a crystalline electrode).
_REAL_SHARE = 0.35
_RECIPROCAL_SHARE = 0.35
# Measured costs in seconds that balance the two sums; only their ratios matter.
_PAIR_COST = 1.5e-8
_ROW_COST = 2.8e-9  # four points of a row of the mesh, spread and gathered
_FFT_COST = 0.8e-9
_WAVE_COST = 1.0e-9


@dataclass(frozen=True)
class Parameters:
    """What the error target was turned into.

    Attributes:
        method: "exact", "ewald" or "pme".
        cutoff: real-space cut-off in Å.
        splitting: Ewald splitting parameter alpha in 1/Å.
        reciprocal_cutoff: largest |G| of the Ewald sum in 1/Å (0 for pme).
        mesh: mesh points along the three cell vectors of the k-space cell ((0, 0, 0) unless pme).
        order: B-spline order (0 unless pme).
        padding: length in Å by which the k-space cell is longer than the cell, along the normal.
        estimated_error: estimated relative rms force error, without unit.
        backend: who evaluates the Ewald sum, "auto" or "torch-pme".
    """

    method: str
    cutoff: float
    splitting: float
    reciprocal_cutoff: float = 0.0
    mesh: tuple[int, int, int] = (0, 0, 0)
    order: int = 0
    padding: float = 0.0
    estimated_error: float = 0.0
    backend: str = "auto"


@dataclass(frozen=True)
class Request:
    """The system that the parameters are for: atoms, k-space cell, volumes, widest Gaussian, target."""

    atoms: int
    cell: NDArray[np.float64]
    cell_volume: float
    occupied_volume: float
    smallest_exponent: float
    accuracy: float
    cutoff: float | None = None
    splitting: float | None = None
    mesh: tuple[int, int, int] | None = None
    order: int | None = None

    @property
    def scale(self) -> float:
        """dF/F0 per sqrt(I): sqrt(N/V_occupied) (V/N)^(2/3), in 1/Å² of sqrt(I)."""
        n = max(self.atoms, 1)
        return float(math.sqrt(n / self.occupied_volume) * (self.cell_volume / n) ** (2.0 / 3.0))


def real_space_integral(alpha: float, cutoff: float) -> float:
    """Integral I of the truncated and shifted real-space force.

    I = int over r > rc of f'(r)² 4 pi r² dr + (4 pi/3) rc³ f'(rc)², f = erfc(alpha r)/r; the second part is
    what the force shift adds to every pair inside the cut-off.
    """
    r = cutoff + np.linspace(0.0, 4.0 / alpha, 60)
    slope = erfc(alpha * r) / r**2 + 2 * alpha / math.sqrt(math.pi) * np.exp(-((alpha * r) ** 2)) / r
    tail = np.trapezoid(4 * math.pi * (slope * r) ** 2, r)
    return float(tail + 4 * math.pi / 3 * cutoff**3 * slope[0] ** 2)


def reciprocal_integral(alpha: float, cutoff: float) -> float:
    """Integral I of the waves with |G| > cutoff: 8 alpha²/kc exp(-kc²/2 alpha²)."""
    return 8 * alpha**2 / cutoff * math.exp(-(cutoff**2) / (2 * alpha**2))


@lru_cache(maxsize=512)
def mesh_integral(spacing: float, order: int) -> float:
    """Integral I/alpha of the mesh error of one direction, for alpha h = `spacing`.

    The interaction through the mesh of two charges has Fourier coefficients G_h U(k + K) U(k + K') with
    G_h = phi(k)/(sum_K U)², phi = 4 pi exp(-k²/4a²)/k² and U the B-spline's transform; the exact one has
    phi(k) only. Averaged over both positions, with analytic derivatives,

        I = (2 pi)^-3 int d³k [G_h² (sum k_K² U_K²)(sum U_K²) - 2 G_h phi k² U_0² + k² phi²] + waves beyond,

    written below with e1 = sum' U_K/U_0, e2 = sum' U_K²/U_0², e3 = sum' k_K² U_K²/(k² U_0²), so that small
    errors are not differences of large numbers.
    """
    edge = math.pi / spacing
    kx = np.linspace(1e-3, 1.0, 48) * min(edge, 9.0)
    kp = np.linspace(1e-3, 9.0, 48)
    x, p = np.meshgrid(kx, kp, indexing="ij")
    k2 = x**2 + p**2
    alias = np.array([-3, -2, -1, 1, 2, 3])
    theta = 0.5 * x[..., None] * spacing + math.pi * alias
    ratio = (np.sinc(theta / math.pi) / np.sinc(0.5 * x * spacing / math.pi)[..., None]) ** order
    k2_alias = (x[..., None] + 2 * edge * alias) ** 2 + p[..., None] ** 2
    e1 = ratio.sum(-1)
    e2 = (ratio**2).sum(-1)
    e3 = (k2_alias * ratio**2).sum(-1) / k2
    # Odd orders have sum U = 0 at the edge of the zone, where the mesh's influence is cut.
    scale = np.maximum(1.0 + e1, 1e-3)
    relative = ((2 * e1 + e1**2) / scale**2) ** 2 + (e2 + e3 + e2 * e3) / scale**4
    error = (4 * math.pi) ** 2 * np.exp(-k2 / 2) / k2 * relative
    inside = np.trapezoid(np.trapezoid(error * 2 * math.pi * p, kp, axis=1), kx)
    beyond = 0.0
    if edge < 9.0:
        kx = np.linspace(edge, 12.0, 48)
        x, p = np.meshgrid(kx, kp, indexing="ij")
        k2 = x**2 + p**2
        wave = k2 * (4 * math.pi * np.exp(-k2 / 4) / k2) ** 2
        beyond = float(np.trapezoid(np.trapezoid(wave * 2 * math.pi * p, kp, axis=1), kx))
    return float(2 * (inside + beyond) / (2 * math.pi) ** 3)


@lru_cache(maxsize=len(ORDERS))
def _mesh_table(order: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Logarithms of spacings and of their mesh integrals: smooth, so that interpolation serves the search."""
    spacing = np.geomspace(0.02, 3.0, 28)
    integral = [mesh_integral(float(h), order) for h in spacing]
    return np.log(spacing), np.log(np.maximum.accumulate(integral))


def _largest_spacing(target: float, order: int) -> float:
    """Largest alpha h whose mesh integral stays below `target`."""
    spacing, integral = _mesh_table(order)
    return float(np.exp(np.interp(math.log(target), integral, spacing)))


def _tabled_integral(spacing: float, order: int) -> float:
    """The mesh integral at alpha h = `spacing`; that of the coarsest one in the table beyond it."""
    known, integral = _mesh_table(order)
    return float(np.exp(np.interp(math.log(spacing), known, integral)))


@lru_cache(maxsize=1)
def _real_space_table() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """alpha rc, and minus the logarithm of rc times the real-space integral, which depends on alpha rc alone."""
    reach = np.linspace(0.5, 6.4, 600)
    return reach, -np.log([real_space_integral(float(t), 1.0) for t in reach])


def splitting_for(request: Request, cutoff: float) -> float:
    """Splitting alpha at which truncating at `cutoff` costs the real-space share of the target."""
    wanted = (_REAL_SHARE * request.accuracy / request.scale) ** 2
    reach, rising = _real_space_table()
    return float(np.interp(-math.log(wanted * cutoff), rising, reach)) / cutoff


def cutoff_for(request: Request, alpha: float) -> float:
    """Cut-off at which truncating costs the real-space share of the target, for a given splitting."""
    wanted = (_REAL_SHARE * request.accuracy / request.scale) ** 2
    low, high = 0.5 / alpha, 6.4 / alpha
    for _ in range(50):
        middle = 0.5 * (low + high)
        low, high = (low, middle) if real_space_integral(alpha, middle) < wanted else (middle, high)
    return high


def reciprocal_cutoff_for(request: Request, alpha: float) -> float:
    """Largest |G| at which the neglected waves cost the reciprocal share of the target."""
    wanted = (_RECIPROCAL_SHARE * request.accuracy / request.scale) ** 2
    low, high = 0.5 * alpha, 12.8 * alpha
    for _ in range(50):
        middle = 0.5 * (low + high)
        low, high = (low, middle) if reciprocal_integral(alpha, middle) < wanted else (middle, high)
    return high


def smooth_size(least: float) -> int:
    """Smallest even integer >= `least` whose prime factors are 2, 3, 5 and 7."""
    n = max(2, math.ceil(least))
    while True:
        rest = n
        for factor in (2, 3, 5, 7):
            while rest % factor == 0:
                rest //= factor
        if rest == 1 and n % 2 == 0:
            return n
        n += 1


def carrying_cutoff(request: Request) -> float:
    """Smallest cut-off in Å that carries erfc(g r) of the widest Gaussians to the target."""
    if math.isinf(request.smallest_exponent):
        return 0.0
    reach = math.sqrt(max(25.0, -math.log(max(request.accuracy, SMALLEST_ACCURACY)) + 4.0))
    return reach / request.smallest_exponent


def _cutoffs(request: Request) -> NDArray[np.float64]:
    if request.cutoff is not None:
        return np.array([request.cutoff])
    least = max(3.5, carrying_cutoff(request))
    if request.splitting is not None:
        # A given splitting decides how far the real-space sum must reach.
        return np.array([max(least, cutoff_for(request, request.splitting))])
    return np.arange(math.ceil(2 * least) / 2, max(30.0, least + 2.0), 0.5)


def _pair_cost(request: Request, cutoff: float) -> float:
    density = request.atoms / request.occupied_volume
    return request.atoms * density * 2 * math.pi / 3 * cutoff**3 * _PAIR_COST


def choose_ewald(request: Request) -> Parameters:
    """Parameters of the Ewald sum with the smallest estimated cost."""
    volume = abs(float(np.linalg.det(request.cell)))
    best: tuple[float, Parameters] | None = None
    for cutoff in _cutoffs(request):
        alpha = request.splitting or splitting_for(request, float(cutoff))
        wave = reciprocal_cutoff_for(request, alpha)
        waves = volume * wave**3 / (12 * math.pi**2)
        cost = _pair_cost(request, float(cutoff)) + request.atoms * waves * _WAVE_COST
        error = request.scale * math.sqrt(
            real_space_integral(alpha, float(cutoff)) + reciprocal_integral(alpha, wave)
        )
        if best is None or cost < best[0]:
            best = cost, Parameters("ewald", float(cutoff), alpha, wave, estimated_error=error)
    assert best is not None
    return best[1]


def _images_in_step(request: Request, alpha: float) -> float:
    """How many images of a charge err alike on the mesh: those within sqrt(2)/alpha on the smallest face, at least itself.

    The estimates take errors of different charges for independent; images in a cell narrower than the range of the mesh are
    not.
    """
    a, b, c = request.cell
    faces = [float(np.linalg.norm(np.cross(*pair))) for pair in ((a, b), (b, c), (c, a))]
    return max(1.0, 2.0 * math.pi / (alpha**2 * min(faces)))


def choose_pme(request: Request) -> Parameters:
    """Parameters of the smooth particle mesh Ewald sum with the smallest estimated cost.

    A mesh follows from cut-off and order, so that it serves the accuracy. One that is given serves some of them only: the
    cheapest of those are taken, or the most accurate ones where the mesh is too coarse for any.
    """
    edges = np.linalg.norm(request.cell, axis=1)
    best: tuple[tuple[bool, float], Parameters] | None = None
    orders = tuple(ORDERS) if request.order is None else (request.order,)
    if request.mesh is not None:
        # Splines must not be wider than the mesh.
        orders = tuple(p for p in orders if p <= min(request.mesh)) or orders[:1]
    cutoffs = _cutoffs(request)
    for cutoff in cutoffs[cutoffs <= max(14.0, float(cutoffs[0]))]:
        alpha = request.splitting or splitting_for(request, float(cutoff))
        images = _images_in_step(request, alpha)
        wanted = (_RECIPROCAL_SHARE * request.accuracy / request.scale) ** 2 / (3 * alpha) / images
        for order in orders:
            spacing = _largest_spacing(wanted, order) / alpha
            mesh = request.mesh or tuple(smooth_size(max(edge / spacing, order)) for edge in edges)
            points = float(np.prod(mesh))
            cost = (
                _pair_cost(request, float(cutoff))
                + request.atoms * order**2 * math.ceil(order / 4) * _ROW_COST
                + points * math.log2(points) * _FFT_COST
            )
            rank = (False, cost)
            if request.mesh is not None:
                error = images * sum(
                    alpha * _tabled_integral(alpha * float(edge) / n, order) for edge, n in zip(edges, mesh)
                )
                missed = error / (_RECIPROCAL_SHARE * request.accuracy / request.scale) ** 2
                # Rounding of the table: a mesh that was chosen for these must pass.
                rank = (True, missed) if missed > 1.01 else rank
            if best is None or rank < best[0]:
                found = Parameters("pme", float(cutoff), alpha, mesh=mesh, order=order)  # type: ignore[arg-type]
                best = rank, found
    assert best is not None
    found = best[1]
    mesh_error = sum(
        found.splitting * mesh_integral(round(found.splitting * float(edge) / n, 6), found.order)
        for edge, n in zip(edges, found.mesh)
    ) * _images_in_step(request, found.splitting)
    error = request.scale * math.sqrt(real_space_integral(found.splitting, found.cutoff) + mesh_error)
    return replace(found, estimated_error=error)


def occupied_volume(positions: NDArray[np.float64], cell: NDArray[np.float64], box: float = 5.0) -> float:
    """Volume in Å³ of the boxes of about `box` Å that hold an atom."""
    inverse = np.linalg.inv(cell)
    counts = np.maximum(1, np.floor(1.0 / (np.linalg.norm(inverse, axis=0) * box))).astype(int)
    fractional = positions @ inverse
    index = np.floor((fractional - np.floor(fractional)) * counts).astype(int) % counts
    full = len(np.unique(np.ravel_multi_index(tuple(index.T), tuple(counts))))
    return float(abs(np.linalg.det(cell)) * full / np.prod(counts))

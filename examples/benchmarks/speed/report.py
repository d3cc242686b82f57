"""Tables on the terminal."""

from typing import Any

from rich.console import Console
from rich.table import Table

Row = dict[str, Any]
BASELINE = "[bold]ours[/bold]"


def show(results: Row, console: Console) -> None:
    """Every part that has results, then the targets."""
    for part, draw in (
        ("water", water),
        ("electrodes", electrodes),
        ("setup", setup),
        ("hybrid", hybrid),
        ("mace", mace),
        ("batches", batches),
        ("memory", memory),
    ):
        if results.get(part):
            console.print(draw(results[part]))
    if results.get("start"):
        console.print(start(results["start"]))
    for row in results.get("limits", {}).values():
        console.print(rates(row))
        console.print(limits(row))
    console.print(gpu(results))
    if results["exponents"]:
        console.print(exponents(results["exponents"]))
    console.print(judged(results["targets"]))


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold")
    for k, column in enumerate(columns):
        text = k == 0 or column in ("engine", "setting", "verdict", "source", "kind", "limit", "counted")
        table.add_column(column, justify="left" if text else "right", overflow="fold")
    return table


def _name(engine: str) -> str:
    return engine.replace("ours", BASELINE)


def _spread(value: Row | None, digits: int = 1) -> str:
    """Median with both quartiles."""
    if not value:
        return "-"
    return f"{value['median']:.{digits}f} ({value['low']:.{digits}f}-{value['high']:.{digits}f})"


def _ratio(row: Row, key: str) -> str:
    value = row.get("ours_over_this", {}).get(key)
    return "-" if value is None else f"{value:.2f}"


def water(rows: dict[str, Row]) -> Table:
    """Times at equal measured error."""
    table = _table(
        "water: energy and forces, ms of elapsed time, median (quartiles), one thread unless said",
        "atoms", "target", "engine", "error", "list kept", "new list", "ours/this kept", "new",
        "2 threads gain", "ours/this on 2", "setting",
    )  # fmt: skip
    for row in rows.values():
        for name, one in row["engines"].items():
            head = [f"{row['atoms']:,}", f"{row['target']:.0e}", _name(name)]
            if one["status"] != "measured":
                table.add_row(*head, *["-"] * 7, one["status"])
                continue
            more = one.get("threads", {}).get("2", {})
            gains = [f"{more[k]:.2f}" for k in ("speedup_kept", "speedup_new") if k in more]
            table.add_row(
                *head,
                f"{one['error']:.1e}",
                _spread(one["kept"]["wall_ms"]),
                _spread(one["new"]["wall_ms"]),
                _ratio(one, "kept_wall_ms"),
                _ratio(one, "new_wall_ms"),
                "/".join(gains) or (more.get("status", "-") if more else "-"),
                "/".join(_ratio(more, f"{k}_wall_ms") for k in ("kept", "new")) if gains else "-",
                one["label"],
            )
        table.add_section()
    return table


def electrodes(rows: dict[str, Row]) -> Table:
    """Constant-potential steps."""
    table = _table(
        "electrodes: charges and forces of one more step, ms of elapsed time, one thread unless said",
        "atoms", "cell", "engine", "charge error", "force error eV/Å", "step", "ours/this", "2 threads gain",
        "ours/this on 2", "set-up s", "setting",
    )  # fmt: skip
    for row in rows.values():
        cell = f"{row['boundary']}, {'moving' if row['moving'] else 'rigid'}"
        for name, one in row["engines"].items():
            head = [f"{row['atoms']:,}", cell, _name(name)]
            if one["status"] != "measured":
                table.add_row(*head, *["-"] * 7, one["status"])
                continue
            more = one.get("threads", {}).get("2", {})
            table.add_row(
                *head,
                f"{one['charge_error']:.1e}",
                f"{one['force_error']:.1e}",
                _spread(one["step"]["wall_ms"]),
                _ratio(one, "wall_ms"),
                f"{more['speedup']:.2f}" if "speedup" in more else more.get("status", "-"),
                _ratio(more, "wall_ms"),
                f"{one['set_up_s']:.2f}",
                one["label"],
            )
        table.add_section()
    return table


def setup(rows: dict[str, Row]) -> Table:
    """Set-up times."""
    table = _table(
        "set-up: from a new solver to the first charges, s, one thread",
        "electrode atoms",
        "atoms",
        "engine",
        "seconds",
        "setting",
    )
    for row in rows.values():
        for name, one in row["engines"].items():
            found = one["status"] == "measured"
            table.add_row(
                f"{row['electrode_atoms']:,}",
                f"{row['atoms']:,}",
                _name(name),
                _spread(one["seconds"], 2) if found else "-",
                f"{one['boundary']}, {one['label']}" if found else one["status"],
            )
    return table


def hybrid(rows: dict[str, Row]) -> Table:
    """Steps with a learned model."""
    table = _table(
        "hybrid: forces of the model in the box at held potentials, ms, and of its local part alone",
        "atoms", "threads", "compiled", "step", "at measured errors of 1e-4", "local part", "electrostatics adds",
        "ns/day at 0.5 fs",
    )  # fmt: skip
    for row in rows.values():
        if row["status"] != "measured":
            table.add_row("-", str(row["threads"]), *["-"] * 5, row["status"])
            continue
        table.add_row(
            f"{row['atoms']:,}",
            str(row["threads"]),
            "yes" if row["compiled"] else "no",
            _spread(row["step_ms"]),
            f"{_spread(row['equal_ms'])} with {row['equal']['accuracy']:.0e}",
            _spread(row["local_ms"]),
            f"{100 * row['added_own']:.0f} %, {100 * row['added']:.0f} %",
            f"{row['ns_per_day']:.2f}",
        )
    return table


def mace(rows: dict[str, Row]) -> Table:
    """MACE alone for the cell of the hybrid step."""
    table = _table(
        "MACE alone for the same atoms, 32x0e + 32x1o, cut-off 5 Å, kept neighbours: energy and forces, ms",
        "threads", "one layer", "two layers", "torch",
    )  # fmt: skip
    for row in rows.values():
        if row["status"] != "measured":
            table.add_row(str(row["threads"]), "-", "-", row["status"])
            continue
        layers = [_spread(row[f"layers_{k}_ms"]) for k in (1, 2)]
        table.add_row(str(row["threads"]), *layers, row["torch"])
    return table


def batches(rows: dict[str, Row]) -> Table:
    """Batches of small cells."""
    table = _table(
        "batches of cells of 200 atoms: energy and forces with new lists, ms, one thread",
        "batch", "engine", "error", "ms", "µs/atom", "setting",
    )  # fmt: skip
    for row in rows.values():
        for name, one in row["engines"].items():
            if one["status"] != "measured":
                table.add_row(str(row["batch"]), _name(name), "-", "-", "-", one["status"])
                continue
            wall = one["step"]["wall_ms"]
            table.add_row(
                str(row["batch"]),
                _name(name),
                f"{one['error']:.1e}",
                _spread(wall),
                f"{1e3 * wall['median'] / row['atoms']:.2f}",
                one["label"],
            )
        table.add_section()
    return table


def memory(rows: dict[str, Row]) -> Table:
    """Peak memory."""
    table = _table(
        "memory: highest of the first energy and forces above what was held before",
        "atoms",
        "target",
        "engine",
        "kB/atom",
        "setting",
    )
    for row in rows.values():
        for name, one in row["engines"].items():
            found = one["status"] == "measured"
            table.add_row(
                f"{row['atoms']:,}",
                f"{row['target']:.0e}",
                _name(name),
                _spread(one["kB_per_atom"], 2) if found else "-",
                one["label"] if found else one["status"],
            )
    return table


_FRESH = {
    "water": "3,000 atoms of water",
    "slab": "1,508 atoms, gold | salt water | gold with the model in the box",
}


def start(row: Row) -> Table:
    """A fresh process."""
    table = _table("start: a fresh process, one thread", "what", "seconds")
    for kind, name in _FRESH.items():
        if kind not in row:
            continue
        cold, warm = row[kind]["cold_s"], row[kind]["warm_s"]
        table.add_row(f"first energy of {name}, nothing compiled yet", f"{cold['first_s']:.2f}")
        table.add_row("the same, compiled code read back", _spread(warm["first_s"], 2))
        table.add_row("import", _spread(warm["import_s"], 2))
        table.add_row("whole process, compiled code read back", _spread(warm["process_s"], 2))
    table.add_row("grahame --help", _spread(row["help_s"], 2))
    return table


def rates(row: Row) -> Table:
    """What the processor does at best."""
    table = _table("this processor on one thread, loops that do one thing", "what", "rate")
    found = row["rates"]
    table.add_row("products and sums in vectors", f"{found['multiply_add_GFlops']:.0f} GFlop/s")
    for words, key in (
        ("copy within the first cache", "copy_first_cache_GBs"),
        ("copy of 1 MB", "copy_1MB_GBs"),
        (f"copy of {found['memory_MB']:.0f} MB", "copy_memory_GBs"),
        ("reading the first cache", "read_first_cache_GBs"),
        (f"reading {found['memory_MB']:.0f} MB", "read_memory_GBs"),
    ):
        table.add_row(words, f"{found[key]:.0f} GB/s")
    for words, key in (
        ("a number anywhere in 1 MB", "random_read_1MB_ns"),
        (f"a number anywhere in {found['memory_MB']:.0f} MB", "random_read_memory_ns"),
        ("an exponential", "exponential_ns"),
    ):
        table.add_row(words, f"{found[key]:.2g} ns")
    return table


def limits(row: Row) -> Table:
    """Kernels beside what the processor does at best."""
    setting = row["setting"]
    table = _table(
        f"kernels alone: {row['atoms']:,} atoms at {row['target']:.0e}, cut-off {setting['cutoff']} Å, mesh "
        f"{setting['mesh'][0]}, order {setting['order']}, one thread; f flops, b bytes, c bytes of the first cache, "
        "r random reads",
        "kernel", "limit", "at least ms", "fastest ms", "median (quartiles)", "fraction", "counted",
    )  # fmt: skip
    for name, one in row["kernels"].items():
        table.add_row(
            name, one["limit"], f"{one['bound_ms']:.3f}", f"{one['fastest_ms']:.3f}", _spread(one["ms"], 3),
            f"{one['fraction']:.2f}", one["formula"],
        )  # fmt: skip
    return table


def gpu(results: Row) -> Table:
    """Ours where there is a GPU, and what others published for theirs."""
    table = _table("GPU", "kind", "engine", "atoms", "target", "ms", "source")
    measured = False
    for row in results.get("water", {}).values():
        one = row["engines"].get("ours-gpu", {})
        if one.get("status") == "measured":
            measured = True
            device = results["machine"]["gpu"]
            table.add_row(
                "measured", _name("ours"), f"{row['atoms']:,}", f"{row['target']:.0e}",
                _spread(one["kept"]["wall_ms"]), f"list kept, error {one['error']:.1e}, {device}",
            )  # fmt: skip
    if not measured:
        table.add_row("not measured", _name("ours"), "-", "-", "-", "no CUDA device in the runs above")
    for one in results["published"]:
        table.add_row(
            one["kind"], one["engine"], f"{one['atoms']:,}", f"{one['target']:.0e}", f"{one['ms']:.1f}",
            f"{one['system']}, {one['device']}: {one['work']}; {one['source']}",
        )  # fmt: skip
    return table


def exponents(rows: list[Row]) -> Table:
    """Fits of time against size."""
    table = _table("time of water ~ atoms^p, least squares", "engine", "target", "mode", "p", "atoms")
    for row in rows:
        table.add_row(
            _name(row["engine"]),
            f"{row['target']:.0e}",
            row["mode"],
            f"{row['exponent']:.2f}",
            ", ".join(f"{n:,}" for n in row["atoms"]),
        )
    return table


def judged(rows: list[Row]) -> Table:
    """Targets."""
    table = _table("targets", "target", "must", "goal", "measured", "verdict")
    colours = {True: "green", False: "red", None: "dim"}
    for row in rows:
        unit = f" {row['unit']}" if row["unit"] else ""
        value = "-" if row["measured"] is None else f"{row['measured']:.3g}{unit}"
        sign = "≥" if row["bound"] == "at least" else "≤"
        colour = colours[row["met"]]
        table.add_row(
            row["name"], f"{sign} {row['must']:g}{unit}", f"{sign} {row['goal']:g}{unit}", value,
            f"[{colour}]{row['verdict']}[/{colour}]",
        )  # fmt: skip
    return table

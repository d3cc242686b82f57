"""The configuration of a run: what is accepted, and the sentence for everything that is not."""

import copy
from pathlib import Path
from typing import Any

import pytest

from grahame.hybrid.conditions import Ramp, potentials_at, voltammogram
from grahame.hybrid.config import RunConfig, load_config, parse_config

BASE: dict[str, Any] = {
    "structure": {"build": {"size": [4, 4, 2]}},
    "electrodes": [{"group": 0, "potential": 0.0}, {"group": 1, "ramp": [[0, 0], [5, 2]]}],
    "dynamics": {"minimise": {}, "equilibrate": {"time_ps": 1}, "produce": {"time_ps": 2, "ensemble": "NVE"}},
}


def changed(path: str, value: object) -> dict[str, Any]:
    """BASE with one key set; `path` is dotted, numbers index lists."""
    data = copy.deepcopy(BASE)
    *parents, last = path.split(".")
    block: Any = data
    for part in parents:
        block = block[int(part)] if part.isdigit() else block.setdefault(part, {})
    block[int(last) if last.isdigit() else last] = value
    return data


def test_a_configuration_reads_with_defaults() -> None:
    config = parse_config(BASE)
    assert config.coulomb.boundary == "slab"
    assert config.dynamics.produce is not None
    assert config.dynamics.produce.n_steps == 4000
    assert config.dynamics.produce.ensemble == "nve"


def test_a_configuration_survives_its_own_json() -> None:
    config = parse_config(BASE)
    assert RunConfig.model_validate_json(config.model_dump_json()) == config


def test_only_written_keys_reach_the_builder() -> None:
    build = parse_config(BASE).structure.build
    assert build is not None
    assert build.arguments("finite-field") == {"size": (4, 4, 2), "periodic": True}
    assert build.arguments("slab") == {"size": (4, 4, 2), "periodic": False}


def test_a_cell_built_for_constant_displacement_has_vacuum_behind_its_electrodes() -> None:
    data = changed("coulomb.boundary", "displacement") | {"displacement": 0.1}
    build = parse_config(data).structure.build
    assert build is not None
    assert build.arguments("displacement") == {"size": (4, 4, 2), "periodic": True, "vacuum": 5.0}
    data["structure"] = {"build": {"vacuum": 8.0}}
    build = parse_config(data).structure.build
    assert build is not None
    assert build.arguments("displacement") == {"periodic": True, "vacuum": 8.0}
    data["structure"] = {"build": {"vacuum": 0.0}}
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the whole message is compared
        parse_config(data)
    assert str(caught.value) == (
        "structure.build.vacuum = 0 Å must be greater than 0 with `boundary: displacement`, where metal must not "
        "cross the cell boundary: leave it out for 5 Å"
    )


SENTENCES = [
    ("coulomb.boundry", "slab", "coulomb.boundry = 'slab' must be a known key: did you mean `boundary`?"),
    (
        "foo",
        1,
        "foo = 1 must be a known key: the keys here are coulomb, displacement, dynamics, electrodes, field, output, "
        "short_range, solver, structure, thermo_potentiostat",
    ),
    (
        "coulomb.boundary",
        "slap",
        "coulomb.boundary = 'slap' must be one of 3d, slab, slab-exact, finite-field, displacement, open: did you mean "
        "`slab`?",
    ),
    (
        "coulomb.accuracy",
        -1,
        "coulomb.accuracy = -1 must be greater than 0: give the relative rms force error",
    ),
    (
        "coulomb.vacuum",
        "lots",
        "coulomb.vacuum = 'lots' must be `auto` or a number: give the padding of the k-space cell in Å, without writing "
        "the unit",
    ),
    (
        "coulomb.vacuum",
        -3,
        "coulomb.vacuum = -3 Å must be at least 0 Å: give the padding of the k-space cell in Å",
    ),
    (
        "dynamics.produce.timestep_fs",
        "0.5 ps",
        "dynamics.produce.timestep_fs = '0.5 ps' must be a number: give the time step in fs, without writing the unit",
    ),
    (
        "dynamics.produce.timestep_fs",
        500,
        "dynamics.produce.timestep_fs = 500 fs must be at most 10 fs: give the time step in fs",
    ),
    (
        "dynamics.produce.temperature_K",
        float("nan"),
        "dynamics.produce.temperature_K = nan K must be finite: give the temperature in K",
    ),
    (
        "dynamics.produce.steps",
        100,
        "dynamics.produce = time_ps and steps must give exactly one of `time_ps` and `steps`: write e.g. `time_ps: 10`",
    ),
    (
        "dynamics.produce",
        {"steps": 1.5},
        "dynamics.produce.steps = 1.5 must be a whole number: give the length in steps, instead of time_ps",
    ),
    (
        "electrodes.0.potential",
        500,
        "electrodes[0].potential = 500 V must be at most 100 V: give the held potential in V",
    ),
    (
        "electrodes.0.charge",
        1,
        "electrodes[0] = potential and charge must hold exactly one of `potential` (V), `charge` (e) and `ramp` "
        "([ps, V] points): write e.g. `potential: 1.0`",
    ),
    (
        "electrodes.0.group",
        1,
        "electrodes = group 1 twice must use every group once: give each its own group",
    ),
    (
        "electrodes.0",
        {"potential": 1.0},
        "electrodes[0] = no atoms must select its atoms by exactly one of `group`, `indices` and `element` with `side`: "
        "in a built cell `group: 0` is the bottom and `group: 1` the top electrode",
    ),
    (
        "electrodes.0",
        {"indices": [], "potential": 1.0},
        "electrodes[0].indices = [] must name at least one atom: list atom indices or remove the electrode",
    ),
    (
        "electrodes.1.ramp",
        [[0, 0], [0, 1]],
        "electrodes[1].ramp = 0 ps after 0 ps must increase: order the points by time and give each time once",
    ),
    (
        "structure.file",
        "cell.xyz",
        "structure = file and build must be exactly one of `file` and `build`: write one of the two blocks",
    ),
    (
        "solver.smearing",
        [1, 2, 3],
        "solver.smearing = 3 values must be one value or one per electrode (2): write one number or 2 numbers",
    ),
    (
        "displacement",
        0.1,
        "displacement = 0.1 V/Å must come with `boundary: displacement`, not slab: change coulomb.boundary or remove "
        "`displacement`",
    ),
    (
        "output.name",
        "../x",
        "output.name = '../x' must start with a letter or digit and hold only letters, digits and . _ + -: give the stem "
        "of all file names",
    ),
    ("output", 3, "output = 3 must be a block of keys: write the keys below it, indented"),
    ("structure.build.size", [1, 2], "structure.build.size = 2 values must be more: add the missing ones"),
]


@pytest.mark.parametrize(("path", "value", "sentence"), SENTENCES, ids=[f"{p}={v}" for p, v, _ in SENTENCES])
def test_a_wrong_key_gets_one_sentence(path: str, value: object, sentence: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the whole message is compared
        parse_config(changed(path, value))
    assert str(caught.value) == sentence


WORDS = "YAML reads yes, no, on and off as true or false; write the number itself"


@pytest.mark.parametrize(
    ("path", "value", "shown"),
    [
        ("electrodes.0.potential", True, "electrodes[0].potential = true must be a number"),
        (
            "dynamics.equilibrate.temperature_K",
            False,
            "dynamics.equilibrate.temperature_K = false must be a number",
        ),
        ("structure.build.size", [True, 4, 2], "structure.build.size = [True, 4, 2] must hold numbers"),
        ("electrodes.1.ramp", [[0, True]], "electrodes[1].ramp = [[0, True]] must hold numbers"),
        ("coulomb.vacuum", True, "coulomb.vacuum = true must be a number"),
        ("solver.smearing", True, "solver.smearing = true must be a number"),
        ("short_range.cutoff", True, "short_range.cutoff = true must be a number"),
    ],
)
def test_true_and_false_are_no_numbers(path: str, value: object, shown: str) -> None:
    data = changed(path, value)
    if path.startswith("short_range"):
        data["short_range"]["kind"] = "classical"
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the whole message is compared
        parse_config(data)
    assert str(caught.value) == f"{shown}: {WORDS}"
    assert parse_config(changed("output.overwrite", True)).output.overwrite


def test_indices_that_are_true_or_false_are_refused() -> None:
    data = changed("electrodes.0", {"indices": [True, 2], "potential": 0.0})
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the whole message is compared
        parse_config(data)
    assert str(caught.value) == f"electrodes[0].indices = [True, 2] must hold numbers: {WORDS}"


@pytest.mark.parametrize(
    ("build", "sentence"),
    [
        (
            {"waters": 8, "water_density": 0.997},
            "structure.build.water_density = 0.997 g/cm³ must be left out beside waters = 8: one of them says it; give one",
        ),
        (
            {"ion_pairs": 0, "concentration": 2},
            "structure.build.concentration = 2 mol/L must be left out beside ion_pairs = 0: one of them says it; give one",
        ),
    ],
)
def test_an_amount_is_said_once(build: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the whole message is compared
        parse_config(changed("structure.build", build))
    assert str(caught.value) == sentence
    # The record of a run holds what was left out too.
    config = parse_config(changed("structure.build", {"waters": 8, "ion_pairs": 1}))
    assert RunConfig.model_validate_json(config.model_dump_json()) == config


def test_a_time_without_a_step_is_refused() -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the whole message is compared
        parse_config(changed("dynamics.produce.time_ps", 1e-4))
    assert str(caught.value) == (
        "dynamics.produce.time_ps = 0.0001 ps must hold at least one step of 0.5 fs: write a longer time, in ps, or a shorter "
        "timestep_fs"
    )
    assert parse_config(changed("dynamics.produce.time_ps", 0)).dynamics.produce is not None


def test_every_wrong_key_gets_its_own_line() -> None:
    data = changed("coulomb.boundry", "slab")
    data["dynamics"]["produce"]["timestep_fs"] = -1
    with pytest.raises(ValueError, match="boundry") as caught:
        parse_config(data)
    assert str(caught.value).splitlines() == [
        "coulomb.boundry = 'slab' must be a known key: did you mean `boundary`?",
        "dynamics.produce.timestep_fs = -1 fs must be greater than 0 fs: give the time step in fs",
    ]


def test_numbers_in_exponent_form_are_numbers(tmp_path: Path) -> None:
    # YAML 1.1 reads 1e-5 as a word.
    path = tmp_path / "c.yaml"
    path.write_text("structure: {build: {}}\ndynamics: {}\ncoulomb: {accuracy: 1e-5}\n")
    assert load_config(path).coulomb.accuracy == 1e-5


def test_blocks_with_nothing_in_them_have_their_defaults_and_null_is_none(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(
        "structure: {build: }\nelectrodes: [{group: 0, potential: 0}, {group: 1, potential: 1, charge: }]\n"
        "thermo_potentiostat:\nfield:\ndynamics:\n  minimise:\n  produce: {steps: 1}\n"
    )
    config = load_config(path)
    assert config.dynamics.minimise is not None
    assert config.dynamics.minimise.steps == 200
    assert config.thermo_potentiostat is not None
    assert (config.field, config.electrodes[1].charge) == (None, None)
    path.write_text("structure: {build: {}}\ndynamics: {minimise: null, produce: {steps: 1}}\nfield: ~\n")
    assert load_config(path).dynamics.minimise is None


def test_merged_keys_are_read_and_overruled(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(
        "structure: {build: {}}\ndynamics:\n  equilibrate: &warm {steps: 5, temperature_K: 350}\n"
        "  produce:\n    <<: *warm\n    steps: 9\n"
    )
    produce = load_config(path).dynamics.produce
    assert produce is not None
    assert (produce.steps, produce.temperature_K) == (9, 350.0)


def test_a_structure_file_is_relative_to_the_configuration(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("structure: {file: cell.xyz}\ndynamics: {}\n")
    assert load_config(path).structure_path == tmp_path / "cell.xyz"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            "structure: {build: {}}\ndynamics: {}\ndynamics: {}\n",
            "dynamics = given in lines 2 and 3 must appear once: remove one of the two",
        ),
        (
            "structure: [1\ndynamics: {}\n",
            "config = PATH, line 2, column 9 must be YAML: expected ',' or ']', but got ':'; check the indentation, colons "
            "and quotes there",
        ),
        (
            "just words",
            "configuration = 'just words' must be a mapping of keys: start with `structure:` and `dynamics:` blocks",
        ),
        ("dynamics: {}\n", "structure = nothing must be given: add the key `structure`"),
        (
            "structure:\n  build:\n    gap: {{ gap }}\ndynamics: {}\n",
            "config = PATH, line 3, column 11 must be YAML: a key is a block or a list, as `{{ name }}` of a template that was "
            "not filled in; check the indentation, colons and quotes there",
        ),
        (
            "structure: {build: {}}\ndynamics:\n  produce: &a {steps: 1}\n  equilibrate:\n    <<: *a\n    <<: *a\n",
            "<< = given in lines 5 and 6 must appear once: remove one of the two",
        ),
    ],
    ids=["duplicate", "no-yaml", "no-mapping", "missing", "template", "merged-twice"],
)
def test_a_wrong_file_gets_one_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the whole message is compared
        load_config(path)
    assert str(caught.value) == sentence.replace("PATH", str(path))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        load_config(tmp_path / "none.yaml")
    assert (
        str(caught.value)
        == f"config = {tmp_path / 'none.yaml'} must be a file: give the path of a YAML configuration"
    )


def test_a_ramp_follows_straight_lines_and_holds_its_ends() -> None:
    ramp = Ramp((1.0, 2.0, 4.0), (0.0, 1.0, -1.0))
    assert [ramp.at(t) for t in (0.0, 1.5, 3.0, 9.0)] == [0.0, 0.5, 0.0, -1.0]


def test_held_potentials_mark_held_charges_with_nan() -> None:
    held = potentials_at([0.5, None, Ramp((0.0, 1.0), (0.0, 1.0))], 0.25)
    assert held[0] == 0.5
    assert held[1] != held[1]
    assert held[2] == 0.25


def test_a_voltammogram_turns_at_its_ends() -> None:
    assert voltammogram(0.0, 1.0, 0.5, cycles=2) == [
        (0.0, 0.0),
        (2.0, 1.0),
        (4.0, 0.0),
        (6.0, 1.0),
        (8.0, 0.0),
    ]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((0, 1, -1), "rate = -1 V/ps must be positive: the direction follows from low and high"),
        ((1, 1, 1), "high = 1 V must differ from low: a constant potential needs no sweep"),
        ((0, 1, 1, 0), "cycles = 0 must be at least 1: give the number of full triangles"),
    ],
)
def test_a_wrong_voltammogram_gets_one_sentence(arguments: tuple[Any, ...], sentence: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the whole message is compared
        voltammogram(*arguments)
    assert str(caught.value) == sentence

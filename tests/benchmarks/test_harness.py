"""The benchmarks' own arithmetic: turns, quartiles, child processes and the files that they write. Nothing is timed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """The benchmarks are scripts beside each other, no package."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))


class Clock:
    """Stands in for ``time``: only the actions that it makes let it go on."""

    def __init__(self) -> None:
        self.now = 0.0
        self.calls: list[str] = []

    def perf_counter(self) -> float:
        return self.now

    process_time = perf_counter

    def action(self, name: str, cost: float) -> Any:
        def act() -> None:
            self.calls.append(name)
            self.now += cost

        return act


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    import measure

    clock = Clock()
    monkeypatch.setattr(measure, "time", clock)
    return clock


@pytest.mark.parametrize("values", [[3.0], [1.0, 5.0], [1.0, 2.0, 9.0], [4.0, 4.0, 4.0, 4.0]])
def test_quartiles_stay_within_the_turns(values: list[float]) -> None:
    import measure

    low, middle, high = measure.three(values)
    assert min(values) <= low <= middle <= high <= max(values)


def test_candidates_take_turns_and_a_slow_one_fewer(clock: Clock) -> None:
    import measure

    candidates = {
        "base": clock.action("base", 0.01),
        "slow": clock.action("slow", 0.4),
        "worse": clock.action("worse", 9),
    }
    timings = measure.timed(candidates, turns=5, budget=1.0)
    assert [len(timing.wall) for timing in timings.values()] == [5, 2, 1]
    assert clock.calls[:5] == ["base", "base", "slow", "slow", "worse"]  # one warm call, a second one to guess the cost
    assert timings["slow"].wall == pytest.approx([0.4, 0.4]) and timings["worse"].cpu == pytest.approx([9.0])


def test_a_short_call_is_repeated_and_its_figure_is_of_one_call(clock: Clock) -> None:
    import measure

    timing = measure.timed({"base": clock.action("base", measure.SHORTEST / 4)}, turns=3, budget=1.0)["base"]
    assert timing.wall == pytest.approx([measure.SHORTEST / 4] * 3)
    assert len(clock.calls) == 2 + 3 * 4


def test_speed_is_of_the_same_turns() -> None:
    import measure

    ours, base = measure.Timing([1.0, 2.0], [1.0, 1.0]), measure.Timing([2.0, 8.0, 99.0], [1.0, 1.0, 1.0])
    found = measure.summary(ours, base)
    assert found["speed"] == [2.5, 3.0, 3.5] and found["wall_ms"][1] == 1500 and found["turns"] == 2


def test_a_child_answers_in_its_own_environment() -> None:
    from child import in_child

    assert in_child("os", "getenv", "QEXP_PROBE", QEXP_PROBE="there") == "there"


@pytest.mark.parametrize(
    ("function", "argument", "why"), [("_exit", 3, "ended with code 3"), ("listdir", "no such folder", "No such file")]
)
def test_a_child_that_fails_says_why(function: str, argument: Any, why: str) -> None:
    from child import in_child

    with pytest.raises(RuntimeError, match=why):
        in_child("os", function, argument)


def test_a_child_without_an_answer_is_given_up() -> None:
    from child import in_child

    with pytest.raises(RuntimeError, match="no answer within 1 s"):
        in_child("time", "sleep", 30, limit=1)


def cell(candidate: str, speed: float, rows: int = 64, **more: Any) -> dict[str, Any]:
    quartiles = {"wall_ms": [1.0, 2.0 / speed, 4.0], "cpu_ms": [1.0, 2.0, 3.0], "speed": [speed, speed, speed]}
    where = {"operation": "int32 product", "shape": (768, 768), "rows": rows, "threads": 1, "candidate": candidate}
    return {**where, **quartiles, "turns": 9, **more}


def test_every_row_of_the_figures_has_every_column() -> None:
    from int8_gemm import as_table

    table = as_table([cell("fp32", 1.0), cell("avx2, uniform", 1.4)])
    assert all(len(row) == len(table["columns"]) for row in table["rows"])
    assert table["rows"][1][table["columns"].index("speed, median")] == 1.4


def test_one_cell_below_the_goal_misses_it() -> None:
    from int8_gemm import slowest

    cells = [cell("avx2, uniform", speed, rows) for speed, rows in ((1.5, 64), (1.2, 1024), (1.6, 128))]
    result = slowest("product", cells, 1.35)
    assert not result.met and "1.20 x (avx2, uniform, 768x768, M 1024" in result.spread and "1 of 3" in result.spread
    assert slowest("product", cells, 1.2).met


def test_a_goal_over_a_peer_holds_for_every_number_of_threads() -> None:
    from int8_model import times_faster

    def candidate(*milliseconds: float) -> dict[str, Any]:
        runs = {str(count): {"wall_ms": [0, ms, 0], "turns": 7} for count, ms in enumerate(milliseconds, 1)}
        return {"threads": runs}

    result = times_faster("model", candidate(10.0, 6.0), candidate(20.0, 7.2), "fp32", 1.4)
    assert not result.met and result.figure.startswith("2.00 / 1.20 x")


def test_the_figures_are_json_with_short_lists_on_a_line() -> None:
    import run

    rows = {"rows": [["a", 1.5], ["b", 2.5]]}
    text = run.to_json({"figures": rows})
    assert json.loads(text) == {"figures": rows} and '"a", 1.5' in text


def test_a_benchmark_without_its_hardware_leaves_what_another_machine_measured(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import int8_gpu
    import run
    from measure import Report, Result

    measured = Report([Result("w", "f", "s", "b", "g", True)], "table", [{"m": 1}])
    monkeypatch.setattr(run, "MEASURED", tmp_path)
    for found in (Report([], "not measured"), measured, Report([], "not measured")):
        monkeypatch.setattr(int8_gpu, "measure", lambda found=found: found)
        run.measure("int8_gpu")
        kept, machine = run.kept("int8_gpu")
        assert kept == (measured if found is measured or kept.results else found)
    assert kept == measured and machine["date"]
    page = run.page({"int8_gpu": (kept, machine), "startup": (Report([]), machine)})
    assert "| w | b | f | s | g | met |" in page and page.endswith("table")
    assert page.count("Measured on") == 1 and page.count(": `int8_gpu`.") == 1


def test_a_misspelt_benchmark_is_told_before_anything_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    import run

    monkeypatch.setattr("sys.argv", ["run.py", "startup", "start"])
    with pytest.raises(SystemExit, match="2"):
        run.main()


def test_the_figures_beside_the_reference_tables_are_no_record(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from qexp.results.store import Store

    (tmp_path / "performance.json").write_text("{}")
    assert Store(tmp_path).query() == [] and not caplog.records


def test_a_peer_that_fails_is_a_line_of_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    import int8_gemm
    import peers

    def answer(module: str, function: str, name: str, **_: Any) -> dict[str, Any]:
        if name == "quanto":
            raise RuntimeError("ImportError: no such thing")
        return {"version": "1", "products": ["aten::mm (float32)"], "ones": 768.0, "conv1d": 0}

    monkeypatch.setattr(peers, "in_child", answer)
    peers._inspect_in.cache_clear()
    text = int8_gemm.executed_table(peers.inspect_all({}))
    assert "| quanto | did not run: ImportError: no such thing |" in text and "0 of 48" in text


def test_a_cpu_without_vnni_is_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from child import modes

    from qexp.runner import provenance

    monkeypatch.setattr(provenance, "isa", lambda: {"avx2": True, "amx": False})
    assert list(modes()) == ["this CPU as it is"]
    monkeypatch.setattr(provenance, "isa", lambda: {"avx2": True, "amx": True})
    assert list(modes()) == ["limited to AVX2", "this CPU as it is"]


def test_profiled_products_name_their_types() -> None:
    torch = pytest.importorskip("torch")
    from executed import products

    x = torch.ones(4, 8)
    assert products(lambda: torch.nn.functional.linear(x, x)) == {"aten::mm (float32)": 1}

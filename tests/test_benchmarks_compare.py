"""Comparing two result files: what counts as a move, what may be compared, and every kind of file that is read."""

import copy
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("matplotlib")

from benchmarks.compare.__main__ import main
from benchmarks.compare.judging import BAD, compare
from benchmarks.compare.reading import COMMITTED, Figure, Kind, find, read
from benchmarks.errors import Unusable
from benchmarks.harness import Summary

OPS, MODELS = "2026-11-26-cpu", "2026-11-26-camvid-cpu"
OPPOSITE = {"faster": "slower", "slower": "faster", "bigger": "smaller", "smaller": "bigger"}

values = st.floats(1.0, 1e6)
summaries = st.tuples(values, values, values).map(sorted).map(lambda v: Summary(v[1], v[0], v[2], 5))
figures = st.dictionaries(
    st.tuples(st.sampled_from("abcdef"), st.sampled_from("xy")),
    st.builds(Figure, st.sampled_from([k for k in Kind if k is not Kind.STOCK_TIME]), summaries),
)


# ---- What counts as a move -------------------------------------------------------------------------------------------


def one(kind, *values):
    return {("row", "measure"): Figure(kind, Summary(*values, 5))}


def verdicts(a, b, **options):
    return [change.verdict for change in compare(a, b, 0.2, times=True, **options).changes]


@pytest.mark.parametrize(
    ("kind", "verdict"),
    [
        (Kind.RATIO, "faster"),
        (Kind.COST, "slower"),
        (Kind.TIME, "slower"),
        (Kind.PEAK, "bigger"),
        (Kind.BYTES, "bigger"),
    ],
)
def test_more_is_better_of_ratios_to_stock_alone(kind, verdict):
    assert verdicts(one(kind, 2.0, 1.9, 2.1), one(kind, 3.0, 2.9, 3.1)) == [verdict]


def test_noise():
    before = one(Kind.RATIO, 2.0, 1.9, 2.1)
    assert verdicts(before, one(Kind.RATIO, 3.0, 2.05, 3.1)) == []  # quartiles overlap
    assert verdicts(before, one(Kind.RATIO, 2.3, 2.25, 2.35)) == []  # they do not, but it moved by a seventh
    assert verdicts(one(Kind.BYTES, 100, 100, 100), one(Kind.BYTES, 101, 101, 101)) == ["bigger"]
    assert verdicts(one(Kind.PEAK, 100, 100, 100), one(Kind.PEAK, 101, 101, 101)) == []


def test_bytes_that_come_or_go():
    nothing, some = one(Kind.BYTES, 0, 0, 0), one(Kind.BYTES, 8, 8, 8)
    assert verdicts(nothing, some) == ["bigger"]
    assert verdicts(some, nothing) == ["smaller"]
    assert verdicts(nothing, nothing) == []


@given(figures)
def test_nothing_moves_from_a_run_to_itself(a):
    found = compare(a, a, 0.0, times=True)
    assert (found.changes, found.only, found.unmoved) == ([], ([], []), len(a))


@given(figures, figures, st.floats(0.0, 1.0), st.booleans())
def test_the_other_way_round_all_is_reversed(a, b, share, times):
    b = {key: Figure(a[key].kind if key in a else figure.kind, figure.value) for key, figure in b.items()}
    there, back = compare(a, b, share, times=times), compare(b, a, share, times=times)
    assert {(c.what, c.measure, c.verdict) for c in there.changes} == {
        (c.what, c.measure, OPPOSITE[c.verdict]) for c in back.changes
    }
    assert there.only == back.only[::-1]
    assert there.unmoved == back.unmoved
    for change in there.changes:
        assert (change.gain < 1) == (change.verdict in BAD)
        assert times or change.kind is not Kind.TIME


def test_what_stock_took_tells_how_the_machine_moved():
    a, b = ({("row", str(n)): Figure(Kind.STOCK_TIME, Summary(v, v, v, 5)) for n, v in enumerate(vs)} for vs in (
        (1.0, 2.0, 3.0), (1.5, 3.0, 30.0)
    ))  # fmt: skip
    assert compare(a, b, 0.2, times=True).stock_moved == 1.5
    assert compare(a, b, 0.2, times=False).stock_moved is None


# ---- Files -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ops():
    return json.loads(find(OPS).read_text())


def written(folder, content):
    folder.mkdir()
    (folder / "results.json").write_text(json.dumps(content))
    return str(folder)


def test_a_committed_result_beside_itself(capsys):
    assert main([OPS, OPS]) == 0
    assert main([MODELS, str(COMMITTED / MODELS)]) == 0
    text = capsys.readouterr().out
    assert text.count("0 slower, 0 bigger, 0 faster, 0 smaller") == 2
    assert "DIFFERENT" not in text


def test_every_section_of_a_file_is_read(ops):
    names = {what.partition(":")[0] for what, _ in read(find(OPS))[1]}
    measured = {"throughput", "upsampling", "decoding", "scaling", "stream", "calls"}
    assert names == measured | {"switches", "saved", "footprint"}
    kinds = {figure.kind for figure in read(find(OPS))[1].values()}
    assert kinds == set(Kind)
    _, found = read(find(MODELS))
    costs = json.loads(find(MODELS).read_text())["networks"][0]["costs"]
    assert found["networks: FCN-32s, 0.125 wide, 4 crops of 224, segext", "kept"].value.median == costs[0]["kept"]
    assert {figure.kind for figure in found.values()} == set(Kind) - {Kind.COST}


def changed(ops):
    """The report with one op half as fast against stock, one switch a byte bigger, and one row gone."""
    content = copy.deepcopy(ops)
    row = content["throughput"][0]
    for name in ("median", "low", "high"):
        row["to_stock"][name] /= 2
        row["times"]["segext NCHW"][name] *= 2
    content["switches"][0]["packed"] += 1
    del content["calls"][0]
    return content


def test_moves_are_told_and_are_the_exit_status(ops, tmp_path, capsys):
    assert main([OPS, written(tmp_path / "b", changed(ops))]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert "2 slower, 1 bigger, 0 faster, 0 smaller" in "\n".join(lines)
    slower = [" ".join(line.split()) for line in lines if line.strip().startswith("slower")]
    pool = "throughput: pool, DeconvNet 224x224, pool1, 2x2/2, batch 4, float32, NCHW"
    assert {line.removeprefix(f"slower {pool} ").split()[0] for line in slower} == {"to_stock", "time"}
    (bigger,) = (" ".join(line.split()) for line in lines if line.strip().startswith("bigger"))
    assert bigger.startswith("bigger switches: DeconvNet 224x224 packed 382,592 B 382,593 B")
    assert "Only in A" in lines
    assert main([str(tmp_path / "b"), OPS]) == 0, "all of it got better"


def test_other_machines_are_named_and_times_left_out(ops, tmp_path, capsys):
    content = changed(ops)
    content["environment"] |= {"processor": "another", "threads": 7, "torch": "9.9"}
    assert main([OPS, written(tmp_path / "b", content)]) == 1
    text = capsys.readouterr().out
    for line in ("DIFFERENT processor: Intel(R) Xeon(R) Processor / another", "DIFFERENT threads: 2 / 7"):
        assert line in text
    assert "DIFFERENT torch: 2.13.0+cpu / 9.9" in text
    assert "times are not compared" in text
    assert "1 slower, 1 bigger" in text
    assert "Stock itself" not in text


def test_a_part_of_the_gpu_s_run_is_read_like_a_report(ops, tmp_path):
    """Its file holds the same sections below other keys; calls are told apart by their way."""
    calls = [{**{k: v for k, v in ops["calls"][0].items() if k not in ("compiled", "difference")}, "way": "graph"}]
    details = {"environment": {"device": "some GPU"}, "throughput": ops["throughput"], "calls": calls}
    path = tmp_path / "bench.json"
    path.write_text(json.dumps({"format": 1, "status": "passed", "details": details}))
    environment, found = read(find(str(tmp_path)))
    assert environment == {"device": "some GPU"}
    assert ("calls: pool, 1x64x16x32, not trains, graph", "ratio") in found


def test_files_that_cannot_be_compared(ops, tmp_path, capsys):
    other = tmp_path / "other.json"
    for text, message in (
        ("{", "is no result"),
        ("[]", "is no result"),
        (json.dumps({**ops, "format": 2}), "is of format 2"),
        (json.dumps({"format": 1, "environment": {}}), "have no figure in common"),
    ):
        other.write_text(text)
        assert main([OPS, str(other)]) == 2
        assert message in capsys.readouterr().err
    assert main([OPS, MODELS]) == 2
    assert "no figure in common" in capsys.readouterr().err
    with pytest.raises(Unusable, match=f"nowhere is no result file.*{OPS}"):
        find("nowhere")

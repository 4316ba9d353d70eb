"""The driver behind `make gpu`, rehearsed without a GPU: commands, limits, reports, and that it can fail."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks import contest, decoding, throughput, upsampling
from benchmarks.gpu import __main__ as driver
from benchmarks.gpu import cases, clocks, parts, profiling, sanitizing, targets, testing, timing
from benchmarks.gpu.parts import Job, Outcome, Part
from benchmarks.harness import CheckFailed, Summary
from benchmarks.networks import Network, Pool
from benchmarks.pooling import Op

ROOT = Path(__file__).resolve().parent.parent
REHEARSAL = ("--rehearse", "--device", "cpu")
KEYS = {"format", "part", "seconds", "date", "machine", "status", "summary", "details"}


def read(folder, part):
    return json.loads((folder / f"{part}.json").read_text())


def script(path, text):
    path.write_text(f"#!{sys.executable}\n{text}")
    path.chmod(0o755)
    return path


@pytest.fixture
def instead(monkeypatch):
    """Lets Python code stand for the processes of parts; those not named do nothing and pass."""

    def replace(**codes):
        passing = "from benchmarks.gpu.parts import *; Outcome('passed', 'fine', {}).write(Path(sys.argv[2]))"

        def command(part, job):
            code = f"import os, sys, time; sys.path.insert(0, {str(ROOT)!r}); {codes.get(part, passing)}"
            return [sys.executable, "-c", code, part, str(job.out / f"{part}.json")]

        monkeypatch.setattr(parts, "command", command)

    return replace


# ---- Commands and limits ---------------------------------------------------------------------------------------------


def test_the_command_of_a_part():
    command = parts.command("bench", Job(Path("folder"), 12.3))
    assert command[1:] == [
        *("-m", "benchmarks.gpu.work", "bench", "--out", "folder", "--seconds", "12", "--device", "cuda"),
    ]
    assert parts.command("test", Job(Path("folder"), 1, "cpu", True))[-3:] == ["--device", "cpu", "--rehearse"]


@pytest.mark.parametrize("part", ["test", "sanitize", "bench", "profile"])
def test_make_hands_its_variables_on(part):
    asked = [
        "make",
        "--dry-run",
        "--no-print-directory",
        "gpu",
        f"PART={part}",
        "OUT=some folder",
        "PYTHON=python9",
        "ARGS=--seconds 9",
    ]
    own = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}  # not of a make around it
    found = subprocess.run(asked, cwd=ROOT, env=own, capture_output=True, text=True, check=True).stdout
    assert found.splitlines()[-1] == f"python9 -m benchmarks.gpu {part} --out 'some folder' --seconds 9"
    assert "pip" not in found


def test_all_parts_fit_in_nine_minutes():
    assert sum(part.seconds for part in (parts.BUILD, *parts.PARTS)) <= 540 - 20


def test_unused_time_is_handed_on_and_the_total_kept(instead, tmp_path, monkeypatch):
    instead()
    given = []
    run = parts.run
    monkeypatch.setattr(parts, "run", lambda part, job: given.append((part, job.seconds)) or run(part, job))
    total = sum(part.seconds for part in parts.BY_NAME.values())
    assert driver.main([*REHEARSAL, "--out", str(tmp_path), "--seconds", f"{total}"]) == 0
    assert [part for part, _ in given] == ["build", "test", "sanitize", "bench", "profile"]
    assert given[0][1] == pytest.approx(parts.BUILD.seconds - parts.GRACE, abs=1)
    assert all(seconds > parts.BY_NAME[part].seconds for part, seconds in given[1:])
    assert all(seconds < total for _, seconds in given)


def test_what_takes_too_long_is_ended_with_its_children(instead, tmp_path, monkeypatch):
    """It leaves what it had written; its child, which would write later, is gone; the next part runs."""
    monkeypatch.setattr(parts, "GRACE", 1.0)
    late = tmp_path / "late"
    child = f"import time; time.sleep(4); open({str(late)!r}, 'w')"
    instead(
        test="from benchmarks.gpu.parts import *; Outcome('failed', 'half', {'rows': 3}).write(Path(sys.argv[2]));"
        f"subprocess.Popen([sys.executable, '-c', {child!r}]); time.sleep(60)"
    )
    began = time.monotonic()
    assert driver.main([*REHEARSAL, "--out", str(tmp_path), "--seconds", "6"]) == 1
    assert time.monotonic() - began < 20
    content = read(tmp_path, "test")
    assert (content["status"], content["details"]) == ("failed", {"rows": 3})
    assert content["summary"].startswith("ended after 1 s, so far: half")
    assert read(tmp_path, "bench")["status"] == "passed"
    time.sleep(max(0.0, began + 7 - time.monotonic()))
    assert not late.exists()


@pytest.mark.parametrize(
    "start",
    [
        pytest.param("parts.run_limited(*command)", id="as pytest"),
        pytest.param("ThreadPoolExecutor().submit(parts.run_limited, *command).result()", id="by a thread"),
    ],
)
def test_a_driver_that_is_ended_ends_its_part(start, tmp_path):
    """The part's process starts one of its own, as pytest and compute-sanitizer are: that is ended as well."""
    alive = tmp_path / "alive"
    endless = f"import time\nwhile True: open({str(alive)!r}, 'a').write('.'); time.sleep(0.1)"
    code = (
        "import sys; from concurrent.futures import ThreadPoolExecutor; from benchmarks.gpu import parts;"
        "parts.end_with_children(); command = ([sys.executable, '-c', sys.argv[1]], 60, None);"
        f"{start}"
    )
    outer = (
        "import sys; from benchmarks.gpu import parts; parts.end_with_children();"
        "parts.run_limited([sys.executable, '-c', *sys.argv[1:]], 60, None, patience=6)"
    )
    process = subprocess.Popen([sys.executable, "-c", outer, code, endless], cwd=ROOT)
    while not alive.exists():
        assert process.poll() is None
        time.sleep(0.1)
    process.terminate()
    assert process.wait(20) == 128 + signal.SIGTERM
    size = alive.stat().st_size
    time.sleep(0.5)
    assert alive.stat().st_size == size


# ---- Parts that fail or cannot run -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "summary"),
    [
        ("os.kill(os.getpid(), 11)", "ended by SIGSEGV"),
        ("print('a last word'); sys.exit(3)", "ended by status 3"),
        ("pass", "it left no result"),
        ("open(sys.argv[2], 'w').write('{')", "it left no result"),
    ],
)
def test_a_part_that_dies_fails_alone(code, summary, instead, tmp_path, capsys):
    instead(sanitize=code)
    Outcome("passed", "of an earlier run", {}).write(tmp_path / "sanitize.json")
    assert driver.main([*REHEARSAL, "--out", str(tmp_path)]) == 1
    assert {part: read(tmp_path, part)["status"] for part in parts.BY_NAME} == {
        **dict.fromkeys(("build", "test", "bench", "profile"), "passed"),
        "sanitize": "failed",
    }
    assert read(tmp_path, "sanitize")["summary"] == summary
    output = capsys.readouterr().out
    assert "last word" not in code or "  | a last word" in output


def test_nothing_runs_on_a_build_that_failed(instead, tmp_path):
    instead(build="sys.exit(1)")
    assert driver.main([*REHEARSAL, "--out", str(tmp_path)]) == 1
    for part in parts.PARTS:
        assert (read(tmp_path, part.name)["status"], read(tmp_path, part.name)["summary"]) == (
            "not run",
            "the build failed",
        )


def test_what_cannot_run_leaves_earlier_results(instead, tmp_path, capsys):
    instead()
    assert driver.main(["bench", *REHEARSAL, "--out", str(tmp_path)]) == 0
    before = (tmp_path / "bench.json").read_bytes()
    instead(build="sys.exit(1)")
    assert driver.main(["bench", *REHEARSAL, "--out", str(tmp_path)]) == 1
    assert (tmp_path / "bench.json").read_bytes() == before
    *_, row, _, _ = capsys.readouterr().out.splitlines()
    assert row.split()[:2] == ["bench", "passed"]
    assert "an earlier run" in row


def test_results_of_a_run_that_was_ended_are_in_the_table(instead, tmp_path, capsys):
    instead()
    Outcome("passed", "9 rows", {}).write(tmp_path / "bench.json")
    assert driver.main(["test", *REHEARSAL, "--out", str(tmp_path)]) == 0
    assert "9 rows (of a run that was ended)" in capsys.readouterr().out


def test_one_line_says_which_package_the_build_lacks(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(driver, "BUILD", Part("build", 1, ("torch", "no_such_package", "setuptools>=99999")))
    assert driver.main([*REHEARSAL, "--out", str(tmp_path / "out")]) == 2
    (line,) = capsys.readouterr().out.splitlines()
    assert line.endswith("lacks the Python packages no_such_package, setuptools>=99999")
    assert not (tmp_path / "out").exists()


def test_a_part_without_its_package_is_not_run(monkeypatch, instead, tmp_path):
    instead()
    lacking = Part("test", 1, ("no_such_package",))
    monkeypatch.setattr(driver, "PARTS", (lacking, *parts.PARTS[1:]))
    assert driver.main([*REHEARSAL, "--out", str(tmp_path)]) == 0
    assert read(tmp_path, "test")["summary"] == "missing Python package: no_such_package"
    assert read(tmp_path, "test")["status"] == "not run"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_one_line_says_that_there_is_no_gpu(tmp_path, capsys):
    assert driver.main(["--out", str(tmp_path / "out")]) == 2
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("make gpu: ")
    assert "sees no GPU" in line


def test_the_cpu_is_only_there_to_rehearse():
    with pytest.raises(SystemExit):
        driver.main(["--device", "cpu"])


# ---- Reports and restart ---------------------------------------------------------------------------------------------


def test_a_run_part_by_part_ends_with_one_table(instead, tmp_path, capsys):
    instead(
        bench="from benchmarks.gpu.parts import *; Outcome('passed', 'b', {'table': 'ROWS'}).write(Path(sys.argv[2]))"
    )
    assert driver.main(["bench", *REHEARSAL, "--out", str(tmp_path)]) == 0
    output = capsys.readouterr().out
    assert output.index("ROWS") < output.index("  build ")
    assert [line.split()[:3] for line in output.splitlines()[-6:-1]] == [
        ["build", "passed", "0"],
        ["test", "not", "run"],
        ["sanitize", "not", "run"],
        ["bench", "passed", "0"],
        ["profile", "not", "run"],
    ]
    before = (tmp_path / "bench.json").read_bytes()
    instead(test="sys.exit(1)")
    assert driver.main(["test", *REHEARSAL, "--out", str(tmp_path)]) == 1
    assert (tmp_path / "bench.json").read_bytes() == before
    rows = capsys.readouterr().out.splitlines()[-6:-1]
    assert "failed" in rows[1]
    assert "an earlier run" in rows[3]
    assert (tmp_path / "summary.txt").read_text().splitlines()[-5:] == rows


def test_all_parts_rehearsed(tmp_path, capsys, monkeypatch):
    """In earnest but for the GPU: every part's process, its JSON, text and picture, and the table at the end."""
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    assert driver.main([*REHEARSAL, "--out", str(tmp_path), "--seconds", "150"]) == 0
    output = capsys.readouterr().out
    for part in parts.BY_NAME:
        content = read(tmp_path, part)
        assert content.keys() == KEYS
        assert content["part"] == part
        assert content["status"] in parts.STATUSES
        assert {"device", "torch", "commit", "cores", "python"} <= content["machine"].keys()
        assert (tmp_path / f"{part}.txt").exists()
    assert read(tmp_path, "build")["status"] == "not run"
    assert read(tmp_path, "test")["details"]["counts"]["passed"] > 10

    bench = read(tmp_path, "bench")
    assert bench["status"] == "passed", bench["summary"]
    rows = bench["details"]["throughput"]
    assert {row["dtype"] for row in rows} == {"float32", "bfloat16", "float16"}
    assert {row["format"] for row in rows} == {"NCHW", "channels_last"}
    assert {row["suite"] for row in rows} == {"key", "deconvnet", "odd"}
    for row in rows:
        ours = row["times"][f"segext {row['format']}"]
        assert ours["low"] <= ours["median"] <= ours["high"]
        assert row["gigabytes_per_second"] == pytest.approx(row["bytes_moved"] / ours["median"])
        assert {"stock NCHW", "stock channels_last", "copy"} <= row["times"].keys()
    assert {row["way"] for row in bench["details"]["calls"]} == {"eager"}
    assert {row["op"] for row in bench["details"]["upsampling"]} >= {*targets.UPSAMPLED, *targets.FUSED}
    assert {row["op"] for row in bench["details"]["decoding"]} == {decoding.UNPOOLING, decoding.STRICT}
    assert bench["details"]["targets"]
    pytest.importorskip("matplotlib")
    assert (tmp_path / "bench.png").read_bytes().startswith(b"\x89PNG")

    profile = read(tmp_path, "profile")
    assert (profile["status"], profile["details"]["left_out"]) == ("passed", 0)
    assert "GB/s" in output
    assert output.index("GB/s") < output.index("  build ")


# ---- The part `test` -------------------------------------------------------------------------------------------------


def test_only_what_runs_on_a_gpu_is_chosen():
    files = [f"tests/test_{stem}.py" for stem in ("cuda", "errors", "nn")]
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-o", "addopts=", "-m", "cuda", *files]
    environment = {**os.environ, "SEGEXT_REQUIRE_CUDA": "1"}
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment, check=True)
    chosen = [line for line in found.stdout.splitlines() if "::" in line]
    assert len([line for line in chosen if "test_cuda.py" in line]) > 200
    assert any("[cuda" in line for line in chosen if "test_nn.py" in line)
    assert any("test_bad_indices_on_cuda" in line for line in chosen)
    assert not [line for line in chosen if "[cpu" in line or "test_every_op_has_its_call" in line]


TESTS = """
import pytest, time
def test_passes(): pass
def test_fails(): assert 1 == 2
def test_skips(): pytest.skip("for a reason")
@pytest.fixture
def broken(): raise OSError("no fixture")
def test_is_an_error(broken): pass
"""


def record_of(tmp_path, text, *, seconds=60):
    (tmp_path / "test_some.py").write_text(text)
    record = tmp_path / "record"
    command = [sys.executable, "-m", "pytest", "-p", "benchmarks.gpu.recording", "-c", os.devnull]
    command += ["--rootdir", str(tmp_path), str(tmp_path)]
    with open(tmp_path / "log", "w") as log:
        code = parts.run_limited(command, seconds, log, environment={"SEGEXT_TEST_RECORD": str(record)})
    return testing.judge([json.loads(line) for line in record.read_text().splitlines()], code)


def test_outcomes_of_tests_are_recorded(tmp_path):
    outcome = record_of(tmp_path, TESTS)
    assert outcome.status == "failed"
    assert outcome.summary.startswith("1 passed, 1 failed, 1 error, 1 skipped; first: ")
    assert [("assert 1 == 2" in bad["text"], "no fixture" in bad["text"]) for bad in outcome.details["bad"]] == [
        (True, False),
        (False, True),
    ]
    assert outcome.details["skipped"] == {"Skipped: for a reason": 1}


def test_a_module_that_cannot_be_imported_is_a_failure(tmp_path):
    outcome = record_of(tmp_path, "import no_such_module")
    assert outcome.status == "failed"
    assert "1 error" in outcome.summary


def test_tests_that_do_not_come_to_their_end_are_a_failure(tmp_path):
    outcome = record_of(tmp_path, "import time\ndef test_passes(): pass\ndef test_hangs(): time.sleep(60)", seconds=5)
    assert (outcome.status, outcome.summary) == ("failed", "ended before its end: 1 passed")


@pytest.mark.parametrize(
    ("records", "code", "status"),
    [
        ([{"test": "a", "outcome": "passed", "seconds": 1, "text": ""}], 0, "passed"),
        ([{"test": "a", "outcome": "passed", "seconds": 1, "text": ""}], 3, "failed"),
        ([{"test": "a", "outcome": "skipped", "seconds": 1, "text": "no GPU"}], 0, "failed"),
        ([], 5, "failed"),
    ],
)
def test_tests_pass_only_where_some_did(records, code, status):
    assert testing.judge(records, code).status == status


# ---- The part `sanitize` ---------------------------------------------------------------------------------------------

# A compute-sanitizer that finds the planted bug, and of the cases what `verdict` says.
SANITIZER = """
import subprocess, sys
options, command = sys.argv[1:9], sys.argv[9:]
assert options[0] == "--tool" and options[-1] == "kernel_substring=segext", options
if command[-1] == options[1]:
    sys.exit({planted})
code = {found} or subprocess.run(command).returncode
print("========= ERROR SUMMARY: {errors}")
sys.exit(code)
"""


def sanitize(tmp_path, monkeypatch, *, planted=99, errors="0 errors", found=0, seconds=120):
    tools = tmp_path / "tools"
    tools.mkdir()
    script(tools / "nvcc", "")
    script(tools / "compute-sanitizer", SANITIZER.format(planted=planted, errors=errors, found=found))
    monkeypatch.setenv("PATH", f"{tools}:/usr/bin:/bin")
    return sanitizing.run(Job(tmp_path, seconds, "cpu", True))


def test_a_clean_report_counts_after_the_planted_bug_was_found(tmp_path, monkeypatch):
    outcome = sanitize(tmp_path, monkeypatch)
    assert outcome.status == "passed"
    assert outcome.summary == "memcheck clean over 164 of 164 cases; racecheck clean over 120 of 120 cases"


def test_errors_found_are_a_failure(tmp_path, monkeypatch):
    outcome = sanitize(tmp_path, monkeypatch, errors="7 errors", found=99)
    assert (outcome.status, outcome.summary) == ("failed", "memcheck 7 errors; racecheck 7 errors")


def test_a_tool_that_sees_nothing_has_not_run(tmp_path, monkeypatch):
    outcome = sanitize(tmp_path, monkeypatch, planted=0)
    assert outcome.status == "not run"
    assert "planted bug" in outcome.summary


def test_cases_that_there_was_no_time_for_are_a_failure(tmp_path, monkeypatch):
    monkeypatch.setattr(sanitizing, "LOADING", 200.0)
    outcome = sanitize(tmp_path, monkeypatch)
    assert (outcome.status, outcome.summary) == (
        "failed",
        "memcheck clean over 0 of 164 cases; racecheck clean over 0 of 120 cases",
    )


def test_a_tool_that_does_not_come_to_its_end_is_a_failure(tmp_path, monkeypatch):
    outcome = sanitize(tmp_path, monkeypatch, seconds=0.2)
    assert outcome.status == "failed" or "planted" in outcome.summary


def test_without_the_tool_nothing_has_run(tmp_path, monkeypatch):
    monkeypatch.setattr(sanitizing.shutil, "which", lambda *_, **__: None)
    outcome = sanitizing.run(Job(tmp_path, 10, "cpu", True))
    assert (outcome.status, outcome.summary) == ("not run", "compute-sanitizer and nvcc not found")


def test_the_cases_tell_right_from_wrong():
    found = list(cases.all_cases())
    assert len({str(case) for case in found}) == len(found) == 164
    assert cases.differences(found[0], "cpu") == []

    def wrong(case, device):
        for op, result in cases.results(case, device):
            yield op, result.flip(-1) if op == "max_unpool2d by indices" else result

    assert cases.differences(found[0], "cpu", wrong) == ["max_unpool2d by indices"]


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        ([0.0, float("nan")], [0.0, -float("nan")], True),
        ([0.0], [-0.0], False),
        ([1.0], [float("nan")], False),
    ],
)
def test_results_are_compared_to_the_bit(a, b, same):
    assert cases.same(torch.tensor(a), torch.tensor(b)) is same


def test_losses_are_compared_within_rounding():
    x = torch.tensor([[1e-3, 1.0], [-200.0, 3.0]])
    assert cases.near(x, x)
    assert cases.near(x + 1e-4, x)
    assert not cases.near(x + 1e-2, x)
    assert not cases.near(x.where(x != 1, torch.nan), x)
    for other in (x.double(), x.mT, x[:, :1]):
        assert not cases.near(other, x)


# ---- The part `bench` ------------------------------------------------------------------------------------------------


def row_of(op="unpool", dtype="float32", format="NCHW", to_stock=2.5, to_copy=1.1, suite="key"):
    values = {"op": op, "suite": suite, "network": "n", "pool": "p", "batch": 64, "channels": 64, "height": 2}
    values |= {"width": 2, "window": "2x2/2", "dtype": dtype, "format": format, "bytes_moved": 3_000_000}
    summaries = {
        name: Summary(value, value, value, 5) for name, value in (("to_stock", to_stock), ("to_copy", to_copy))
    }
    time = Summary(1000.0, 900.0, 1100.0, 5)
    more = {
        "times": {f"segext {format}": time, "copy": time},
        "to_best": time,
        "best": "stock NCHW",
        "to_compiled": None,
    }
    return throughput.Row(**values, **summaries, **more)


def upsampled(op, dtype, to_copy, to_best):
    one, copy, best = (Summary(value, value, value, 5) for value in (1.0, to_copy, to_best))
    times = {"segext NCHW": Summary(1000.0, 900.0, 1100.0, 5)}
    return contest.Row(op, "21@4x4", dtype, "NCHW", 2_000_000, times, one, best, "stock NCHW", one, copy, "segext", {})


def test_targets_of_upsampling_on_the_gpu():
    rows = [
        upsampled(upsampling.UPSAMPLING[2], "float32", 1.2, 9.0),
        upsampled(upsampling.UPSAMPLING[2], "bfloat16", 1.3, 9.0),
        upsampled(upsampling.ARGMAX, "float32", 9.0, 5.5),
        upsampled(upsampling.LOSS[8], "float32", 9.0, 4.5),
        upsampled(upsampling.FULLY_CONNECTED, "float32", 9.0, 0.1),
    ]
    assert targets.gigabytes_per_second(rows[0]) == 2000
    found = {verdict.what: (verdict.met, verdict.measured) for verdict in targets.verdicts([], rows)}
    assert found == {
        "bilinear x2, of the copy bandwidth": (False, "76.92 %"),
        "upsample x8, crop, argmax, vs best stock": (True, "5.50x"),
        "upsample x8, crop, loss, backward, vs best stock": (False, "4.50x"),
    }


def test_targets_of_decoding_on_the_gpu():
    rows = [
        replace(upsampled(op, dtype, 1.0, to_best), map=f"{channels}@8x8")
        for op, dtype, channels, to_best in (
            (decoding.UNPOOLING, "bfloat16", 64, 1.5),
            (decoding.UNPOOLING, "bfloat16", 128, 1.0),
            (decoding.UNPOOLING, "bfloat16", 512, 1.0),
            (decoding.UNPOOLING, "float32", 64, 0.5),
            (decoding.STRICT, "float32", 64, 1.4),
            (decoding.STRICT, "float32", 512, 1.6),
        )
    ]
    found = {verdict.what: (verdict.met, verdict.measured) for verdict in targets.verdicts([], (), rows)}
    unpooling, strict = f"{decoding.UNPOOLING}, bfloat16", f"{decoding.STRICT}, float32"
    assert found == {
        f"{unpooling}, 64 channels, vs best stock": (True, "1.50x"),
        f"{unpooling}, 128 channels, vs best stock": (False, "1.00x"),
        f"{unpooling}, 256, 512 channels, vs best stock": (True, "1.00x"),
        f"{strict}, 64, 128, 256, 512 channels, vs best stock": (False, "1.40x"),
    }


def test_targets_of_the_gpu():
    assert targets.gigabytes_per_second(row_of()) == 3000
    assert targets.copy_percent(row_of(to_copy=1.25)) == 80
    rows = [
        row_of(),
        row_of(format="channels_last", to_stock=3.9),
        row_of(dtype="float16", to_copy=1.3),
        row_of("pool", "bfloat16", to_stock=1.69),
        row_of("pool", to_stock=1.31),
        row_of("pool", to_stock=0.1, suite="odd"),
    ]
    found = {verdict.what: (verdict.met, verdict.measured) for verdict in targets.verdicts(rows)}
    assert found == {
        "unpool, of the copy bandwidth": (False, "76.92 %"),
        "pool, of the copy bandwidth": (True, "90.91 %"),
        "pool float32, vs stock": (True, "1.31x"),
        "pool bfloat16, vs stock": (False, "1.69x"),
        "unpool NCHW, vs stock": (True, "2.50x"),
        "unpool channels_last, vs stock": (False, "3.90x"),
    }


def test_the_plan_holds_what_the_targets_name():
    works = timing.plan(False, 80_000_000_000)
    key = [work for work in works if work.key]
    assert {(work.batch, work.pool.channels, work.pool.height, work.pool.width) for work in key} == {(64, 64, 224, 224)}
    assert {work.dtype for work in key} == {"float32", "bfloat16", "float16"}
    assert {(work.batch, work.pool.name) for work in works if work.suite == "deconvnet"} == {
        (16, f"pool{n}") for n in (1, 3, 5)
    }
    assert {work.batch for work in timing.plan(False, 12_000_000_000) if work.key} == {16}


def test_a_wrong_result_fails_the_part_but_not_the_rest(monkeypatch, tmp_path):
    def wrong(subject):
        raise CheckFailed("maxima differ from stock's")

    pool, *others = timing.FRESH
    broken = Op("pool", pool.calls, wrong)
    network = Network("small", (Pool("stem", 4, 8, 8),))
    works = [throughput.Work(network, network.pools[0], 1, "float32", (broken, others[0]), "deconvnet")]
    monkeypatch.setattr(timing, "plan", lambda *_: works)
    monkeypatch.setattr(timing, "call_rows", lambda *_: (1 / 0 for _ in "x"))
    for other in ("upsampling_rows", "decoding_rows"):
        monkeypatch.setattr(timing, other, lambda *_: ())
    outcome = timing.run(Job(tmp_path, 1, "cpu", True))
    assert outcome.status == "failed"
    assert "2 failures, first: CheckFailed: pool, small stem, batch 1, float32 NCHW: maxima" in outcome.summary
    assert outcome.details["failures"][1].startswith("calls: ZeroDivisionError")
    assert {row["op"] for row in outcome.details["throughput"]} == {"relu+pool"}


class Device:
    """Stands for torch's CUDA in a clock: logs what is asked of it; each record is a millisecond after the last.

    It reaches an event before the host is done with a call if it has idled for fewer than ``needed`` cycles.
    """

    def __init__(self, needed=0):
        self.log = []
        self.now = 0.0
        self.needed = needed

    def ones(self, count, **_):
        self.log.append(("buffer", 4 * count))
        return self

    def amax(self):
        self.log.append("flush")

    def _sleep(self, cycles):
        self.log.append("sleep")
        self.idled = cycles

    def event(self, **_):
        return DeviceEvent(self)


class DeviceEvent:
    def __init__(self, device):
        self.device = device

    def record(self):
        self.device.log.append("record")
        self.device.now += 1
        self.at = self.device.now

    def query(self):
        return self.device.idled < self.device.needed

    def synchronize(self):
        self.device.log.append("wait")

    def elapsed_time(self, end):
        return end.at - self.at


def cold_clock(monkeypatch, device):
    monkeypatch.setattr(clocks.torch, "ones", device.ones)
    monkeypatch.setattr(clocks.torch.cuda, "_sleep", device._sleep)
    monkeypatch.setattr(clocks.torch.cuda, "Event", device.event)
    return clocks.ColdClock(50_000_000)


ONE_COLD_CALL = ["flush", "sleep", "record", "call", "record", "wait"]


def test_the_cold_clock_flushes_before_it_starts(monkeypatch):
    device = Device()
    assert cold_clock(monkeypatch, device)(lambda: device.log.append("call"), 2) == 1e6
    assert device.log[0] == ("buffer", 200_000_000)
    assert device.log[1:] == ONE_COLD_CALL * 2


@pytest.mark.parametrize(("needed", "attempts"), [(1, 1), (2, 2), (3, 3), (4, 3), (1000, 3)])
def test_the_cold_clock_gives_a_slow_host_more_time(monkeypatch, needed, attempts):
    """The idle time doubles; a call for which the device always waits is timed once more than it is lengthened."""
    device = Device(needed * clocks.SLEEP_CYCLES)
    assert cold_clock(monkeypatch, device)(lambda: device.log.append("call"), 1) == 1e6
    assert device.log[1:] == ONE_COLD_CALL * attempts
    assert device.idled == clocks.SLEEP_CYCLES << (attempts - 1)


# ---- The part `profile` ----------------------------------------------------------------------------------------------

TRACE = [
    {"cat": "cpu_op", "name": "segext::max_pool2d", "dur": 9},
    {"cat": "kernel", "name": "pool_kernel", "dur": 5.5, "args": {"grid": [2, 1, 1], "registers per thread": 32}},
    {"cat": "gpu_memset", "name": "Memset", "dur": 1},
    {"ph": "M", "name": "process_name"},
]


def test_a_trace_is_read():
    launches = list(profiling._read(TRACE, torch.device("cuda")))
    assert [(launch.name, launch.microseconds, launch.registers) for launch in launches] == [
        ("pool_kernel", 5.5, 32),
        ("Memset", 1.0, 0),
    ]
    assert [launch.name for launch in profiling._read(TRACE, torch.device("cpu"))] == ["segext::max_pool2d"]


@pytest.mark.parametrize(
    ("own", "stock", "left_out", "status"),
    [(1, 3, 0, "passed"), (2, 3, 0, "failed"), (0, 3, 0, "failed"), (1, 3, 1, "failed"), (0, 0, 0, "not run")],
)
def test_one_launch_a_call(own, stock, left_out, status):
    launch = profiling.Launch("kernel", 1.0, [1, 1, 1], [128, 1, 1], 32)
    rows = [
        profiling.Row("pool", "(1, 2, 4, 4)", "float32", "NCHW", whose, [launch] * count)
        for whose, count in (("segext", own), ("stock", stock))
    ]
    assert profiling.judge(rows, left_out).status == status


def test_a_status_is_one_of_three():
    with pytest.raises(ValueError, match="skipped"):
        Outcome("skipped", "", {})

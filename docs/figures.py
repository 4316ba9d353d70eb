"""Generates every figure quoted in README and docs from the committed results.

A page marks a block with ``<!-- figures: NAME -->`` and ``<!-- end of figures -->``; its content is generated here.
``python -m docs.figures`` rewrites all blocks and draws the picture. To quote a new result, name its folder below.
The tests fail if a page is out of date or if a figure appears outside a block.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cache, partial
from pathlib import Path

from benchmarks import decoding, upsampling
from benchmarks.tables import times

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
PICTURES = ROOT / "docs" / "pictures"

OPS = "2026-11-27-epyc-cpu"  # from `make bench`
PROCESSORS = {  # from `make bench` on several processors
    "EPYC, AVX-512": OPS,
    "EPYC, AVX2": "2026-11-27-epyc-avx2-cpu",
    "Xeon, AVX-512": "2026-11-26-cpu",
}
NETWORKS = "2026-11-27-camvid-cpu"  # from `python -m benchmarks models`
GPU = "2026-11-27-h200-strips"  # from `make gpu`; it ended before it had measured what follows
GPU_CALLS = GPU_MEMORY = "2026-11-27-h200"  # likewise

FORMATS = ("NCHW", "channels_last")
VERSUS = [f"speedup vs stock, {form}" for form in FORMATS]  # column headings

BLOCK = re.compile(r"(<!-- figures: (\S+) -->\n)(.*?)(<!-- end of figures -->)", re.DOTALL)

# How the pages name the ops of the results.
NAMES = {
    "pool": "max-pool",
    "relu+pool": "ReLU, max-pool",
    "pool backward": "max-pool, backward",
    "unpool": "unpool",
    "unpool backward": "unpool, backward",
    "pool backward out=": "max-pool, backward, `out=`",
    "unpool out=": "unpool, `out=`",
    decoding.UNPOOLING: "unpool, 3×3 transposed convolution",
    decoding.UNPOOLING_TRAINS: "unpool, 3×3 transposed convolution, with backward",
    **{op: f"upsampling ×{scale}" for scale, op in upsampling.UPSAMPLING.items()},
    upsampling.ADD: "upsampling ×2, crop, sum",
    **{op: f"upsampling ×{scale}, with backward" for scale, op in upsampling.UPSAMPLING_TRAINS.items()},
    upsampling.ARGMAX: "upsampling ×8, crop, label map",
    upsampling.LOSS[8]: "upsampling ×8, crop, loss, with backward",
}


def is_gpu(folder: str) -> bool:
    return folder in (GPU, GPU_CALLS, GPU_MEMORY)


@cache
def results(folder: str) -> dict:
    path = ROOT / "benchmarks" / "results" / folder
    if is_gpu(folder):
        return json.loads((path / "bench.json").read_text())["details"]
    return json.loads((path / "results.json").read_text())


# --- Reading results --------------------------------------------------------------------------------------------------


def key_rows(dtype: str, folder: str = OPS) -> dict[str, dict[str, dict]]:
    """The rows of DeconvNet's largest map, by op and memory format."""
    return by_format(row for row in results(folder)["throughput"] if row["suite"] == "key" and row["dtype"] == dtype)


def contest(op: str, dtype: str = "float32", folder: str = OPS) -> dict[str, dict]:
    """The rows of the first map that ``op`` (upsampling or decoding) was run on, by memory format."""
    rows = [r for r in contests(folder) if (r["op"], r["dtype"]) == (op, dtype)]
    return by_format(row for row in rows if row["map"] == rows[0]["map"])[op]


def contests(folder: str = OPS) -> list[dict]:
    return results(folder)["upsampling"] + results(folder)["decoding"]


def by_format(rows: Iterable[dict]) -> dict[str, dict[str, dict]]:
    found: dict[str, dict[str, dict]] = {}
    for row in rows:
        found.setdefault(row["op"], {})[row["format"]] = row
    return found


def worst(formats: dict[str, dict]) -> float:
    """The speedup of segext in its slower format over stock in its fastest variant, whatever the format."""
    return min(row["to_best"]["median"] for row in formats.values())


def meets_compiled(row: dict) -> bool:
    """Whether compiled stock was timed in this row."""
    return any(way.startswith("compiled") for way in row["times"])


def versus_best(formats: dict[str, dict]) -> str:
    """``worst``, and whether it is over eager stock alone."""
    return marked(worst(formats)) + ("" if all(map(meets_compiled, formats.values())) else " (eager)")


# --- Writing Markdown -------------------------------------------------------------------------------------------------


def table(head: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> str:
    """A Markdown table whose first ``left`` columns are text and whose other columns are numbers."""
    rule = ["---"] * left + ["--:"] * (len(head) - left)
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, rule, *rows])


def source(folder: str, page: Path, brief: bool) -> str:
    """Where the figures come from: the report and, unless ``brief``, the machine and the versions."""
    up = "../" * (len(page.relative_to(ROOT).parts) - 1)
    name = "summary.txt" if is_gpu(folder) else "report.txt"
    report = f"From [{folder}]({up}benchmarks/results/{folder}/{name})"
    if brief:
        return f"{report}."
    e = results(folder)["environment"]
    if is_gpu(folder):
        cuda = f"torch {e['torch']}, CUDA {e['cuda']}, cuDNN {e['cudnn']}, driver {e['driver']}"
        return f"{report}: {e['device']}, {cuda}, segext at {e['commit']}."
    machine = f"{e['processor'].replace('(R)', '')}, {e['threads']} threads"
    options = f", with `{e['options']}`" if e.get("options") else ""
    return f"{report}: {machine}, torch {e['torch']}, segext {e['segext']} at {e['commit']}{options}."


def factor(value: float) -> str:
    return times(value).replace("x", "×")


def marked(value: float) -> str:
    """A factor, with an asterisk if it is below 1, that is, if stock is faster."""
    return factor(value) + "\\*" * (value < 1)


def megabytes(count: int) -> str:
    return f"{count / 1e6:,.1f} MB" if count < 99.5e6 else f"{count / 1e6:,.0f} MB"


# --- Blocks -----------------------------------------------------------------------------------------------------------


def gains() -> str:
    keyed = key_rows("float32")
    rows = [("4 × 64@224x224", NAMES[op], keyed[op]) for op in ("pool", "relu+pool", "pool backward", "unpool")]
    for op in (
        decoding.UNPOOLING,
        decoding.UNPOOLING_TRAINS,
        upsampling.ARGMAX,
        upsampling.LOSS[8],
        upsampling.UPSAMPLING[2],
        upsampling.UPSAMPLING_TRAINS[8],
    ):
        formats = contest(op)
        rows.append((formats["NCHW"]["map"], NAMES[op], formats))
    return table(
        ["operation", "map", *VERSUS, "vs best stock"],
        [
            [name, map, *(marked(formats[f]["to_stock"]["median"]) for f in FORMATS), versus_best(formats)]
            for map, name, formats in rows
        ],
        left=2,
    )


def switches() -> str:
    return table(
        ["network", "int64 indices (stock)", "segext"],
        [[row["network"], f"{row['int64']:,}", f"{row['packed']:,}"] for row in results(OPS)["switches"]],
    )


def kept() -> str:
    return table(
        ["part", "execution", "stock", "`MaxPool2d`", "`ReLUMaxPool2d`"],
        [
            [r["stack"], "compiled" if r["compiled"] else "eager"]
            + [f"{r[kind]:,}" for kind in ("stock", "pool", "relu_pool")]
            for r in results(OPS)["saved"]
        ],
        left=2,
    )


def types() -> str:
    rows = []
    for dtype in ("float32", "bfloat16"):
        for op, formats in key_rows(dtype).items():
            if not op.endswith("out="):
                ratios = [formats[f]["to_stock"]["median"] for f in FORMATS]
                rows.append([NAMES[op], dtype, *map(marked, ratios), versus_best(formats)])
    return table(["op", "type", *VERSUS, "vs best stock"], rows, left=2)


def processors() -> str:
    keyed = ("pool", "relu+pool", "pool backward", "unpool", "unpool backward")
    others = (decoding.UNPOOLING, upsampling.ARGMAX, upsampling.LOSS[8], upsampling.UPSAMPLING[8])
    rows = []
    for dtype in ("float32", "bfloat16"):
        for op in keyed + others:
            formats = (
                key_rows(dtype, folder)[op] if op in keyed else contest(op, dtype, folder)
                for folder in PROCESSORS.values()
            )
            rows.append([NAMES[op], dtype, *map(versus_best, formats)])
    return table(["op", "type", *PROCESSORS], rows, left=2)


def fresh_pages() -> str:
    rows = []
    for dtype in ("float32", "bfloat16"):
        keyed = key_rows(dtype)
        for op in ("pool backward", "unpool"):
            copies = [keyed[name][f]["to_copy"]["median"] for f in FORMATS for name in (op, f"{op} out=")]
            rows.append([NAMES[op], dtype, *map(factor, copies)])
    head = ["op", "type", "NCHW, fresh", "NCHW, `out=`", "channels_last, fresh", "channels_last, `out=`"]
    return table(head, rows, left=2)


def calls(folder: str = OPS) -> str:
    rows = [
        [
            NAMES[row["op"]],
            " × ".join(map(str, row["shape"])),
            "forward, backward" if row["trains"] else "inference",
            row["way"] if is_gpu(folder) else "compiled" if row["compiled"] else "eager",
            *(f"{row[whose]['median'] / 1e3:.1f} µs" for whose in ("segext", "stock")),
            marked(row["ratio"]["median"]),
        ]
        for row in results(folder)["calls"]
    ]
    return table(["op", "map", "mode", "execution", "segext", "stock", "speedup vs stock"], rows, left=4)


def prepacked() -> str:
    once = contest(decoding.PREPACKED)
    map = once["NCHW"]["map"]
    rows = [r for r in contests() if (r["op"], r["dtype"], r["map"]) == (decoding.UNPOOLING, "float32", map)]
    each = by_format(rows)[decoding.UNPOOLING]
    ratios = [[form, *(factor(way[form]["to_best"]["median"]) for way in (each, once))] for form in FORMATS]
    return table([map, "packed in every call", "packed once"], ratios)


def new_sizes() -> str:
    rows = [
        [NAMES.get(row["op"], row["op"]), *(factor(row[whose]["median"]) for whose in ("stock", "segext", "to_stock"))]
        for row in results(OPS)["stream"]
    ]
    return table(["operation", "stock, first / second", "segext, first / second", "first run vs stock"], rows)


def stock_wins(folder: str = OPS) -> str:
    rows = [(f"{r['network']} {r['pool']}, batch {r['batch']}", r) for r in results(folder)["throughput"]]
    rows += [(r["map"], r) for r in contests(folder)]
    lost = [(f"{NAMES.get(r['op'], r['op'])}, {where}", r) for where, r in rows if r["to_best"]["median"] < 1]
    compiled = sum(meets_compiled(row) for _, row in rows)
    count = f"{len(lost)} of {len(rows)} rows; stock was compiled in {compiled} of these, eager in all."
    return (
        count
        if not lost
        else f"{count}\n\n"
        + table(
            ["operation", "type", "format", "best stock", "speedup vs best stock"],
            [[what, row["dtype"], row["format"], row["best"], factor(row["to_best"]["median"])] for what, row in lost],
            left=4,
        )
    )


def upsampling_memory() -> str:
    rows = []
    for op in (upsampling.ARGMAX, upsampling.LOSS[8]):
        for form, row in contest(op).items():
            peaks = row["peaks"]
            stock = min(value for way, value in peaks.items() if not way.startswith("segext"))
            rows.append([NAMES[op], row["map"], form, *(megabytes(n) for n in (stock, peaks[f"segext {form}"]))])
    return table(["operation", "map", "format", "stock, lowest", "segext"], rows, left=3)


def footprint() -> str:
    """Whole networks at their published width: the largest batch counted for each size."""
    found: dict[tuple[str, str], dict[str, dict]] = {}
    for row in sorted(results(OPS)["footprint"], key=lambda row: row["batch"]):
        size = f"{row['batch']} × {row['height']}×{row['width']}"
        found.setdefault((row["network"], size), {})[row["layers"]] = row
    batch = max(row["batch"] for row in results(OPS)["footprint"])
    rows = []
    for (network, size), layers in sorted(found.items(), key=lambda item: item[0][1]):
        if not size.startswith(f"{batch} ") or network not in ("FCN-8s", "DeconvNet", "SegNet"):
            continue
        stock, own = layers["stock"], layers["segext"]
        least = layers.get("segext, recomputing")
        rows.append(
            [
                network,
                size,
                megabytes(stock["kept"]),
                f"{megabytes(own['kept'])} ({factor(own['kept'] / stock['kept'])})",
                f"{megabytes(least['kept'])} ({factor(least['kept'] / stock['kept'])})" if least else "",
                megabytes(stock["switches"]),
                megabytes(own["switches"]),
            ]
        )
    head = ["network", "images", "kept, stock", "segext", "segext, recomputing", "switches, stock", "switches, segext"]
    return table(head, rows, left=2)


def networks() -> str:
    rows = []
    for network in results(NETWORKS)["networks"]:
        costs = {cost["way"]: cost for cost in network["costs"]}
        for way, cost in costs.items():
            if way.startswith("segext"):
                rows.append(
                    [
                        network["network"] + ", recomputing" * (way != "segext"),
                        megabytes(costs["stock"]["kept"]),
                        megabytes(cost["kept"]),
                        factor(cost["kept"] / costs["stock"]["kept"]),
                        marked(cost["step_to_stock"]["median"]),
                        marked(cost["image_to_stock"]["median"]),
                    ]
                )
    head = ["network", "kept, stock", "kept, segext", "share", "step vs stock", "prediction vs stock"]
    return table(head, rows)


# On the GPU, at batch 16 except for the pools.
GPU_CONTESTS = (
    *upsampling.UPSAMPLING.values(),
    upsampling.ADD,
    upsampling.ARGMAX,
    upsampling.LOSS[8],
    decoding.UNPOOLING,
    decoding.STRICT,
)


def gpu_rows(dtypes: Sequence[str] = ("float32", "bfloat16")) -> Iterator[tuple[str, str, str, dict[str, dict]]]:
    """Op, map, type and rows by memory format: the largest map of the pools, then every map of the others."""
    for dtype in dtypes:
        for op, formats in key_rows(dtype, GPU).items():
            row = formats["NCHW"]
            yield op, f"{row['batch']} × {row['channels']}@{row['height']}x{row['width']}", dtype, formats
    for op in GPU_CONTESTS:
        found: dict[tuple[str, str], dict[str, dict]] = {}
        for row in contests(GPU):
            if row["op"] == op and row["dtype"] in dtypes:
                found.setdefault((row["map"], row["dtype"]), {})[row["format"]] = row
        for (map, dtype), formats in found.items():
            yield op, map, dtype, formats


def gpu_firsts() -> dict[tuple[str, str], tuple[str, dict[str, dict]]]:
    """By op and type, the first map that it was run on and its rows by memory format."""
    first: dict[tuple[str, str], tuple[str, dict[str, dict]]] = {}
    for op, map, dtype, formats in gpu_rows():
        if op in NAMES:
            first.setdefault((op, dtype), (map, formats))
    return first


def gpu_gains() -> str:
    return table(
        ["operation", "map", "type", *VERSUS, "vs best stock"],
        [
            [NAMES[op], map, dtype, *(marked(f[form]["to_stock"]["median"]) for form in FORMATS), versus_best(f)]
            for (op, dtype), (map, f) in gpu_firsts().items()
        ],
        left=3,
    )


def gpu_highlights() -> str:
    """The ops that matter most, and the one that gains least."""
    dtypes = ("float32", "bfloat16")
    firsts = gpu_firsts()
    rows = []
    for op in (
        "pool",
        "pool backward",
        "unpool",
        upsampling.UPSAMPLING[8],
        upsampling.ARGMAX,
        upsampling.LOSS[8],
        decoding.UNPOOLING,
    ):
        row = [NAMES[op], firsts[op, "float32"][0]]
        for dtype in dtypes:
            _, formats = firsts[op, dtype]
            row += [marked(formats["NCHW"]["to_stock"]["median"]), versus_best(formats)]
        rows.append(row)
    heads = (f"{dtype} vs {rival}" for dtype in dtypes for rival in ("stock, NCHW", "best stock"))
    return table(["operation", "map", *heads], rows, left=2)


def gpu_bandwidth() -> str:
    rows = []
    for op, map, dtype, formats in gpu_rows():
        if all(row["to_copy"] for row in formats.values()) and not op.startswith(decoding.UNPOOLING):
            shares = (f"{100 / formats[form]['to_copy']['median']:.0f} %" for form in FORMATS)
            microseconds = (f"{formats[form]['times'][f'segext {form}']['median'] / 1e3:,.0f}" for form in FORMATS)
            rows.append([NAMES.get(op, op), map, dtype, *shares, *microseconds])
    head = ["op", "map", "type", "NCHW", "channels_last", "µs, NCHW", "µs, channels_last"]
    return table(head, rows, left=3)


def gpu_decoding() -> str:
    rows = []
    for op, map, dtype, formats in gpu_rows():
        if op.startswith(decoding.UNPOOLING):
            ratios = (marked(formats[form]["to_best"]["median"]) for form in FORMATS)
            rows.append([map, dtype + ", no TF32" * (op == decoding.STRICT), *ratios, formats["NCHW"]["best"]])
    head = ["map", "type", "NCHW", "channels_last", "best stock"]
    return table(head, rows, left=2)


def gpu_memory() -> str:
    rows = []
    for row in results(GPU_MEMORY)["memory"]:
        own = row["bytes"].get("relu_pool", row["bytes"].get("segext"))
        rows.append([row["what"], row["format"], megabytes(row["bytes"]["stock"]), megabytes(own)])
    return table(["peak of", "format", "stock", "segext"], rows, left=2)


def versus(what: str) -> str:
    """The name of a target, as reports older than today's wording have it too."""
    return what.replace(", to stock's best way", ", vs best stock").replace(", to stock", ", vs stock")


def gpu_targets() -> str:
    rows = [
        [versus(r["what"]), r["target"], r["measured"], "" if r["met_by"] == r["count"] else "missed"]
        for r in results(GPU)["targets"]
    ]
    return table(["what", "target", "worst measured", ""], rows)


# The function that generates each block, and the folders it quotes.
BLOCKS: dict[str, tuple] = {
    "gains": (gains, OPS),
    "switches": (switches, OPS),
    "kept": (kept, OPS),
    "types": (types, OPS),
    "processors": (processors, *PROCESSORS.values()),
    "fresh-pages": (fresh_pages, OPS),
    "calls": (calls, OPS),
    "prepacked": (prepacked, OPS),
    "new-sizes": (new_sizes, OPS),
    "stock-wins": (stock_wins, OPS),
    "upsampling-memory": (upsampling_memory, OPS),
    "footprint": (footprint, OPS),
    "networks": (networks, NETWORKS),
    "gpu-gains": (gpu_gains, GPU),
    "gpu-highlights": (gpu_highlights, GPU),
    "gpu-bandwidth": (gpu_bandwidth, GPU),
    "gpu-decoding": (gpu_decoding, GPU),
    "gpu-calls": (partial(calls, GPU_CALLS), GPU_CALLS),
    "gpu-memory": (gpu_memory, GPU_MEMORY),
    "gpu-targets": (gpu_targets, GPU),
    "gpu-stock-wins": (partial(stock_wins, GPU), GPU),
}


def refreshed(page: Path) -> str:
    """The text of a page with its blocks regenerated."""
    told = set()

    def fill(match: re.Match) -> str:
        opening, name, _, closing = match.groups()
        block, *folders = BLOCKS[name]
        origins = "\\\n".join(source(folder, page, brief=folder in told) for folder in folders)
        told.update(folders)
        return f"{opening}\n{block()}\n\n{origins}\n\n{closing}"

    return BLOCK.sub(fill, page.read_text())


# --- The picture ------------------------------------------------------------------------------------------------------

WIDTH, LABEL, ROW, BAR = 560, 20, 50, 14
COLOURS = {
    "light": {"ink": "#1f2933", "muted": "#5b6770", "track": "#d9dee2", "bar": "#0b7285"},
    "dark": {"ink": "#e6e9ec", "muted": "#9aa7b0", "track": "#3a434b", "bar": "#4fb3c8"},
}


def shares() -> Iterator[tuple[str, float, str]]:
    """Rows of the picture: name, segext's share of stock's bytes or time, and the text at the end of the row."""
    by_network = {row["network"]: row for row in results(OPS)["switches"]}
    deconvnet = by_network["DeconvNet 224x224"]
    saved = next(row for row in results(OPS)["saved"] if row["stack"].endswith("five pools") and not row["compiled"])
    for what, stock, own in (
        ("Memory for switches, DeconvNet", deconvnet["int64"], deconvnet["packed"]),
        ("Memory kept for backward, DeconvNet's pools with ReLU", saved["stock"], saved["relu_pool"]),
    ):
        yield what, own / stock, f"{megabytes(stock)} → {megabytes(own)}"
    keyed = key_rows("float32")
    for what, formats in (
        ("Time of a 2×2 max-pool", keyed["pool"]),
        ("Time of unpooling", keyed["unpool"]),
        ("Time of unpooling with a 3×3 transposed convolution", contest(decoding.UNPOOLING)),
        ("Time from coarse scores to label map, ×8", contest(upsampling.ARGMAX)),
        ("Time from coarse scores to loss gradient, ×8", contest(upsampling.LOSS[8])),
    ):
        yield what, 1 / worst(formats), f"{factor(worst(formats))} as fast"


def picture(theme: str) -> str:
    """The full-width grey track is stock, the bar on it segext. The title describes the picture for screen readers."""
    colour = COLOURS[theme]
    rows = list(shares())
    height = len(rows) * ROW + LABEL + 14
    words = "; ".join(f"{what}: {end}" for what, _, end in rows)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        f'role="img" aria-labelledby="title" font-family="system-ui, sans-serif" font-size="14">',
        f'<title id="title">segext compared with stock PyTorch on a CPU. {words}.</title>',
        f'<rect x="0" y="3" width="12" height="12" rx="2" fill="{colour["track"]}"/>',
        f'<text x="18" y="14" fill="{colour["muted"]}">best stock</text>',
        f'<rect x="180" y="3" width="12" height="12" rx="2" fill="{colour["bar"]}"/>',
        f'<text x="198" y="14" fill="{colour["muted"]}">segext</text>',
    ]
    for n, (what, share, end) in enumerate(rows):
        y = LABEL + 12 + n * ROW
        bar = f'y="{y + 20}" height="{BAR}" rx="3"'
        parts += [
            f'<text x="0" y="{y + 13}" fill="{colour["ink"]}">{what}</text>',
            f'<text x="{WIDTH}" y="{y + 13}" fill="{colour["ink"]}" font-weight="600" text-anchor="end">{end}</text>',
            f'<rect x="0" width="{WIDTH}" {bar} fill="{colour["track"]}"/>',
            f'<rect x="0" width="{WIDTH * min(share, 1):.0f}" {bar} fill="{colour["bar"]}"/>',
        ]
    return "\n".join([*parts, "</svg>", ""])


def main() -> None:
    for page in PAGES:
        page.write_text(refreshed(page))
    PICTURES.mkdir(exist_ok=True)
    for theme in COLOURS:
        (PICTURES / f"gains-{theme}.svg").write_text(picture(theme))


if __name__ == "__main__":
    main()

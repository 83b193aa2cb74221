"""RESULTS.md from what lies in results/: `python -m bench.report`. A part that has not run is left out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench import checkpoint_report, machine, ways_report
from bench.scenes import NO_GPU
from bench.tables import met, table
from bench.text_to_image import GOAL, PEER, PROMPT, SCENES, TWIN
from noisette.files import atomic_write

PAGE = Path(__file__).parent / "RESULTS.md"
NOTES = PAGE.parent / "results" / "notes.md"
OURS = "noisette"
PARTS = ("quality", "throughput", "scenes", "text_to_image", "choices", "startup")


def main() -> None:
    lines = ["# noisette beside its peers", ""]
    lines += [
        "Written by `make bench` from the numbers in `bench/results/`; ratios first, goals beside them.",
        "",
    ]
    lines += [*_summary(), *_quality(), *_throughput(), *_scenes(), *_text_to_image()]
    lines += [*ways_report.sections(), *checkpoint_report.sections(), *_choices(), *_startup(), *_machines()]
    if NOTES.exists():  # what the numbers do not say, written by whoever ran them
        lines += ["", NOTES.read_text(encoding="utf-8")]
    with atomic_write(PAGE) as path:
        path.write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")
    print(PAGE)


def _summary() -> Iterator[str]:
    rows: list[tuple[str, str, str, str]] = []
    if quality := machine.read("quality"):
        rows += _quality_ratios(quality)
    if throughput := machine.read("throughput"):
        rows += _throughput_ratios(throughput)
    if startup := machine.read("startup"):
        for line in ("import noisette", "from noisette import load"):
            over = startup["imports"][line]["over_torch"]
            told = f"{over:+.2f} s"
            rows.append((f"`{line}` over `import torch`", told, "at most 0.3 s", met(over <= 0.3)))
        cold = startup["cold"][OURS]["median"]
        rows.append(("cold `noisette sample`, process start to PNG", f"{cold:.1f} s", "", ""))
    if scenes := machine.read("scenes"):
        rows += _scene_rates(scenes)
    if drawn := machine.read("text_to_image"):
        rows += _text_to_image_ratios(drawn)
    rows += checkpoint_report.ratios()
    yield from table(("measured", "value", "goal", "met"), rows)


def _quality_ratios(quality: dict[str, Any]) -> Iterator[tuple[str, str, str, str]]:
    for small, words in ((False, "each by its own recipe"), (True, "peers at our size")):
        ours = _best(quality, lambda run: run["name"] == OURS)
        peer = _best(quality, lambda run, small=small: run["name"] != OURS and run["small"] == small)
        if ours and peer:
            ratio = ours[0] / peer[0]
            told = f"{ratio:.2f} ({ours[0]:.2f} : {peer[0]:.2f}, {peer[1]})"
            goal = ("", "") if small else ("at most 0.5", met(ratio <= 0.5))
            minutes = f"{ours[2]['minutes']:g} minutes"
            yield (f"Frechet distance over the best peer's, {minutes}, {words}", told, *goal)


def _best(quality: dict[str, Any], chosen: Any) -> tuple[float, str, dict[str, Any]] | None:
    """The smallest distance among the chosen runs and all ways in which they drew."""
    found = [
        (drawn["frechet"], run["name"], run)
        for run in quality["runs"].values()
        if chosen(run)
        for drawn in run["drawn"].values()
    ]
    return min(found, key=lambda item: item[0], default=None)


def _throughput_ratios(throughput: dict[str, Any]) -> Iterator[tuple[str, str, str, str]]:
    words = {"own": "own networks of equal size"}
    for group, rows in throughput["groups"].items():
        peers = [row for row in rows if not row["name"].startswith(OURS)]
        ours = next(row for row in rows if row["name"] == OURS)
        for task, verb in (("train", "training"), ("sample", "sampling")):
            key = f"{task}_images_per_second"
            fastest = max(peers, key=lambda row: row[key])
            ratio = ours[key] / fastest[key]
            goal = ("at least 1.2", met(ratio >= 1.2)) if group == "own" else ("", "")
            told = f"{ratio:.2f} ({fastest['name']})"
            yield (
                f"{verb} images/s over the fastest peer's, {words.get(group, group + ' in every loop')}",
                told,
                *goal,
            )


def _scene_rates(scenes: dict[str, Any]) -> Iterator[tuple[str, str, str, str]]:
    words = f"pictures of scenes a second, {scenes['size']} px with all maps"
    many = scenes["many"]
    rate, ratio = many["pictures_per_second"], many["over_one"]
    told = f"{rate:.0f} ({rate / 150:.2f} of the goal, {ratio:.1f} times one process)"
    yield f"{words}, {scenes['processes']} processes", told, "at least 150", met(rate >= 150)
    if gpu := scenes["gpu"]:
        rate = gpu["whole"]["pictures_per_second"]
        yield f"{words}, {gpu['name']}", f"{rate:,.0f}", "at least 10,000", met(rate >= 10_000)
    else:
        yield f"{words}, GPU", NO_GPU, "at least 10,000", ""
    size, largest = list(scenes["sizes"].items())[-1]
    yield f"time per pixel of a scene at {size} px over 64 px", f"{largest['over_smallest']:.2f}", "", ""


def _text_to_image_ratios(drawn: dict[str, Any]) -> Iterator[tuple[str, str, str, str]]:
    ours, theirs = (drawn["cold"][name]["median"] for name in (SCENES, PEER))
    cold = f"cold `noisette generate`, process start to PNG of {drawn['size']} px"
    yield cold, f"{ours:.1f} s ({PEER} {theirs:.1f} s)", f"at most {GOAL:g} s", met(ours <= GOAL)
    for row in drawn["rows"]:
        rates = [row["entrants"][name]["images_per_second"] for name in (TWIN, PEER)]
        words = f"images/s from sentences over {PEER}', {row['precision']}, batch {row['batch']}"
        yield words, f"{row['ratio']:.2f} ({rates[0]:.2f} : {rates[1]:.2f})", "", ""


def _quality() -> Iterator[str]:
    quality = machine.read("quality")
    if quality is None:
        return
    yield from ("## What the same minutes are worth", "")
    yield (
        f"{quality['count']:,} drawn digits against {quality['count']:,} real test digits, features of the "
        f"judge; smaller is better. Real training digits score {quality['floor']['frechet']:.2f}. The best "
        "row of each library counts above."
    )
    yield ""
    rows = []
    for run in quality["runs"].values():
        for kind, drawn in run["drawn"].items():
            asked = f"{100 * drawn['read_as_asked']:.1f} %" if "read_as_asked" in drawn else ""
            rows.append(
                (
                    run["name"] + (", network at our size" if run["small"] else ""),
                    kind,
                    f"{run['parameters'] / 1e6:.2f} M",
                    str(run["batch_size"]),
                    f"{run['updates']:,}",
                    f"{run['seconds'] / 60:.1f}",
                    f"{drawn['frechet']:.2f}",
                    f"{drawn['kid']:.4f}",
                    f"{drawn['precision']:.2f}",
                    f"{drawn['recall']:.2f}",
                    asked,
                )
            )
    heads = (
        "library",
        "drawn",
        "size",
        "batch",
        "updates",
        "minutes",
        "Frechet",
        "KID",
        "precision",
        "recall",
    )
    yield from table((*heads, "read as asked"), sorted(rows, key=lambda row: float(row[6])))
    yield from (_NOTES, "")


_NOTES = (
    "Peers run by the settings of their own examples. We differ only where these could only hurt them here: "
    "no mirrored digits, no sampling or measuring while they train, one channel, and few-step samplers of "
    "their own (50 steps of DDIM, 20 with gam 1.6, 20 of DPM-Solver++) where 1,000 steps would take days "
    "on these cores. Where a network is scaled to our size, its other settings stay, but that "
    "smalldiffusion's batch of 1,024 becomes 128. smalldiffusion draws 28x28, as in its examples, padded to "
    "32x32 like the real digits. noisette is class-conditional and asked for labels as frequent as the real "
    "ones; the others draw without labels. torchvision, which the peers import, is declared without its "
    "compiled operators where it has none for this torch; only its transforms are used."
)


def _throughput() -> Iterator[str]:
    throughput = machine.read("throughput")
    if throughput is None:
        return
    yield from ("## Images a second", "")
    yield (
        f"MNIST 32x32, batch {throughput['batch']}, float32 but where bf16 is named, each library's own "
        f"training loop with its data loading and averaging; sampling {throughput['drawn']} images in "
        f"{throughput['steps']} steps, one network call a step. Medians of {throughput['repeats']} "
        "turns that alternate between the libraries in one process."
    )
    yield ""
    for group, rows in throughput["groups"].items():
        head = "Own networks of equal size" if group == "own" else f"{group.capitalize()} in every loop"
        yield from (f"### {head}", "")
        yield from table(
            ("library", "parameters", "training images/s", "sampling images/s"),
            [
                (
                    row["name"],
                    f"{row['parameters']:,}",
                    f"{row['train_images_per_second']:.1f}",
                    f"{row['sample_images_per_second']:.1f}",
                )
                for row in rows
            ],
        )


def _scenes() -> Iterator[str]:
    scenes = machine.read("scenes")
    if scenes is None:
        return
    yield from ("## Scenes a second", "")
    yield (
        f"Scenes of `sample_scene` at {scenes['size']} px with shadows and {scenes['samples']} samples per "
        "pixel: picture, depth, normals, ids, keypoints, cameras, and every control map but where these are "
        f"left out. {scenes['pictures']} pictures per process and turn, one thread per process; medians of "
        f"{scenes['repeats']} turns that alternate."
    )
    yield ""
    names = {"render": "one process, no control maps", "one": "one process"}
    names["many"] = f"{scenes['processes']} processes"
    rows = [(words, f"{scenes[name]['pictures_per_second']:.1f}") for name, words in names.items()]
    gpu = scenes["gpu"]
    rows += [
        (
            f"{gpu['name'] if gpu else 'GPU'}{words}",
            f"{gpu[name]['pictures_per_second']:,.0f}" if gpu else NO_GPU,
        )
        for name, words in (("render", ", no control maps"), ("whole", ""))
    ]
    yield from table(("what draws", "pictures/s"), rows)
    yield f"The same {scenes['compared']} scenes at growing sizes, with all maps, one process:"
    yield ""
    rows = [
        (f"{size} px", f"{row['ns_per_pixel']:,.0f} ns", f"{row['over_smallest']:.2f}")
        for size, row in scenes["sizes"].items()
    ]
    yield from table(("size", "time per pixel", "over the smallest"), rows)


def _text_to_image() -> Iterator[str]:
    drawn = machine.read("text_to_image")
    if drawn is None:
        return
    yield from ("## Pictures from sentences", "")
    size, steps, scale = drawn["size"], drawn["steps"], drawn["guidance_scale"]
    yield (
        f"{size} px in {steps} steps of DPM-Solver++ with guidance {scale:g}, one call of the network a step "
        f"on both halves; {TWIN} and {PEER} (its StableDiffusionPipeline) with networks of equal shape and "
        "random weights, the nearest to `scenes` that both can build: an autoencoder that folds no pixels, "
        "no pooled vector. Below them noisette with the shape of `scenes` itself. Medians of "
        f"{drawn['repeats']} turns that alternate between them in one process; text encoder, decoder and all "
        "else that a batch needs once are beside the network."
    )
    yield ""
    rows = [
        (
            name,
            row["precision"],
            str(row["batch"]),
            f"{took['images_per_second']:.2f}",
            f"{took['ms_per_call']:.1f} ms",
            f"{took['beside_network_ms']:.0f} ms",
        )
        for row in drawn["rows"]
        for name, took in row["entrants"].items()
    ]
    yield from table(("library", "precision", "batch", "images/s", "network call", "beside it"), rows)
    sizes = [(name, *(f"{parts[k]:,}" for k in _PARTS)) for name, parts in drawn["parameters"].items()]
    yield from table(("parameters", *_PARTS), sizes)
    yield f"From the start of a process to a PNG of `{PROMPT}`, weights read from a local folder:"
    yield ""
    rows = [(name, f"{row['median']:.2f} s") for name, row in drawn["cold"].items()]
    yield from table(("fresh process", "median"), rows)


def _choices() -> Iterator[str]:
    choices = machine.read("choices")
    if choices is None:
        return
    yield from ("## The first minutes of `scenes`, and of what it might have been", "")
    yield (
        "Loss of the averaged weights on scenes that training never shows, after equal time on the same "
        "data; the recipe is the first line, each other differs from it in what its name says. Trainings "
        "run at once, with an equal share of the cores; in their time their rates climb and fall to nothing."
    )
    yield ""
    rows = [
        (
            row["name"],
            row["optimizer"],
            f"{row['lr']:g}",
            f"{row['parameters'] / 1e6:.1f} M",
            f"{row['images_per_second']:.0f}",
            f"{row['loss']:.3f}",
        )
        for row in choices["rows"]
    ]
    loss = f"loss after {choices['seconds'] / 60:.0f} min"
    yield from table(("recipe", "optimizer", "lr", "parameters", "images/s", loss), rows)


_PARTS = ("text", "network", "encoder", "decoder")


def _startup() -> Iterator[str]:
    startup = machine.read("startup")
    if startup is None:
        return
    yield from ("## Before anything happens", "")
    rows = [
        (f"`{name}`", f"{row['median']:.2f} s", f"{row['over_torch']:+.2f} s")
        for name, row in startup["imports"].items()
    ]
    rows += [
        (f"{startup['digits']} digits in {startup['steps']} steps, {name}", f"{row['median']:.2f} s", "")
        for name, row in startup["cold"].items()
    ]
    yield from table(("fresh process", "median", "over torch"), rows)
    yield from ("`import noisette` alone puts off torch until something is used.", "")


def _machines() -> Iterator[str]:
    yield from ("## Where", "")
    for name in (*PARTS, *ways_report.PARTS, *checkpoint_report.PARTS):
        result = machine.read(name) or {}
        found = [run["machine"] for run in result.get("runs", {}).values()] or [result.get("machine")]
        for facts in {_where(facts): facts for facts in found if facts}:
            yield f"- {name}: {facts}"
    versions: dict[str, str] = {}
    for name in ("text_to_image", "throughput", "startup"):  # the last of them has the last word
        versions |= (machine.read(name) or {"machine": {"versions": {}}})["machine"]["versions"]
    if versions:
        yield from ("", ", ".join(f"{name} {version}" for name, version in versions.items()) + ".")


def _where(facts: dict[str, Any]) -> str:
    return (
        f"{facts['processor']}, {facts['cores_used']} of {facts['cores']} cores, {facts['threads']} threads, "
        f"Python {facts['python']}, {facts['date'][:10]}, load {facts['load']:g} at the start"
    )


if __name__ == "__main__":
    main()

